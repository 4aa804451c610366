//! [`Foreign`]: numbers of files that cannot have their own.
use super::{FOREIGN_BASE, REUSED_BASE};
use crate::fs::attr::FileKey;
use std::collections::HashMap;

/// Of a number so many bits are the file's own, those above are its device's.
const OWN_BITS: u32 = 48;

/// How many devices there is room for; then come numbers of files of which either has no room.
const DEVICES_MAX: u64 = ((REUSED_BASE - FOREIGN_BASE) / 2) >> OWN_BITS;

/// A file's number is made of its own and of its device, so that it is the same whenever the kernel asks and nothing need
/// be kept of it: on an overlayfs whose layers lie on different file systems every file has such a number.
#[derive(Debug, Default)]
pub(super) struct Foreign {
    devices: HashMap<u32, u64>,
    /// Never shrinks: hardly a file system has numbers so large.
    large: HashMap<FileKey, u64>,
}

impl Foreign {
    /// The number of a file.
    pub(super) fn number(&mut self, key: FileKey) -> u64 {
        let next = self.devices.len() as u64;
        let device = *self.devices.entry(key.dev).or_insert(next);
        if device < DEVICES_MAX && key.ino >> OWN_BITS == 0 {
            return FOREIGN_BASE + (device << OWN_BITS) + key.ino;
        }
        let next = FOREIGN_BASE + (DEVICES_MAX << OWN_BITS) + self.large.len() as u64;
        *self.large.entry(key).or_insert(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_file_has_a_number_and_keeps_it() {
        let mut foreign = Foreign::default();
        let numbers = [0, 1, 42, (1 << OWN_BITS) - 1, 1 << OWN_BITS, u64::MAX];
        let devices = [0, 1, 7, u32::MAX - 1];
        let keys: Vec<FileKey> =
            devices.into_iter().flat_map(|dev| numbers.map(|ino| FileKey { dev, ino })).collect();
        let first: Vec<u64> = keys.iter().map(|key| foreign.number(*key)).collect();
        assert_eq!(first.iter().collect::<HashSet<_>>().len(), keys.len(), "{first:?}");
        assert!(first.iter().all(|number| (FOREIGN_BASE..REUSED_BASE).contains(number)));
        let again: Vec<u64> = keys.iter().rev().map(|key| foreign.number(*key)).collect();
        assert_eq!(first, again.into_iter().rev().collect::<Vec<_>>());
        assert_eq!(foreign.large.len(), 2 * devices.len(), "the others cost nothing");
    }

    #[test]
    fn more_devices_than_there_is_room_for_have_numbers_too() {
        let mut foreign = Foreign::default();
        let many = DEVICES_MAX as u32 + 10;
        let numbers: HashSet<u64> = (0..many).map(|dev| foreign.number(FileKey { dev, ino: 5 })).collect();
        assert_eq!(numbers.len(), many as usize);
        assert!(numbers.iter().all(|number| (FOREIGN_BASE..REUSED_BASE).contains(number)));
    }
}
