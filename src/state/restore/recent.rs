//! [`Recent`]: the ranges of layers that were read last.
use crate::sync::Mutex;
use bytes::Bytes;
use std::collections::VecDeque;
use std::ops::Range;

/// The most bytes that are kept.
const KEPT_BYTES: usize = 8 << 20;
/// A longer range is not kept: whoever reads one reads on.
const RANGE_BYTES: u64 = 2 << 20;

#[derive(Debug, Default)]
struct Kept {
    /// The one used last comes last.
    ranges: VecDeque<(String, Range<u64>, Bytes)>,
    bytes: usize,
    /// How often something was forgotten.
    forgotten: u64,
}

/// Spares requests for small files that are read one after the other: many of them stand in the same frame.
/// Owner of its lock.
#[derive(Debug, Default)]
pub(in crate::state) struct Recent(Mutex<Kept>);

impl Recent {
    /// Whether a range is worth keeping.
    pub(super) fn takes(range: &Range<u64>) -> bool {
        range.end - range.start <= RANGE_BYTES
    }

    pub(super) fn get(&self, key: &str, range: &Range<u64>) -> Option<Bytes> {
        let mut kept = self.0.lock();
        let at = kept.ranges.iter().position(|(k, r, _)| k == key && r == range)?;
        let found = kept.ranges.remove(at)?;
        let bytes = found.2.clone();
        kept.ranges.push_back(found);
        Some(bytes)
    }

    /// Before a range is asked for, for [`put`](Self::put).
    pub(super) fn begin(&self) -> u64 {
        self.0.lock().forgotten
    }

    /// Keeps what was asked for at that beginning. Who reads it finds damage before the last of it is here: what is
    /// forgotten meanwhile is not kept.
    pub(super) fn put(&self, begun: u64, key: &str, range: Range<u64>, bytes: Bytes) {
        let mut kept = self.0.lock();
        if kept.forgotten != begun {
            return;
        }
        if kept.ranges.iter().any(|(k, r, _)| k == key && *r == range) {
            return;
        }
        kept.bytes += bytes.len();
        kept.ranges.push_back((key.to_owned(), range, bytes));
        while kept.bytes > KEPT_BYTES {
            let Some((_, _, bytes)) = kept.ranges.pop_front() else { return };
            kept.bytes -= bytes.len();
        }
    }

    /// Forgets what was read of a layer: it turned out to be damaged, perhaps on its way alone.
    pub(super) fn forget(&self, key: &str) {
        let mut kept = self.0.lock();
        kept.forgotten += 1;
        kept.ranges.retain(|(k, ..)| k != key);
        kept.bytes = kept.ranges.iter().map(|(_, _, bytes)| bytes.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_used_stay() {
        let recent = Recent::default();
        let mib = 1 << 20;
        for n in 0..8u64 {
            recent.put(0, "a", n..n + mib, Bytes::from(vec![n as u8; mib as usize]));
        }
        assert_eq!(recent.get("a", &(0..mib)).map(|bytes| bytes[0]), Some(0));
        recent.put(0, "b", 0..mib, Bytes::from(vec![9; mib as usize]));
        assert_eq!(recent.get("b", &(0..mib)).map(|bytes| bytes[0]), Some(9));
        assert!(recent.get("a", &(0..mib)).is_some(), "it was used after the others");
        assert!(recent.get("a", &(1..1 + mib)).is_none() && recent.get("a", &(2..2 + mib)).is_some());
        recent.forget("a");
        assert!(recent.get("a", &(0..mib)).is_none() && recent.get("b", &(0..mib)).is_some());
        assert_eq!(recent.0.lock().bytes, mib as usize);
        // It was on its way when it turned out to be damaged.
        recent.put(0, "a", 0..mib, Bytes::from(vec![1; mib as usize]));
        assert!(recent.get("a", &(0..mib)).is_none());
        recent.put(recent.begin(), "a", 0..mib, Bytes::from(vec![1; mib as usize]));
        assert!(recent.get("a", &(0..mib)).is_some());
        assert!(Recent::takes(&(0..2 * mib)) && !Recent::takes(&(0..2 * mib + 1)));
    }
}
