//! [`BlobEntry`]: blocks of one immutable object, in one sparse file.
use super::block::Block;
use super::budget::{Budget, Charge, on_disk};
use super::digest::{self, Digest};
use super::error::CacheError;
use super::events::Subject;
use super::evict::{Facts, Unit};
use super::flight::Flight;
use super::key::{Identity, ObjectId};
use super::record::{BlockRecord, EntryRecord, Used};
use super::spread::ByNumber;
use super::store::{Name, Place, Store, punch};
use super::witness::{Header, room_for_object};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed, Ordering::SeqCst};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

mod audit;
mod body;

use body::Body;

/// Blocks of an object. When the last reference to one that was removed goes, so do its bytes.
#[derive(Debug)]
pub struct BlobEntry {
    /// Whose blocks these are.
    pub id: Arc<ObjectId>,
    /// Its generation.
    pub generation: u64,
    /// When it was admitted, in seconds since 1970.
    pub created: u64,
    /// How long its blocks are.
    pub block_bytes: u64,
    store: Arc<Store>,
    state: Mutex<State>, // never held while data is read or written
    /// Handles that read it; while there is one the entry stays, although its blocks may go.
    handles: AtomicU32,
    /// Guards of the whole: no block may go.
    pins: AtomicU32,
    removed: AtomicBool,
    seen: AtomicBool,
    /// The journal has a record of it.
    recorded: AtomicBool,
    /// Its witness is a file of its own.
    sidecar: AtomicBool,
}

#[derive(Debug)]
struct State {
    blocks: ByNumber<u32, Arc<Block>>,
    flights: ByNumber<u32, Flight>,
    body: Option<Arc<Body>>,
    /// For the entry, its witness and its blocks; `None` before there is a file.
    charge: Option<Charge>,
}

/// What became of a block that was to go.
#[derive(Debug)]
pub enum Taken {
    /// It is gone.
    Gone(Arc<Block>),
    /// Somebody uses it.
    Pinned,
    /// It was not there.
    Absent,
    /// The file cannot be used: the whole entry is to go.
    Broken,
}

/// Where a block is.
#[derive(Debug)]
pub enum Sought {
    /// On the disk, pinned: whoever asked unpins it.
    There(Arc<Block>),
    /// Somebody fetches it.
    Flying(Flight),
    /// Nowhere: this flight was begun, and is to be flown.
    Missing(Flight),
}

/// A block that is to be kept.
#[derive(Debug, Clone, Copy)]
pub struct NewBlock<'a> {
    /// Its number.
    pub number: u32,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// How it came.
    pub used: Used,
}

impl BlobEntry {
    /// Without blocks and without a file.
    pub fn new(
        id: Arc<ObjectId>,
        generation: u64,
        created: u64,
        block_bytes: u64,
        store: Arc<Store>,
    ) -> Self {
        let state =
            State { blocks: ByNumber::default(), flights: ByNumber::default(), body: None, charge: None };
        Self {
            id,
            generation,
            created,
            block_bytes,
            store,
            state: Mutex::new(state),
            handles: AtomicU32::new(0),
            pins: AtomicU32::new(0),
            removed: AtomicBool::new(false),
            seen: AtomicBool::new(false),
            recorded: AtomicBool::new(false),
            sidecar: AtomicBool::new(false),
        }
    }

    /// What was found at the start: where its witness is, and its blocks.
    pub fn restore(&self, place: Place, blocks: Vec<(u32, BlockRecord)>, budget: &Arc<Budget>) {
        self.sidecar.store(place == Place::Sidecar, Relaxed);
        let mut bytes = room_for_object(&self.id, self.block_bytes);
        let mut state = self.state.lock();
        for (number, record) in blocks.into_iter().filter(|(number, _)| *number < self.blocks_total()) {
            let block = self.make(number, record.digest, record.used, false);
            if let Some(twice) = state.blocks.insert(number, Arc::new(block)) {
                bytes -= on_disk(twice.length);
            }
            bytes += on_disk(self.range(number).1);
        }
        state.charge = Some(budget.found(bytes, 1));
    }

    /// `true` once: the journal needs a record of it.
    pub(super) fn to_record(&self) -> bool {
        !self.recorded.swap(true, Relaxed)
    }

    fn make(&self, number: u32, digest: Digest, used: Used, verified: bool) -> Block {
        let length = self.range(number).1;
        Block::new(number, length, digest, used, verified)
    }

    /// How many blocks the object has.
    pub fn blocks_total(&self) -> u32 {
        self.id.size.div_ceil(self.block_bytes) as u32
    }

    /// Offset and length of a block.
    pub fn range(&self, number: u32) -> (u64, u64) {
        let offset = u64::from(number) * self.block_bytes;
        (offset, self.block_bytes.min(self.id.size.saturating_sub(offset)))
    }

    /// What its files are called.
    pub fn name(&self) -> Name {
        Name::new(&self.identity(), self.generation)
    }

