//! [`References`]: the parts of a file's content that stand in the tar streams of other layers (or
//! earlier in the same one), so that they need not be sent again.
//!
//! They are physical: a range of a layer's stream, whatever entry it belongs to there. Whoever resolves
//! one reads these bytes and nothing else; references never lead to references.
use super::number::{self, Bad};
use super::{LayerError, tar};
use std::collections::HashSet;
use uuid::Uuid;

/// The most references of one file: bounds memory and the extended header that holds them.
pub const REFERENCES_MAX: usize = tar::EXTENTS_MAX;

/// A range of a file whose bytes are a range of a layer's tar stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference {
    /// Where it begins in the file.
    pub at: u64,
    /// Its length in bytes; not 0.
    pub length: u64,
    /// The layer that has it.
    pub layer: Uuid,
    /// Where it begins in the tar stream of that layer.
    pub from: u64,
}

impl Reference {
    /// Where it ends in the file.
    pub fn end(&self) -> u64 {
        self.at + self.length
    }
}

/// The references of one file, in the order of the file, apart from each other and from its data.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct References(Vec<Reference>);

impl References {
    /// A file all of whose bytes stand in its own entry.
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// Joins what is adjacent in file and layer. `None` if they are out of order, overlap, are empty or
    /// end beyond `size`, or if there are too many.
    pub fn new(parts: impl IntoIterator<Item = Reference>, size: u64) -> Option<Self> {
        let mut joined: Vec<Reference> = Vec::new();
        for next in parts {
            let end = next.at.checked_add(next.length)?;
            next.from.checked_add(next.length)?;
            if next.length == 0 || end > size {
                return None;
            }
            match joined.last_mut() {
                Some(last) if last.end() > next.at => return None,
                Some(last)
                    if last.end() == next.at
                        && last.layer == next.layer
                        && last.from + last.length == next.from =>
                {
                    last.length += next.length;
                }
                _ => joined.push(next),
            }
        }
        (joined.len() <= REFERENCES_MAX).then_some(Self(joined))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, in the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, Reference> {
        self.0.iter()
    }

    /// How many bytes of the file they give.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|part| part.length).sum()
    }

    /// The bytes that stand for them in contents and (in hex) in headers: the layers, then the parts.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut layers: Vec<(Uuid, u64)> = Vec::new();
        let (mut parts, mut end) = (Vec::new(), 0);
        for part in &self.0 {
            let source = match layers.iter().position(|(layer, _)| *layer == part.layer) {
                Some(source) => source,
                None => {
                    layers.push((part.layer, 0));
                    layers.len() - 1
                }
            };
            number::put(&mut parts, part.at - end);
            number::put(&mut parts, part.length);
            number::put(&mut parts, source as u64);
            let next = &mut layers[source].1;
            number::put(&mut parts, number::zigzag(part.from.wrapping_sub(*next) as i64));
            *next = part.from + part.length;
            end = part.end();
        }
        let mut out = Vec::with_capacity(parts.len() + 16 * layers.len() + 4);
        number::put(&mut out, layers.len() as u64);
        for (layer, _) in &layers {
            out.extend_from_slice(layer.as_bytes());
        }
        number::put(&mut out, self.0.len() as u64);
        out.extend_from_slice(&parts);
        out
    }

    /// Reads them back for a file of `size` bytes; takes nothing but the one form that
    /// [`encode`](Self::encode) gives, and allocates no more than the bytes can hold.
    pub(super) fn decode(mut bytes: &[u8], size: u64) -> Result<Self, LayerError> {
        let take = |bytes: &mut &[u8]| {
            number::take(bytes).map_err(|e| match e {
                Bad::Short => wrong("they end too soon"),
                Bad::Malformed => wrong("malformed number"),
            })
        };
        let count = take(&mut bytes)?;
        let mut layers: Vec<(Uuid, u64)> = Vec::new();
        let mut apart = HashSet::new();
        for _ in 0..count {
            let (layer, rest) = bytes.split_first_chunk().ok_or_else(|| wrong("they end too soon"))?;
            bytes = rest;
            let layer = Uuid::from_bytes(*layer);
            if !apart.insert(layer) {
                return Err(wrong("a layer is listed twice"));
            }
            layers.push((layer, 0));
        }
        let count = take(&mut bytes)?;
        if count == 0 || count > REFERENCES_MAX as u64 {
            return Err(wrong("there are none, or too many"));
        }
        let (mut parts, mut end, mut met) = (Vec::new(), 0u64, 0);
        for _ in 0..count {
            let outside = || wrong("a part lies outside");
            let at = end.checked_add(take(&mut bytes)?).ok_or_else(outside)?;
            let length = take(&mut bytes)?;
            let source = usize::try_from(take(&mut bytes)?).map_err(|_| outside())?;
            let distance = number::unzigzag(take(&mut bytes)?);
            if source > met {
                return Err(wrong("layers are not in the order of their use"));
            }
            met = met.max(source + 1);
            let (layer, next) = layers.get_mut(source).ok_or_else(outside)?;
            let from = next.checked_add_signed(distance).ok_or_else(outside)?;
            *next = from.checked_add(length).ok_or_else(outside)?;
            end = at.checked_add(length).filter(|end| *end <= size).ok_or_else(outside)?;
            parts.push(Reference { at, length, layer: *layer, from });
        }
        if met != layers.len() || !bytes.is_empty() {
            return Err(wrong("there is more than they use"));
        }
        let count = parts.len();
        Self::new(parts, size)
            .filter(|joined| joined.0.len() == count)
            .ok_or_else(|| wrong("parts that join"))
    }
}

