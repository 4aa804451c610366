//! [`Hydrator`]: brings the content of absent files, at once for who waits and in the background.
mod first;
mod placing;
mod sweep;
mod turns;

use super::Absent;
use super::lost::{Lost, LostFiles};
use super::outcome::Outcome;
use super::pace::Pace;
use super::ranges::{Partial, Ranges, Reader};
use super::tree::Place;
use crate::layer::Buffers;
use crate::layer::frame::FRAME_RAW_MAX;
use crate::remote::Store;
use crate::state::restore::fetch::Source;
use crate::state::restore::{Counters, RestoreError};
use crate::sync::Mutex;
use futures::future::{BoxFuture, Shared};
use futures::{FutureExt, StreamExt};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use turns::{Following, Turns};

/// Bytes of tar stream that are asked of the store at once.
const RUN_BYTES: u64 = 16 << 20;
/// So many fetches are on threads of their own at once, each of which may wait for the store. The store of a
/// directory answers on such threads as well, and the runtime has 512 of them.
const FETCHES_MAX: usize = 64;

/// So many for one who waits for many files.
const BRING_AT_ONCE: usize = 8;

/// Why a file did not come. Shared by all who wait for it.
pub type Failure = Arc<RestoreError>;

type Flight = Shared<BoxFuture<'static, Result<(), Failure>>>;

/// What a cut leaves of a file is here, for nobody to see yet.
#[derive(Debug)]
pub struct Beginning {
    file: u32,
    length: u64,
    /// Of a large one that is absent.
    partial: Option<Arc<Partial>>,
}

/// See the module.
pub struct Hydrator {
    absent: Arc<Absent>,
    source: Source,
    buffers: Buffers,
    /// Brings large files.
    ranges: Arc<Ranges>,
    counters: Arc<Counters>,
    handle: Handle,
    fetches: Arc<Semaphore>,
    /// Files under way for somebody who waits. Owner of its lock.
    flights: Mutex<HashMap<u32, Flight>>,
    /// What lies beside a file that is brought comes along.
    neighbours: bool,
    /// What cannot come.
    lost: Lost,
    /// How fast the background may go.
    pace: Pace,
    turns: Arc<Turns>,
    stopped: AtomicBool,
    background: AtomicU64,
}

impl std::fmt::Debug for Hydrator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hydrator").field("absent", &self.absent).finish_non_exhaustive()
    }
}

impl Hydrator {
    /// Brings from `store` what is absent. With `neighbours` a file that is waited for brings along what the
    /// bytes that must be read for it hold as well: it is wanted anyway.
    /// In the background it keeps to `pace`.
    pub fn new(absent: Arc<Absent>, store: Store, handle: Handle, neighbours: bool, pace: Pace) -> Self {
        let counters: Arc<Counters> = Arc::default();
        Self {
            buffers: Buffers::default(),
            source: Source::new(store.clone(), handle.clone(), counters.clone()).remembering(),
            ranges: Arc::new(Ranges::new(absent.clone(), store, handle.clone(), counters.clone())),
            absent,
            counters,
            handle,
            fetches: Arc::new(Semaphore::new(FETCHES_MAX)),
            flights: Mutex::default(),
            neighbours,
            lost: Lost::default(),
            pace,
            turns: Arc::default(),
            stopped: AtomicBool::new(false),
            background: AtomicU64::new(0),
        }
    }

    /// What it brings.
    pub fn absent(&self) -> &Arc<Absent> {
        &self.absent
    }

    /// The files that cannot come, if there are any.
    pub fn lost(&self) -> Option<LostFiles> {
        self.lost.look(&self.absent)
    }

    /// Bytes that came from the store.
    pub fn bytes(&self) -> u64 {
        self.counters.bytes()
    }

    /// How many files somebody waited for.
    pub fn demanded(&self) -> u64 {
        self.turns.demanded()
    }

    /// Bytes that the background has asked for.
    pub fn background(&self) -> u64 {
        self.background.load(Ordering::Relaxed)
    }

    /// Brings these files; ready when all are there. Those wanted already are not asked for twice.
    pub async fn bring(self: &Arc<Self>, mut files: Vec<u32>) -> Result<(), Failure> {
        let _waiting = self.turns.wait();
        files.sort_unstable();
        files.dedup();
        let flights = self.runs(&files, RUN_BYTES).into_iter().map(|run| match run.len() {
            1 => self.flight(run.start),
            _ => self.fetch(run.clone(), run, None).boxed().shared(),
        });
        let mut outcome = Outcome::default();
        let mut flights = futures::stream::iter(flights).buffer_unordered(BRING_AT_ONCE);
        while let Some(result) = flights.next().await {
            outcome.add(result)?;
        }
        outcome.end()
    }

