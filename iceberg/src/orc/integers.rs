//! [`Integers`]: numbers in runs (specification: Integer Run Length Encoding, version 1; version 2 is in
//! [`packed`](super::packed)).
use super::OrcError;
use super::packed;
use super::stream::{Stream, signed};

/// Runs of version 1 are of at least so many numbers.
const RUN_MIN: i64 = 3;

/// Which of the two ways there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Runs {
    /// Of the encodings DIRECT and DICTIONARY.
    One,
    /// Of the encodings DIRECT_V2 and DICTIONARY_V2.
    Two,
}

/// The numbers of a stream, one after another. Unsigned ones beyond `i64::MAX` come out negative.
pub(super) struct Integers<'a> {
    stream: Stream<'a>,
    runs: Runs,
    signed: bool,
    /// The run that is being read: at most 512 numbers.
    run: Vec<i64>,
    at: usize,
}

impl<'a> Integers<'a> {
    pub fn new(stream: Stream<'a>, runs: Runs, signed: bool) -> Self {
        Self { stream, runs, signed, run: Vec::new(), at: 0 }
    }

    pub fn next(&mut self) -> Result<i64, OrcError> {
        while self.at == self.run.len() {
            self.run.clear();
            self.at = 0;
            match self.runs {
                Runs::One => self.simple_run()?,
                Runs::Two => packed::run(&mut self.stream, self.signed, &mut self.run)?,
            }
        }
        self.at += 1;
        Ok(self.run[self.at - 1])
    }

    fn simple_run(&mut self) -> Result<(), OrcError> {
        let control = self.stream.byte()? as i8;
        if control < 0 {
            for _ in 0..control.unsigned_abs() {
                let number = number(&mut self.stream, self.signed)?;
                self.run.push(number);
            }
            return Ok(());
        }
        let step = i64::from(self.stream.byte()? as i8);
        let first = number(&mut self.stream, self.signed)?;
        let numbers = 0..i64::from(control) + RUN_MIN;
        self.run.extend(numbers.map(|n| first.wrapping_add(n.wrapping_mul(step))));
        Ok(())
    }
}

/// A number of variable length.
pub(super) fn number(stream: &mut Stream<'_>, is_signed: bool) -> Result<i64, OrcError> {
    let number = stream.varint()?;
    Ok(if is_signed { signed(number) } else { number as i64 })
}

#[cfg(test)]
mod tests {
    use super::super::codec::Codec;
    use super::super::stream::Layout;
    use super::super::tests::runs::{packed_runs, simple_runs};
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8], runs: Runs, signed: bool, count: usize) -> Result<Vec<i64>, OrcError> {
        let stream = Stream::new(bytes, Layout { codec: Codec::None, chunk: 1 });
        let mut integers = Integers::new(stream, runs, signed);
        let all = (0..count).map(|_| integers.next()).collect();
        assert!(integers.next().is_err(), "there are no more");
        all
    }

    /// The examples that the specification gives.
    #[test]
    fn the_examples_of_the_specification() {
        for (bytes, numbers) in [
            (&[0x61, 0x00, 0x07][..], vec![7; 100]),
            (&[0x61, 0xff, 0x64], (1..=100).rev().collect()),
            (&[0xfb, 0x02, 0x03, 0x06, 0x07, 0x0b], vec![2, 3, 6, 7, 11]),
        ] {
            assert_eq!(read(bytes, Runs::One, false, numbers.len()).unwrap(), numbers);
        }
        let mut patched: Vec<i64> = (2000..=2190).step_by(10).collect();
        (patched[0], patched[1], patched[2], patched[3]) = (2030, 2000, 2020, 1_000_000);
        let patched_bytes = [
            0x8e, 0x13, 0x2b, 0x21, 0x07, 0xd0, 0x1e, 0x00, 0x14, 0x70, 0x28, 0x32, 0x3c, 0x46, 0x50, 0x5a,
            0x64, 0x6e, 0x78, 0x82, 0x8c, 0x96, 0xa0, 0xaa, 0xb4, 0xbe, 0xfc, 0xe8,
        ];
        for (bytes, numbers) in [
            (&[0x0a, 0x27, 0x10][..], vec![10_000; 5]),
            (
                &[0x5e, 0x03, 0x5c, 0xa1, 0xab, 0x1e, 0xde, 0xad, 0xbe, 0xef],
                vec![23_713, 43_806, 57_005, 48_879],
            ),
            (&patched_bytes, patched),
            (&[0xc6, 0x09, 0x02, 0x02, 0x22, 0x42, 0x42, 0x46], vec![2, 3, 5, 7, 11, 13, 17, 19, 23, 29]),
        ] {
            assert_eq!(read(bytes, Runs::Two, false, numbers.len()).unwrap(), numbers);
            for cut in 0..bytes.len() {
                let stream = Stream::new(&bytes[..cut], Layout { codec: Codec::None, chunk: 1 });
                assert!(Integers::new(stream, Runs::Two, false).next().is_err());
            }
        }
    }

    fn numbers() -> impl Strategy<Value = Vec<i64>> {
        let part = prop_oneof![
            proptest::collection::vec(any::<i64>(), 1..40),
            proptest::collection::vec(0..1000_i64, 1..600),
            proptest::collection::vec(-3..3_i64, 1..600),
            (any::<i64>(), -300..300_i64, 1..1200_i64).prop_map(|(from, step, n)| (0..n)
                .map(|k| from.wrapping_add(k.wrapping_mul(step)))
                .collect::<Vec<_>>()),
            (0..100_000_i64, proptest::collection::vec(0..90_i64, 1..600), any::<bool>()).prop_map(
                |(from, steps, down)| {
                    let sum = |at: &mut i64, step: i64| {
                        *at += if down { -step } else { step };
                        Some(*at)
                    };
                    steps.into_iter().scan(from, sum).collect::<Vec<_>>()
                }
            ),
            // Small ones, and a few that are not.
            proptest::collection::vec(prop_oneof![20 => 0..100_i64, 1 => 0..1_i64 << 40], 1..600),
            (any::<i64>(), 1..1500_usize).prop_map(|(same, n)| vec![same; n]),
        ];
        proptest::collection::vec(part, 1..5).prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn runs_of_version_1_come_back(numbers in numbers(), signed: bool) {
            let bytes = simple_runs(&numbers, signed);
            prop_assert_eq!(read(&bytes, Runs::One, signed, numbers.len()).unwrap(), numbers);
        }

        #[test]
        fn runs_of_version_2_come_back(numbers in numbers(), signed: bool, ways: u64) {
            let bytes = packed_runs(&numbers, signed, ways);
            prop_assert_eq!(read(&bytes, Runs::Two, signed, numbers.len()).unwrap(), numbers);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>, signed: bool) {
            for runs in [Runs::One, Runs::Two] {
                let stream = Stream::new(&bytes, Layout { codec: Codec::None, chunk: 1 });
                let mut integers = Integers::new(stream, runs, signed);
                // No run has more than 512 numbers.
                let count = (0..512 * (bytes.len() + 1)).map_while(|_| integers.next().ok()).count();
                prop_assert!(count <= 512 * bytes.len());
            }
        }
    }
}
