//! [`Partitions`]: the partitions that the files of a table are in, and how many bytes each has.
use std::collections::HashMap;
use std::sync::Arc;

/// See the module. A partition has a number for as long as a file is in it: of a table there may be very many files.
#[derive(Debug, Default)]
pub(super) struct Partitions {
    numbers: HashMap<Arc<str>, u32>,
    all: Vec<Partition>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Partition {
    name: Arc<str>,
    /// How many files are in it, live or not.
    files: u64,
    /// The bytes of those that are live.
    bytes: u64,
}

impl Partitions {
    /// One more file is in a partition; its number.
    pub(super) fn enter(&mut self, name: &Arc<str>) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            self.all[*number as usize].files += 1;
            return *number;
        }
        let new = Partition { name: name.clone(), files: 1, bytes: 0 };
        let number = match self.free.pop() {
            Some(number) => {
                self.all[number as usize] = new;
                number
            }
            None => {
                self.all.push(new);
                self.all.len() as u32 - 1
            }
        };
        self.numbers.insert(name.clone(), number);
        number
    }

    /// One file less.
    pub(super) fn leave(&mut self, number: u32) {
        let partition = &mut self.all[number as usize];
        partition.files -= 1;
        if partition.files == 0 {
            self.numbers.remove(&partition.name);
            self.free.push(number);
        }
    }

    /// So many bytes of a partition are live, and so many are no longer.
    pub(super) fn count(&mut self, number: u32, more: u64, less: u64) {
        let bytes = &mut self.all[number as usize].bytes;
        *bytes = (*bytes + more).saturating_sub(less);
    }

    /// What a partition is called.
    pub(super) fn name(&self, number: u32) -> &Arc<str> {
        &self.all[number as usize].name
    }

    /// How many live bytes a partition has.
    pub(super) fn bytes(&self, name: &str) -> u64 {
        self.numbers.get(name).map_or(0, |number| self.all[*number as usize].bytes)
    }

    /// Whether no file is in any.
    pub(super) fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_there_as_long_as_a_file_is_in_it() {
        let mut partitions = Partitions::default();
        let (a, b): (Arc<str>, Arc<str>) = ("day=1".into(), "day=2".into());
        let (first, second) = (partitions.enter(&a), partitions.enter(&b));
        assert_eq!(partitions.enter(&a), first);
        partitions.count(first, 7, 0);
        partitions.count(second, 5, 0);
        partitions.count(first, 1, 3);
        assert_eq!((partitions.bytes(&a), partitions.bytes(&b), partitions.bytes("day=3")), (5, 5, 0));
        assert_eq!((partitions.name(first), partitions.name(second)), (&a, &b));
        partitions.leave(first);
        assert_eq!(partitions.bytes(&a), 5);
        partitions.leave(first);
        assert_eq!((partitions.bytes(&a), partitions.enter(&"day=4".into())), (0, first));
        partitions.leave(first);
        partitions.leave(second);
        assert!(partitions.is_empty());
    }
}
