//! What was read first after earlier mounts comes first.
use super::turns::PIECES;
use super::{Failure, Hydrator, Outcome, RestoreError};
use crate::layer::frame::FRAME_RAW_MAX;
use crate::state::absent::Absent;
use crate::state::absent::ranges::KEPT_MAX;
use crate::state::absent::trace::{Trace, Traced, UNIT_BYTES};
use crate::state::absent::tree::What;
use futures::StreamExt;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

/// So many entries of a trace are of about the same time: neighbours among them come together.
const TRACED_TOGETHER: usize = 2048;
/// Parts of so many large files come first: others would push them out again.
const TRACED_LARGE_MAX: usize = KEPT_MAX / 2;
/// Of all frames no more than one in so many comes out of its turn for a few files, and if more than half of all
/// bytes are wanted none does: to have most of them in the order of a trace takes longer than to have all in
/// their own.
const SHARE: usize = 16;

/// How many frames come out of their turn for a few files.
struct Share {
    /// Most of these is wanted.
    dense: HashSet<(u32, usize)>,
    sparse: HashSet<(u32, usize)>,
    most: usize,
}

impl Share {
    fn new(absent: &Absent, files: impl Iterator<Item = u32>) -> Self {
        let all: usize = absent.layers().iter().map(|layer| layer.index.covering(&(0..u64::MAX)).len()).sum();
        let mut wanted = HashMap::<(u32, usize), u64>::new();
        for file in files {
            let length = absent.tree().file(file).place.length;
            absent.frames_of(file).for_each(|frame| *wanted.entry(frame).or_default() += length);
        }
        if wanted.values().sum::<u64>() > (all * FRAME_RAW_MAX) as u64 / 2 {
            return Self { dense: HashSet::new(), sparse: HashSet::new(), most: 0 };
        }
        let dense = wanted.into_iter().filter(|(_, bytes)| *bytes >= FRAME_RAW_MAX as u64 / 2);
        Self { dense: dense.map(|(f, _)| f).collect(), sparse: HashSet::new(), most: all.div_ceil(SHARE) }
    }

    fn has_room_for(&mut self, absent: &Absent, file: u32) -> bool {
        let is_new = |frame: &(u32, usize)| !self.dense.contains(frame) && !self.sparse.contains(frame);
        let new: Vec<(u32, usize)> = absent.frames_of(file).filter(is_new).collect();
        let has_room = self.sparse.len() + new.len() <= self.most;
        if has_room {
            self.sparse.extend(new);
        }
        has_room
    }
}

impl Hydrator {
    /// Brings first, in its order, what a trace says; neighbours of about the same time together.
    pub async fn bring_first(self: &Arc<Self>, trace: &Trace) -> Result<(), Failure> {
        let (absent, mut outcome, _sweep) = (&self.absent, Outcome::default(), self.turns.sweep());
        let mut large: HashSet<u32> = HashSet::new();
        let small = |traced: &Traced| match self.traced(traced) {
            Some(file) if traced.units.is_none() && !self.ranges.serves(file) => Some(file),
            _ => None,
        };
        let mut share = Share::new(absent, trace.entries.iter().filter_map(small));
        for batch in trace.entries.chunks(TRACED_TOGETHER) {
            let (mut files, mut parts) = (Vec::new(), BTreeMap::<u32, Vec<Range<u64>>>::new());
            for traced in batch {
                let Some(file) = self.traced(traced) else { continue };
                match (&traced.units, self.ranges.serves(file)) {
                    (None, false) if share.has_room_for(absent, file) => files.push(file),
                    (Some(units), true) if large.len() < TRACED_LARGE_MAX || large.contains(&file) => {
                        large.insert(file);
                        let bytes = |unit: u32| u64::from(unit) * UNIT_BYTES;
                        parts.entry(file).or_default().push(bytes(units.start)..bytes(units.end));
                    }
                    // Too much, or its size is another by now, and nobody knows what would be read of it.
                    (None, true | false) | (Some(_), false | true) => {}
                }
            }
            let rank: HashMap<u32, usize> =
                files.iter().rev().zip((0..files.len()).rev()).map(|(f, n)| (*f, n)).collect();
            files.sort_unstable();
            files.dedup();
            let mut runs = self.runs(&files, self.step(true));
            runs.sort_by_key(|run| run.clone().filter_map(|file| rank.get(&file)).min().copied());
            let runs = runs.into_iter().map(|run| async move {
                let _running = self.wait_turn(self.cost(&run)).await;
                match self.is_stopped() {
                    true => Err(Arc::new(RestoreError::Stopped)),
                    false => self.fetch(self.widened(&run), run, None).await,
                }
            });
            let mut runs = futures::stream::iter(runs).buffered(PIECES);
            while let Some(result) = runs.next().await {
                outcome.add(result)?;
            }
            for (file, ranges) in parts {
                let _running = self.wait_turn(ranges.iter().map(|r| r.end - r.start).sum()).await;
                if self.is_stopped() {
                    return Err(Arc::new(RestoreError::Stopped));
                }
                // Damage is noted by who reads it, or brings all of the file.
                outcome.add(self.ranges.bring(file, &ranges).await)?;
            }
        }
        outcome.end()
    }

    /// The file that an entry of a trace is, if it is absent.
    fn traced(&self, traced: &Traced) -> Option<u32> {
        let node = self.absent.tree().find(&traced.path).filter(|node| self.absent.is_absent(*node))?;
        match self.absent.tree().what(node) {
            What::File(file) => Some(file),
            _ => None,
        }
    }

    /// A run with what else lies in the frames that must be read for it.
    fn widened(&self, run: &Range<u32>) -> Range<u32> {
        self.with_neighbours(run.start).start..self.with_neighbours(run.end - 1).end
    }
}
