//! [`Present`]: which bytes of a file are there.
use std::ops::Range;

/// Ranges of bytes, joined where they touch.
#[derive(Debug, Clone, Default)]
pub(super) struct Present {
    ranges: Vec<Range<u64>>,
}

impl Present {
    pub(super) fn add(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let first = self.ranges.partition_point(|r| r.end < range.start);
        let last = self.ranges.partition_point(|r| r.start <= range.end);
        let joined = self.ranges.get(first..last).unwrap_or(&[]);
        let start = joined.first().map_or(range.start, |r| r.start.min(range.start));
        let end = joined.last().map_or(range.end, |r| r.end.max(range.end));
        self.ranges.splice(first..last, std::iter::once(start..end));
    }

    /// Nothing is there from `length` on.
    pub(super) fn cut(&mut self, length: u64) {
        self.ranges.truncate(self.ranges.partition_point(|r| r.start < length));
        if let Some(last) = self.ranges.last_mut() {
            last.end = last.end.min(length);
        }
    }

    pub(super) fn has(&self, range: &Range<u64>) -> bool {
        range.is_empty()
            || self
                .ranges
                .get(self.ranges.partition_point(|r| r.end <= range.start))
                .is_some_and(|r| r.start <= range.start && range.end <= r.end)
    }

    /// What of a range is not there.
    pub(super) fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let (mut missing, mut at) = (Vec::new(), range.start);
        for known in self.ranges.iter().skip(self.ranges.partition_point(|r| r.end <= range.start)) {
            if known.start >= range.end {
                break;
            }
            if known.start > at {
                missing.push(at..known.start);
            }
            at = at.max(known.end);
        }
        if at < range.end {
            missing.push(at..range.end);
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_agrees_with_a_list_of_bytes() {
        let seed = std::env::var("ICECACHE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(7_u64);
        println!("seed {seed}");
        let mut state = seed | 1;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for _ in 0..200 {
            let (mut present, mut bytes) = (Present::default(), [false; 64]);
            for _ in 0..12 {
                let start = random(64);
                let range = start..start + random(65 - start);
                present.add(range.clone());
                range.for_each(|n| bytes[n as usize] = true);
                if random(4) == 0 {
                    let length = random(65);
                    present.cut(length);
                    bytes[length as usize..].fill(false);
                }
                let start = random(64);
                let asked = start..start + random(65 - start);
                let all = asked.clone().all(|n| bytes[n as usize]);
                assert_eq!(present.has(&asked), all, "{asked:?} of {present:?}");
                let missing: Vec<u64> = present.missing(asked.clone()).into_iter().flatten().collect();
                let expected: Vec<u64> = asked.filter(|n| !bytes[*n as usize]).collect();
                assert_eq!(missing, expected, "{present:?}");
            }
            assert!(present.ranges.is_sorted_by(|a, b| a.end < b.start), "{present:?}");
        }
    }
}
