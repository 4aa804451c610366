//! [`Evictor`]: tells the policy who was used, and asks it who goes.
//!
//! Readers only leave a note, in one of several lists; the notes reach the policy when a list is full or
//! somebody has to go. So no reader waits for another.
use super::blob_entry::BlobEntry;
use super::block::Block;
use super::evict::{Facts, Policy, PolicyKind, Unit, WHOLE};
use super::file_entry::FileEntry;
use super::spread::ByNumber;
use super::usage::Usage;
use crate::sync::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

/// Lists of notes.
const LISTS: usize = 16;
/// Notes in a list that are passed on together.
const NOTES: usize = 64;
/// A list that cannot be passed on, because the policy is busy, grows to this before its owner waits.
const NOTES_MAX: usize = 1024;
/// So many blocks are remembered that are to go first; the oldest are forgotten.
const DEMOTED_MAX: usize = 1 << 20;

/// What was used: a file, or a block of an object.
#[derive(Debug, Clone)]
pub enum Note {
    /// A file.
    File(Weak<FileEntry>),
    /// A block.
    Block(Weak<BlobEntry>, Weak<Block>),
}

/// An entry that the policy may choose.
#[derive(Debug, Clone)]
pub enum Held {
    /// A file.
    File(Arc<FileEntry>),
    /// An object of which there are blocks.
    Blob(Arc<BlobEntry>),
}

/// The policy and what it orders.
#[derive(Debug)]
pub struct Evictor {
    desk: Mutex<Desk>,
    notes: [Mutex<Vec<Note>>; LISTS],
    ticks: AtomicU64,
}

#[derive(Debug)]
struct Desk {
    policy: Box<dyn Policy>,
    held: ByNumber<u64, Held>,
    /// What was used since the journal was told.
    dirty: Vec<Note>,
    /// What goes before whatever the policy says, and when it was used last: if it is used again, it stays.
    demoted: VecDeque<(Unit, u64)>,
}

/// Seconds since 1970.
pub fn now() -> u64 {
    u64::try_from(crate::clock::Timestamp::now().sec).unwrap_or(0)
}

impl Evictor {
    /// Orders nothing yet.
    pub fn new(kind: PolicyKind) -> Self {
        let (policy, held) = (kind.build(), ByNumber::default());
        let desk = Desk { policy, held, dirty: Vec::new(), demoted: VecDeque::new() };
        Self { desk: Mutex::new(desk), notes: Default::default(), ticks: AtomicU64::new(1) }
    }

    /// Goes on counting where the last process stopped.
    pub fn resume(&self, tick: u64) {
        self.ticks.fetch_max(tick + 1, Relaxed);
    }