    fn flight(self: &Arc<Self>, file: u32) -> Flight {
        let mut flights = self.flights.lock();
        if let Some(flight) = flights.get(&file) {
            return flight.clone();
        }
        self.turns.demand();
        let own = self.clone();
        let flight = async move {
            let result =
                if own.ranges.serves(file) { own.whole(file, false).await } else { own.one(file).await };
            own.flights.lock().remove(&file);
            result
        };
        let flight = flight.boxed().shared();
        flights.insert(file, flight.clone());
        // To its end, also when nobody waits any more: a failure of before must not meet who asks later.
        self.handle.spawn(flight.clone());
        flight
    }

    /// Brings a small file. What lies beside it may come after it.
    async fn one(self: &Arc<Self>, file: u32) -> Result<(), Failure> {
        let (tell, here) = oneshot::channel();
        let following = self.following(file);
        let files = following.as_ref().map_or_else(|| self.with_neighbours(file), |all| all.files.clone());
        let all = self.fetch(files, file..file + 1, Some((tell, following)));
        tokio::select! {
            result = all => result,
            Ok(()) = here => Ok(()),
        }
    }

    /// Brings a large file; in the background (`yields`) those who wait go first.
    async fn whole(&self, file: u32, yields: bool) -> Result<(), Failure> {
        let turn = async |bytes| self.turn(bytes, yields).await;
        let came = self.ranges.whole(file, self.step(yields), turn).await;
        came.inspect_err(|failure| self.lost.note_whole(&self.absent, file..file + 1, failure))
    }

    /// Waits until a step of so many bytes may begin; `None` if none may any more. What it returns is kept until
    /// the step is over.
    async fn turn(&self, bytes: u64, yields: bool) -> Option<impl Sized> {
        let background = if yields { Some(self.wait_turn(bytes).await) } else { None };
        (!self.is_stopped()).then_some(background)
    }

    /// Opens a file that is read by range, if it is large enough and absent.
    pub fn reader(&self, file: u32) -> Option<std::io::Result<Reader>> {
        self.ranges.serves(file).then(|| self.ranges.open(file))
    }

    /// Reads a range of such a file; what is missing is brought.
    pub async fn read(self: &Arc<Self>, reader: &Reader, range: Range<u64>) -> Result<Vec<u8>, Failure> {
        let _waiting = self.turns.wait();
        let (file, read) = (reader.file_number(), self.ranges.read(reader, range.clone()).await);
        match &read {
            Ok(_) => self.lost.came(file, &range),
            Err(failure) => self.lost.note(&self.absent, file..file + 1, &range, failure),
        }
        read
    }

    /// Such files.
    pub fn ranges(&self) -> &Arc<Ranges> {
        &self.ranges
    }

    /// How much is asked for at once.
    fn step(&self, yields: bool) -> u64 {
        if yields { self.pace.step(RUN_BYTES) } else { RUN_BYTES }
    }

    /// Joins files whose entries are asked for together. Large ones are brought in parts.
    fn runs(&self, files: &[u32], most: u64) -> Vec<Range<u32>> {
        runs(files, most, |file| self.ranges.serves(file), |file| self.absent.tree().file(file).place)
    }

    /// Bytes that the store sends for a run.
    fn cost(&self, run: &Range<u32>) -> u64 {
        let (start, end) =
            (self.absent.tree().file(run.start).place, self.absent.tree().file(run.end - 1).place);
        let layer = self.absent.layers().get(start.layer as usize);
        let range = layer.map(|layer| layer.index.range(start.offset..end.offset + end.length));
        range.map_or(0, |range| range.end - range.start)
    }

    /// What comes along with a small file that is waited for, where all are to come anyway and as fast as they
    /// can: a whole piece from it on.
    fn following(&self, file: u32) -> Option<Following> {
        if !self.neighbours || self.pace.is_limited() {
            return None;
        }
        self.turns.follow(file, |others| {
            let (tree, near) = (self.absent.tree(), self.with_neighbours(file));
            let from = tree.file(file).place;
            let within = |next: &u32| {
                let place = tree.file(*next).place;
                place.layer == from.layer
                    && place.offset + place.length <= from.offset + RUN_BYTES
                    && !self.ranges.serves(*next)
                    && !others.iter().any(|files| files.contains(next))
            };
            let last = (near.end..tree.files() as u32).take_while(within).last();
            near.start..last.map_or(near.end, |last| last + 1)
        })
    }