    fn identity(&self) -> Identity {
        Identity::Object((*self.id).clone())
    }

    /// Where its bytes are.
    pub fn path(&self) -> std::path::PathBuf {
        self.store.path(&self.name())
    }

    pub(super) fn header(&self) -> Header {
        Header {
            identity: self.identity(),
            generation: self.generation,
            block_bytes: self.block_bytes,
            whole: [0; 32],
        }
    }

    pub(super) fn record(&self) -> EntryRecord {
        EntryRecord {
            identity: self.identity(),
            block_bytes: self.block_bytes,
            whole: [0; 32],
            created: self.created,
            sidecar: self.sidecar.load(Relaxed),
            used: Used::default(),
        }
    }

    pub(super) fn subject(&self, number: u32) -> Subject {
        Subject::Block(self.id.clone(), number)
    }

    pub(super) fn unit(&self, block: &Block) -> Unit {
        Unit { generation: self.generation, block: block.number }
    }

    pub(super) fn facts(&self, block: &Block, now: u64) -> Facts {
        let Used { hits, cost_us, .. } = block.usage.used();
        let fingerprint = digest::fingerprint(&block.digest);
        Facts { bytes: on_disk(block.length), cost_us, hits, fingerprint, now }
    }

    /// A block, if it is there.
    pub fn block(&self, number: u32) -> Option<Arc<Block>> {
        self.state.lock().blocks.get(&number).cloned()
    }

    /// The blocks that are there.
    pub fn blocks(&self) -> Vec<Arc<Block>> {
        self.state.lock().blocks.values().cloned().collect()
    }

    /// How many blocks are there.
    pub fn blocks_here(&self) -> u32 {
        self.state.lock().blocks.len() as u32
    }

    /// A block, pinned.
    pub fn pin_block(&self, number: u32) -> Option<Arc<Block>> {
        let state = self.state.lock();
        let block = state.blocks.get(&number)?;
        block.usage.pin();
        Some(block.clone())
    }

    /// Where a block is. If it is nowhere, `begin` makes the flight that all others will find.
    pub fn seek(&self, number: u32, begin: impl FnOnce() -> Flight) -> Sought {
        let mut state = self.state.lock();
        if let Some(block) = state.blocks.get(&number) {
            block.usage.pin();
            return Sought::There(block.clone());
        }
        if let Some(flight) = state.flights.get(&number) {
            return Sought::Flying(flight.clone());
        }
        let flight = begin();
        state.flights.insert(number, flight.clone());
        Sought::Missing(flight)
    }

    /// A flight is over.
    pub fn land(&self, number: u32) {
        self.state.lock().flights.remove(&number);
    }

    /// Keeps a block; `charge` is for it and for what [`price_of_file`](Self::price_of_file) said. Blocks.
    /// Only by whoever flies for that block.
    pub fn put(&self, new: NewBlock<'_>, mut charge: Charge) -> Result<Arc<Block>, CacheError> {
        let (offset, length) = self.range(new.number);
        if new.bytes.len() as u64 != length {
            return Err(CacheError::WrongSize { expected: length, got: new.bytes.len() as u64 });
        }
        if self.removed.load(SeqCst) {
            return Err(CacheError::Deleted);
        }
        let digest = digest::block(offset, new.bytes);
        let body = {
            let mut state = self.state.lock();
            let body = self.made(&mut state, &mut charge, on_disk(length))?;
            // The file's own part stays, whatever becomes of the block.
            if state.charge.is_none() {
                let mut own = charge;
                charge = own.split(on_disk(length));
                own.written(u64::MAX);
                state.charge = Some(own);
            }
            body
        };
        let io = |e| CacheError::io("write", self.path(), e);
        // Readers ask for other blocks meanwhile: neither is written under their lock.
        let written = body.file.write_all_at(new.bytes, offset).and_then(|()| {
            body.change(|slots, file| match self.removed.load(SeqCst) {
                true => Ok(false),
                false => slots.set(file, self.generation, new.number, Some(&digest)).map(|()| true),
            })
        });
        let written = written.map_err(|e| {
            let _partial = punch(&body.file, offset, length);
            io(e)
        })?;
        charge.written(u64::MAX);
        let mut state = self.state.lock();
        if !written || self.removed.load(SeqCst) {
            // Nobody charges for it any more.
            let _stays_until_the_file_goes = punch(&body.file, offset, length);
            return Err(CacheError::Deleted);
        }
        let block = Arc::new(self.make(new.number, digest, new.used, true));
        state.blocks.insert(new.number, block.clone());
        match &mut state.charge {
            Some(own) => own.absorb(charge),
            None => state.charge = Some(charge),
        }
        drop(body);
        self.let_go(&mut state); // who has asked for it may have left
        Ok(block)
    }

    /// Takes a block away, unless somebody uses it. Blocks for a moment.
    pub fn take(&self, number: u32) -> Taken {
        self.take_if(number, None)
    }

