//! [`ByNumber`]: maps whose keys are numbers of our own, such as generations and the numbers of blocks. Nobody else chooses
//! them, so that the default hasher, which withstands chosen keys, would only cost time.
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by a number of our own, or by few of them.
pub type ByNumber<K, V> = HashMap<K, V, BuildHasherDefault<Spread>>;

/// 2⁶⁴ over the golden ratio: multiples of it lie far from each other.
const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;

/// Spreads numbers that follow each other.
#[derive(Debug, Default)]
pub struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        // A map uses both ends, and the lower bits of a product know little of the upper ones of its factors.
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(25) ^ number).wrapping_mul(FACTOR);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::hash::{BuildHasher, Hash};

    fn spread(key: impl Hash) -> u64 {
        BuildHasherDefault::<Spread>::default().hash_one(key)
    }

    #[test]
    fn keys_as_they_occur_meet_no_more_often_than_random_ones_would() {
        // Generations of two sessions, and blocks of a few entries.
        let generations = (0..50_000_u64).flat_map(|n| [(7 << 32) + n, (9 << 32) + n]).map(spread);
        let blocks = (0..100_u64).flat_map(|g| (0..1000_u32).map(move |n| ((7 << 32) + g, n))).map(spread);
        for hashes in [generations.collect::<Vec<_>>(), blocks.collect()] {
            let places = |part: fn(u64) -> u64| hashes.iter().map(|hash| part(*hash)).collect::<HashSet<_>>();
            assert_eq!(places(|hash| hash).len(), hashes.len());
            // 100,000 random numbers take 51,335 of 65,536 places.
            assert!(places(|hash| hash & 0xffff).len() > 45_000, "{}", places(|hash| hash & 0xffff).len());
            assert_eq!(places(|hash| hash >> 57).len(), 128);
        }
    }
}