    /// The files that lie within the frames that must be read for this one.
    fn with_neighbours(&self, file: u32) -> Range<u32> {
        if !self.neighbours {
            return file..file + 1;
        }
        let (tree, frame) = (self.absent.tree(), FRAME_RAW_MAX as u64);
        let Place { layer, offset, length } = tree.file(file).place;
        let (from, to) = (offset / frame * frame, (offset + length).next_multiple_of(frame));
        let within = |file: &u32| {
            let place = tree.file(*file).place;
            place.layer == layer && place.offset >= from && place.offset + place.length <= to
        };
        let first = (0..file).rev().take_while(within).last().unwrap_or(file);
        let last = (file + 1..tree.files() as u32).take_while(within).last().unwrap_or(file);
        first..last + 1
    }

    /// Whether a program may cut a file; else the error it is told.
    pub fn may_cut(&self, file: u32) -> std::io::Result<()> {
        self.absent.may_be_written(file)
    }

    /// Brings what a cut to a `length` leaves of a file. It is [`cut`](Self::cut) then.
    pub async fn beginning(self: &Arc<Self>, file: u32, length: u64) -> Result<Beginning, Failure> {
        if !self.ranges.serves(file) {
            if length > 0 {
                self.bring(vec![file]).await?;
            }
            return Ok(Beginning { file, length, partial: None });
        }
        let _waiting = self.turns.wait();
        let turn = async |bytes| self.turn(bytes, false).await;
        let came = self.ranges.beginning(file, length, RUN_BYTES, turn).await;
        let note = |failure: &Failure| self.lost.note(&self.absent, file..file + 1, &(0..length), failure);
        Ok(Beginning { file, length, partial: came.inspect_err(note)? })
    }

    /// Puts a file in its places without what is cut off, if it is absent. What it is until the caller gives it its
    /// length no version has. If it fails nothing has changed.
    pub fn cut(&self, beginning: &Beginning) -> Result<(), Failure> {
        match beginning {
            Beginning { partial: Some(partial), length, .. } => self.ranges.cut(partial, *length),
            Beginning { file, length: 0, .. } => {
                let made = self.absent.arrive_empty(*file, true);
                made.map_err(|source| Arc::new(RestoreError::Finish { source }))
            }
            Beginning { .. } => Ok(()),
        }
    }

    /// Nothing more is put on the disk.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.turns.wake();
    }

    /// Whether it was told to [`stop`](Self::stop).
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// The runtime it works on.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

/// Joins files, ascending, whose entries lie close to each other in one layer; not those that stay `alone`.
fn runs(
    files: &[u32],
    most: u64,
    alone: impl Fn(u32) -> bool,
    place_of: impl Fn(u32) -> Place,
) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = Vec::new();
    for &file in files {
        let place = place_of(file);
        if let Some(run) = runs.last_mut()
            && !alone(file)
            && !alone(run.start)
        {
            let (start, last) = (place_of(run.start), place_of(run.end - 1));
            let gap = place.offset.saturating_sub(last.offset + last.length);
            let length = (place.offset + place.length).saturating_sub(start.offset);
            if start.layer == place.layer && gap <= RUN_BYTES / 16 && length <= most {
                run.end = file + 1;
                continue;
            }
        }
        runs.push(file..file + 1);
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_asked_for_together() {
        let place = |layer, offset, length| Place { layer, offset, length };
        let mib = 1 << 20;
        let places = [
            place(0, 0, mib),
            place(0, mib, mib),
            place(0, 9 * mib, mib),
            place(0, 10 * mib, 40 * mib),
            place(1, 0, 1),
        ];
        let runs = |files: &[u32], alone: u32| {
            runs(files, RUN_BYTES, |file| file == alone, |file| places[file as usize])
        };
        assert_eq!(runs(&[0, 1, 2, 3, 4], 9), [0..2, 2..3, 3..4, 4..5]);
        assert_eq!(runs(&[0, 1, 2, 3, 4], 0), [0..1, 1..2, 2..3, 3..4, 4..5]);
        assert_eq!(runs(&[0, 2], 9), [0..1, 2..3]);
        assert!(runs(&[], 9).is_empty());
        assert_eq!(super::runs(&[0, 1], mib, |_| false, |file| places[file as usize]), [0..1, 1..2]);
    }
}