    /// Takes this very block away, even if it is used: its bytes are of no use.
    pub fn take_damaged(&self, block: &Arc<Block>) -> Taken {
        self.take_if(block.number, Some(block))
    }

    fn take_if(&self, number: u32, damaged: Option<&Arc<Block>>) -> Taken {
        let mut state = self.state.lock();
        let Some(block) = state.blocks.get(&number).cloned() else { return Taken::Absent };
        if damaged.is_some_and(|damaged| !Arc::ptr_eq(damaged, &block)) {
            return Taken::Absent;
        }
        let damaged = damaged.is_some();
        let whole = self.pins.load(SeqCst) > 0;
        if !damaged && (block.usage.is_pinned() || whole) {
            return Taken::Pinned;
        }
        if whole {
            return Taken::Broken; // somebody has its path: no hole may appear there
        }
        let (offset, length) = self.range(number);
        if state.body.is_none() {
            match self.reopen() {
                Ok(body) => state.body = Some(Arc::new(body)),
                Err(e) if e.is_shortage() && !damaged => return Taken::Pinned, // another time
                Err(_) => {}
            }
        }
        let Some(body) = state.body.clone() else { return Taken::Broken };
        let cleared = body.change(|slots, file| slots.set(file, self.generation, number, None));
        // Under the lock: what a new flight for the same block writes must not be punched.
        if let Err(error) = cleared.and_then(|()| punch(&body.file, offset, length)) {
            tracing::warn!(object = %self.id, %error, "cannot give back the room of a block");
            return Taken::Broken;
        }
        state.blocks.remove(&number);
        if let Some(charge) = &mut state.charge {
            charge.shrink(on_disk(length), 0);
        }
        drop(body);
        self.let_go(&mut state);
        Taken::Gone(block)
    }

    /// The digest of the whole, if all blocks are there and are more than one.
    pub fn whole(&self) -> Option<Digest> {
        let state = self.state.lock();
        let nodes: Option<Vec<Digest>> =
            (0..self.blocks_total()).map(|n| state.blocks.get(&n).map(|b| b.digest)).collect();
        digest::root(&nodes?)
    }

    /// One more handle. Only while whoever removes entries is locked out.
    pub fn enter(&self) {
        self.handles.fetch_add(1, SeqCst);
    }

    /// One handle less; `true` if it was the last one.
    pub fn leave(&self) -> bool {
        let last = self.handles.fetch_sub(1, SeqCst) == 1;
        if last {
            self.let_go(&mut self.state.lock());
        }
        last
    }

    /// Closes the file if nobody uses it and too many are open. Another one that is opened meanwhile would not
    /// learn what is written through this one.
    fn let_go(&self, state: &mut State) {
        let is_unused = state.body.as_ref().is_some_and(|body| Arc::strong_count(body) == 1);
        if is_unused && self.is_unread() && self.store.is_crowded() {
            state.body = None;
        }
    }

    /// Whether nobody reads it and nothing is there of it.
    pub fn is_idle(&self) -> bool {
        let state = self.state.lock();
        self.handles.load(SeqCst) == 0 && state.blocks.is_empty() && state.flights.is_empty()
    }

    /// Whether it was taken out of the index.
    pub(super) fn is_removed(&self) -> bool {
        self.removed.load(SeqCst)
    }

    /// Whether nobody reads it.
    pub fn is_unread(&self) -> bool {
        self.handles.load(SeqCst) == 0
    }

    /// Pins the whole if it is complete.
    pub fn pin_whole(&self) -> bool {
        let state = self.state.lock();
        let complete = state.blocks.len() as u32 == self.blocks_total();
        if complete {
            self.pins.fetch_add(1, SeqCst);
        }
        complete
    }

    /// One more guard of the whole, beside one that lives.
    pub fn pin_again(&self) {
        self.pins.fetch_add(1, SeqCst);
    }

    /// One guard of the whole less.
    pub fn unpin_whole(&self) {
        self.pins.fetch_sub(1, SeqCst);
    }

    /// Bytes charged for it now.
    pub fn charged(&self) -> u64 {
        self.state.lock().charge.as_ref().map_or(0, Charge::bytes)
    }

    pub(super) fn see(&self) {
        self.seen.store(true, Relaxed);
    }

    pub(super) fn is_seen(&self) -> bool {
        self.seen.load(Relaxed)
    }

    /// Its bytes go when the last reference does. Called by whoever took it out of the index.
    pub(super) fn remove(&self) {
        let state = self.state.lock();
        self.removed.store(true, SeqCst);
        let disown = || self.store.disown(&self.name());
        match &state.body {
            // What is kept at this moment has its slot already, or learns that it is too late.
            Some(body) => body.change(|_, _| disown()),
            None if state.charge.is_some() => disown(),
            None => {}
        }
    }
}

impl Drop for BlobEntry {
    fn drop(&mut self) {
        if self.removed.load(SeqCst) && self.state.get_mut().charge.is_some() {
            self.store.remove(&self.name());
        }
    }
}
