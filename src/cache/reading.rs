//! [`Reading`]: the pairs of a tree of the journal, which one thread reads while another understands them.
use crate::journal::{Journal, JournalError, Tree};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

/// Pairs that are handed over at once, how many bytes they may have together, and how many such may wait.
const CHUNK: usize = 1024;
const CHUNK_BYTES: usize = 256 << 10;
const CHUNKS_AHEAD: usize = 8;

/// A key and its value.
type Pair<'a> = (&'a [u8], &'a [u8]);

/// Pairs one behind the other: a piece of memory for each would cost more than all the reading.
#[derive(Debug, Default)]
struct Chunk {
    bytes: Vec<u8>,
    /// Where each key ends, and its value.
    ends: Vec<(u32, u32)>,
}

/// A tree that is read.
#[derive(Debug)]
pub struct Reading<'s> {
    chunks: Receiver<Chunk>,
    chunk: Chunk,
    /// The pair that is looked at, and where it begins.
    at: usize,
    start: usize,
    thread: Option<ScopedJoinHandle<'s, Result<(), JournalError>>>,
}

impl Chunk {
    fn push(&mut self, key: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(key);
        let middle = self.bytes.len() as u32;
        self.bytes.extend_from_slice(value);
        self.ends.push((middle, self.bytes.len() as u32));
    }

    fn is_full(&self) -> bool {
        self.ends.len() >= CHUNK || self.bytes.len() >= CHUNK_BYTES
    }
}

fn read(journal: &dyn Journal, tree: Tree, chunks: &SyncSender<Chunk>) -> Result<(), JournalError> {
    let mut chunk = Chunk::default();
    journal.visit(tree, &mut |key, value| {
        chunk.push(key, value);
        // Whoever listens may have had enough.
        !chunk.is_full() || chunks.send(std::mem::take(&mut chunk)).is_ok()
    })?;
    let _enough = chunks.send(chunk);
    Ok(())
}

impl<'s> Reading<'s> {
    /// Begins to read.
    pub fn begin<'e>(scope: &'s Scope<'s, 'e>, journal: &'e dyn Journal, tree: Tree) -> Self {
        let (sender, chunks) = sync_channel(CHUNKS_AHEAD);
        let thread = Some(scope.spawn(move || read(journal, tree, &sender)));
        Self { chunks, chunk: Chunk::default(), at: 0, start: 0, thread }
    }

    /// The next pair, the same one until [`advance`](Self::advance); `None` at the end.
    pub fn pair(&mut self) -> Result<Option<Pair<'_>>, JournalError> {
        while self.at >= self.chunk.ends.len() {
            let Ok(chunk) = self.chunks.recv() else {
                let died = |_panic| Err(JournalError::corrupt("reading it ended without a word"));
                return self
                    .thread
                    .take()
                    .map_or(Ok(()), |thread| thread.join().unwrap_or_else(died))
                    .map(|()| None);
            };
            (self.chunk, self.at, self.start) = (chunk, 0, 0);
        }
        let (middle, end) = self.chunk.ends[self.at];
        let (key, value) = self.chunk.bytes[self.start..end as usize].split_at(middle as usize - self.start);
        Ok(Some((key, value)))
    }

    /// On to the one after it.
    pub fn advance(&mut self) {
        if let Some((_, end)) = self.chunk.ends.get(self.at) {
            self.start = *end as usize;
            self.at += 1;
        }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use crate::journal::{Batch, MemoryJournal};

    const T: Tree = Tree("t");

    fn journal(pairs: u32) -> MemoryJournal {
        let journal = MemoryJournal::new();
        let mut batch = Batch::new();
        for n in 0..pairs {
            batch.put(T, &n.to_be_bytes(), vec![n as u8; n as usize % 700]);
        }
        batch.put(Tree("u"), b"other", b"of another tree");
        journal.apply(batch).expect("applies");
        journal
    }

    #[test]
    fn all_pairs_come_in_order_whatever_their_size() {
        for count in [0, 1, 1023, 1024, 5000] {
            let journal = journal(count);
            std::thread::scope(|scope| {
                let mut reading = Reading::begin(scope, &journal, T);
                for n in 0..count {
                    for _again in 0..2 {
                        let (key, value) = reading.pair().expect("reads").expect("one more");
                        assert_eq!(
                            (key, value),
                            (&n.to_be_bytes()[..], &vec![n as u8; n as usize % 700][..])
                        );
                    }
                    reading.advance();
                }
                for _again in 0..2 {
                    assert!(reading.pair().expect("reads").is_none());
                    reading.advance();
                }
            });
        }
    }

    #[test]
    fn whoever_has_had_enough_need_not_read_to_the_end() {
        let journal = journal(50_000);
        std::thread::scope(|scope| {
            let mut reading = Reading::begin(scope, &journal, T);
            assert!(reading.pair().expect("reads").is_some());
        });
    }
}