    /// The next number of a use.
    pub fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Relaxed)
    }

    /// An entry is there that was not. Of an object it is nothing yet: its blocks are admitted one by one.
    pub fn hold(&self, generation: u64, held: Held) {
        self.desk.lock().held.insert(generation, held);
    }

    /// A unit is there that was not; its entry is held.
    pub fn admit(&self, unit: Unit, facts: Facts) {
        let mut desk = self.desk.lock();
        if desk.held.contains_key(&unit.generation) {
            desk.policy.admitted(unit, facts);
        }
    }

    /// Holds and admits many at once, in this order.
    pub fn admit_all(&self, held: ByNumber<u64, Held>, units: impl ExactSizeIterator<Item = (Unit, Facts)>) {
        let mut desk = self.desk.lock();
        if desk.held.is_empty() {
            desk.held = held;
        } else {
            desk.held.extend(held);
        }
        desk.policy.expect(units.len());
        for (unit, facts) in units {
            desk.policy.admitted(unit, facts);
        }
    }

    /// A unit is gone.
    pub fn forget(&self, unit: Unit) {
        let mut desk = self.desk.lock();
        desk.policy.removed(unit);
        if unit.block == WHOLE {
            desk.held.remove(&unit.generation);
        }
    }

    /// An object is gone, and its blocks have been forgotten.
    pub fn release(&self, generation: u64) {
        self.desk.lock().held.remove(&generation);
    }

    /// Somebody used something. `spread` should differ between what is used at once.
    pub fn touch(&self, spread: u64, note: impl FnOnce() -> Note) {
        let mut notes = self.notes[spread as usize % LISTS].lock();
        notes.push(note());
        if notes.len() >= NOTES {
            let full = notes.len() >= NOTES_MAX;
            let desk = if full { Some(self.desk.lock()) } else { self.desk.try_lock() };
            if let Some(mut desk) = desk {
                self.pass_on(&mut desk, &mut notes);
            }
        }
    }

    fn pass_on(&self, desk: &mut Desk, notes: &mut Vec<Note>) {
        let now = now();
        for note in notes.drain(..) {
            let tick = self.tick();
            let told = match &note {
                Note::File(file) => file.upgrade().map(|file| {
                    desk.policy.touched(file.unit(), file.facts(now));
                    file.usage.told(tick)
                }),
                Note::Block(blob, block) => blob.upgrade().zip(block.upgrade()).map(|(blob, block)| {
                    desk.policy.touched(blob.unit(&block), blob.facts(&block, now));
                    block.usage.told(tick)
                }),
            };
            if told == Some(true) {
                desk.dirty.push(note);
            }
        }
    }

    fn pass_on_all(&self) {
        for list in &self.notes {
            let mut notes = list.lock();
            if !notes.is_empty() {
                self.pass_on(&mut self.desk.lock(), &mut notes);
            }
        }
    }

    /// Takes out who is to go first, with its entry; `None` if nobody is left.
    pub fn victim(&self) -> Option<(Unit, Held)> {
        self.pass_on_all();
        let mut desk = self.desk.lock();
        if let Some(demoted) = desk.next_demoted() {
            return Some(demoted);
        }
        loop {
            let unit = desk.policy.victim()?;
            if let Some(held) = desk.held.get(&unit.generation) {
                return Some((unit, held.clone()));
            }
        }
    }

    /// The blocks of an object go first from now on, each unless it is used again.
    pub fn demote(&self, blob: &BlobEntry) {
        self.pass_on_all();
        let mut desk = self.desk.lock();
        desk.demoted.extend(blob.blocks().iter().map(|block| (blob.unit(block), block.usage.tick())));
        let surplus = desk.demoted.len().saturating_sub(DEMOTED_MAX);
        desk.demoted.drain(..surplus);
    }

    /// Takes out one whose time is over.
    pub fn expired(&self) -> Option<(Unit, Held)> {
        self.pass_on_all();
        let mut desk = self.desk.lock();
        loop {
            let unit = desk.policy.expired(now())?;
            if let Some(held) = desk.held.get(&unit.generation) {
                return Some((unit, held.clone()));
            }
        }
    }

    /// Puts one back that could not go.
    pub fn keep(&self, unit: Unit, held: &Held) {
        let now = now();
        let facts = match held {
            Held::File(file) => Some(file.facts(now)),
            Held::Blob(blob) => blob.block(unit.block).map(|block| blob.facts(&block, now)),
        };
        let mut desk = self.desk.lock();
        if let Some(facts) = facts
            && desk.held.contains_key(&unit.generation)
        {
            desk.policy.kept(unit, facts);
        }
    }

    /// What was used since this was asked last.
    pub fn take_dirty(&self) -> Vec<Note> {
        self.pass_on_all();
        std::mem::take(&mut self.desk.lock().dirty)
    }

    /// The entry of this generation.
    pub fn held(&self, generation: u64) -> Option<Held> {
        self.desk.lock().held.get(&generation).cloned()
    }

    /// How many entries there are.
    pub fn count(&self) -> u64 {
        self.desk.lock().held.len() as u64
    }

    /// All entries.
    pub fn all(&self) -> Vec<Held> {
        self.desk.lock().held.values().cloned().collect()
    }
}

impl Desk {
    fn next_demoted(&mut self) -> Option<(Unit, Held)> {
        while let Some((unit, tick)) = self.demoted.pop_front() {
            let Some(held) = self.held.get(&unit.generation) else { continue };
            let unused = match held {
                Held::File(_) => false,
                Held::Blob(blob) => blob.block(unit.block).is_some_and(|block| block.usage.tick() == tick),
            };
            if unused {
                let held = held.clone();
                self.policy.removed(unit);
                return Some((unit, held));
            }
        }
        None
    }
}

impl Note {
    /// What `usage` says is written down: calls `write` unless it has gone meanwhile, although somebody may still
    /// hold it.
    pub fn written(&self, write: impl FnOnce(&Held, Option<&Block>)) {
        let is_to_write = |usage: &Usage| {
            usage.written();
            !usage.has_left()
        };
        match self {
            Self::File(file) => {
                if let Some(file) = file.upgrade().filter(|file| is_to_write(&file.usage)) {
                    write(&Held::File(file), None);
                }
            }
            Self::Block(blob, block) => {
                if let Some((blob, block)) = blob.upgrade().zip(block.upgrade())
                    && is_to_write(&block.usage)
                {
                    write(&Held::Blob(blob), Some(&block));
                }
            }
        }
    }
}