fn wrong(what: &str) -> LayerError {
    LayerError::corrupt(format!("references of a file do not hold: {what}"))
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: Uuid = Uuid::from_bytes([0xAA; 16]);
    const B: Uuid = Uuid::from_bytes([0xBB; 16]);

    fn part(at: u64, length: u64, layer: Uuid, from: u64) -> Reference {
        Reference { at, length, layer, from }
    }

    #[test]
    fn references_are_these_bytes() {
        let parts =
            [part(0, 300, A, 512), part(300, 1, B, 1024), part(400, 100, A, 812), part(500, 2, A, 100)];
        let refs = References::new(parts, 502).expect("they hold");
        let expected: &[&[u8]] = &[
            &[2],
            &[0xAA; 16],
            &[0xBB; 16],
            &[4],
            &[0, 0xAC, 2, 0, 0x80, 8], // 300 bytes from 512 of the first layer
            &[0, 1, 1, 0x80, 16],      // 1 byte from 1024 of the second
            &[99, 100, 0, 0],          // 99 bytes further on, where the first left off
            &[0, 2, 0, 0xD7, 0x0C],    // backwards
        ];
        assert_eq!(refs.encode(), expected.concat());
        assert_eq!(References::decode(&refs.encode(), 502).expect("reads"), refs);
        assert!(References::decode(&refs.encode(), 501).is_err(), "beyond the file");
    }

    #[test]
    fn neighbours_join_and_nonsense_is_refused() {
        let joined = References::new([part(0, 5, A, 10), part(5, 5, A, 15), part(10, 1, B, 20)], 11);
        assert_eq!(joined.expect("they hold").0, [part(0, 10, A, 10), part(10, 1, B, 20)]);
        assert!(References::new([part(0, 5, A, 0), part(4, 1, A, 9)], 9).is_none(), "overlap");
        assert!(References::new([part(0, 0, A, 0)], 9).is_none(), "empty");
        assert!(References::new([part(5, 5, A, 0)], 9).is_none(), "beyond the end");
        assert!(References::new([part(0, 5, A, u64::MAX - 2)], 9).is_none(), "beyond any stream");
        for bytes in [&[][..], &[0, 0], &[1], &[0, 1, 0, 1, 0, 0], &[0x80, 0], &[0xFF; 40]] {
            assert!(References::decode(bytes, 1 << 40).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            steps in prop::collection::vec((0..9u64, 1..9u64, any::<bool>(), 0..1000u64), 1..40)
        ) {
            let mut at = 0;
            let parts: Vec<Reference> = steps
                .into_iter()
                .map(|(gap, length, first, from)| {
                    let part = part(at + gap, length, if first { A } else { B }, from);
                    at = part.end();
                    part
                })
                .collect();
            let refs = References::new(parts, at).expect("they hold");
            let bytes = refs.encode();
            prop_assert_eq!(References::decode(&bytes, at).expect("reads"), refs);
            for cut in 0..bytes.len() {
                prop_assert!(References::decode(&bytes[..cut], at).is_err());
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(refs) = References::decode(&bytes, u64::MAX) {
                prop_assert_eq!(refs.encode(), bytes);
            }
        }
    }
}
