//! [`Memory`]: the blocks that have just come, as they came. Many readers of one cold object share them
//! without a copy; whoever comes later gets them out of the page cache.
use super::spread::ByNumber;
use crate::sync::Mutex;
use bytes::Bytes;
use std::collections::VecDeque;

/// A block of an entry, by generation and number.
type Place = (u64, u32);

/// The last blocks that were fetched, within a limit of bytes; those of an object go when nobody reads it
/// any more. A generation has one content for ever, so nothing here can be wrong.
#[derive(Debug)]
pub struct Memory {
    max_bytes: u64,
    shelf: Mutex<Shelf>, // the one lock; held for an operation of the map
}

#[derive(Debug, Default)]
struct Shelf {
    blocks: ByNumber<Place, Bytes>,
    order: VecDeque<Place>,
    bytes: u64,
}

impl Memory {
    /// Keeps at most so many bytes.
    pub fn new(max_bytes: u64) -> Self {
        Self { max_bytes, shelf: Mutex::default() }
    }

    /// A block has come.
    pub fn put(&self, generation: u64, block: u32, bytes: &Bytes) {
        let length = bytes.len() as u64;
        if length > self.max_bytes {
            return;
        }
        let mut shelf = self.shelf.lock();
        if shelf.blocks.insert((generation, block), bytes.clone()).is_none() {
            shelf.order.push_back((generation, block));
            shelf.bytes += length;
        }
        while shelf.bytes > self.max_bytes {
            let Some(oldest) = shelf.order.pop_front() else { break };
            if let Some(gone) = shelf.blocks.remove(&oldest) {
                shelf.bytes -= gone.len() as u64;
            }
        }
    }

    /// A block, if it came lately.
    pub fn get(&self, generation: u64, block: u32) -> Option<Bytes> {
        self.shelf.lock().blocks.get(&(generation, block)).cloned()
    }

    /// Nobody reads this entry any more.
    pub fn forget(&self, generation: u64) {
        let mut shelf = self.shelf.lock();
        let Shelf { blocks, order, bytes } = &mut *shelf;
        order.retain(|place| {
            let stays = place.0 != generation;
            if !stays && let Some(gone) = blocks.remove(place) {
                *bytes -= gone.len() as u64;
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_blocks_are_there_and_no_more_than_there_is_room_for() {
        let memory = Memory::new(100);
        for n in 0..5 {
            memory.put(1, n, &Bytes::from(vec![n as u8; 40]));
        }
        memory.put(1, 4, &Bytes::from(vec![4; 40]));
        memory.put(2, 0, &Bytes::from(vec![0; 101]));
        assert_eq!((0..5).filter(|n| memory.get(1, *n).is_some()).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(memory.get(2, 0), None, "larger than all of it");
        memory.put(2, 1, &Bytes::from(vec![9; 20]));
        memory.forget(1);
        assert_eq!((memory.get(1, 4), memory.get(2, 1)), (None, Some(Bytes::from(vec![9; 20]))));
        assert_eq!(memory.shelf.lock().bytes, 20);
    }
}
