//! [`Run`]: one restore, on its blocking thread.
mod partial;

use super::existing::{Ground, Put, There, Weighed};
use super::fetch::{AHEAD_MAX, Fetched, Source};
use super::lenders::Want;
use super::logs::Logs;
use super::passing::Passing;
use super::seen::{Seen, Verdict};
use super::{Counters, Existing, LayerSource, Policy, RestoreError, Restored, RestoredPath, Standing};
use crate::layer::extract::{Extractor, Note, Placed};
use crate::layer::{Dictionary, Entry, Kind, LayerError, LayerReader, Tap};
use crate::path::RelPath;
use crate::state::head::layer_id;
use crate::state::identity::Identity;
use partial::Partial;
use rustix::fs::{FileType, Stat};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The most layers whose bytes are under way: as many as a chain has by default, since most of them are small and each is
/// a wait for the store.
const LAYERS_AHEAD: usize = 16;
/// The most bytes that are under way in all of them: this bounds memory.
const BYTES_AHEAD: u64 = 4 * AHEAD_MAX as u64;
/// The most restored paths handed over at once.
const BATCH_MAX: usize = 1024;
/// What stands by then is handed over before a file comes that has so many bytes.
const LARGE_BYTES: u64 = 8 << 20;
/// The most files that wait for older layers, to get their parts while these go by: each has two descriptors then.
const TAPPED_AT_ONCE: usize = 128;

/// One restore, on its blocking thread.
pub(super) struct Run {
    source: Source,
    extractor: Extractor,
    ground: Ground,
    seen: Seen,
    policy: Policy,
    counters: Arc<Counters>,
    restored: Restored,
    batch: Vec<RestoredPath>,
    partial: Vec<Partial>,
    /// So many of them, the first ones, get parts of the layer that goes by.
    tapped: usize,
    logs: Logs,
    passing: Passing,
    /// Why a layer could not be gone on with, if that lies elsewhere.
    failure: Option<RestoreError>,
}

impl Run {
    pub(super) fn new(source: Source, root: OwnedFd, mut policy: Policy, counters: Arc<Counters>) -> Self {
        let ground = Ground::new(&root, policy.aside.take());
        let extractor = Extractor::new(root);
        if !ground.was_empty() {
            // Whoever is killed leaves nothing that looks like work of somebody's.
            extractor.be_careful();
        }
        let passing = Passing::new(policy.known.take());
        Self {
            source,
            extractor,
            ground,
            seen: Seen::default(),
            policy,
            counters,
            restored: Restored::default(),
            batch: Vec::new(),
            partial: Vec::new(),
            tapped: 0,
            logs: Logs::default(),
            passing,
            failure: None,
        }
    }

    pub(super) fn all(mut self, layers: &[LayerSource]) -> Result<Restored, RestoreError> {
        let result = self.every(layers);
        self.passing.settle();
        for Partial { path, new, .. } in &self.partial {
            self.extractor.abandon_file(path, new);
        }
        if result.is_err() {
            let _failed_as_well = self.extractor.settle();
            self.tell(0);
        }
        result.map(|()| self.restored)
    }

    fn every(&mut self, layers: &[LayerSource]) -> Result<(), RestoreError> {
        let mut ahead = VecDeque::new();
        let held = |layer: &LayerSource| layer.bytes.min(AHEAD_MAX as u64);
        let (mut waiting, mut under_way) = (layers.iter().peekable(), 0);
        for (index, layer) in layers.iter().enumerate() {
            let fits = |next: &LayerSource, count: usize, bytes: u64| {
                count == 0 || count < LAYERS_AHEAD && bytes + held(next) <= BYTES_AHEAD
            };
            while let Some(next) = waiting.next_if(|next| fits(next, ahead.len(), under_way)) {
                under_way += held(next);
                ahead.push_back(self.source.open(next));
            }
            let Some(mut bytes) = ahead.pop_front() else { break };
            let dictionary = self.source.dictionary(layer)?;
            self.passing.layer(layer_id(&layer.key));
            let result =
                self.tap(layer).and_then(|tap| self.layer(index, &mut bytes, dictionary.as_ref(), tap));
            self.settle(layer, &mut bytes, result)?;
            loop {
                let orphans = self.seen.take_orphans();
                if orphans.is_empty() {
                    break;
                }
                let mut bytes = self.source.open(layer);
                let result = self.orphans(index, &mut bytes, dictionary.as_ref(), orphans);
                self.settle(layer, &mut bytes, result)?;
            }
            self.complete(TAPPED_AT_ONCE)?;
            under_way -= held(layer);
        }
        self.complete(0)?;
        self.policy.begin().map_err(|source| RestoreError::Finish { source })?;
        let tidied = std::mem::take(&mut self.logs).tidy(&mut self.extractor, &mut self.ground);
        tidied.map_err(|source| RestoreError::Finish { source })?;
        let end = self.extractor.finish().map_err(|source| RestoreError::Finish { source })?;
        self.hand_over(end.placed, layers.len());
        self.flush_batch();
        let notes: BTreeSet<Note> = end.notes.into_iter().chain(self.ground.notes()).collect();
        self.restored.notes = notes.iter().map(Note::to_string).collect();
        self.restored.bytes = self.counters.bytes.load(Ordering::Relaxed);
        self.restored.moved = self.ground.take_moved();
        Ok(())
    }

    /// A layer is done when its object was read to the end and is the one HEAD names.
    fn settle(
        &mut self,
        layer: &LayerSource,
        bytes: &mut Fetched,
        result: Result<(), LayerError>,
    ) -> Result<(), RestoreError> {
        let result = result
            .and_then(|()| io::copy(bytes, &mut io::sink()).map_err(|e| LayerError::io("end of object", e)));
        match (result, self.failure.take().or_else(|| bytes.take_failure())) {
            // The cause comes before what it led to.
            (_, Some(failure)) => Err(failure),
            (Err(source), None) => Err(RestoreError::Layer { key: layer.key.clone(), source }),
            (Ok(_), None) if self.counters.stop.load(Ordering::Relaxed) => Err(RestoreError::Stopped),
            (Ok(_), None) => Ok(()),
        }
    }

    fn reader<'a>(
        &self,
        bytes: &'a mut Fetched,
        dictionary: Option<&Dictionary>,
    ) -> Result<LayerReader<&'a mut Fetched>, LayerError> {
        let reader = if self.policy.lenient { LayerReader::lenient(bytes) } else { LayerReader::new(bytes) };
        Ok(reader?.with_dictionary(dictionary))
    }

    fn layer(
        &mut self,
        index: usize,
        bytes: &mut Fetched,
        dictionary: Option<&Dictionary>,
        tap: Tap,
    ) -> Result<(), LayerError> {
        let mut reader = self.reader(bytes, dictionary)?.with_tap(tap).with_watch(self.passing.watch());
        while let Some(entry) = reader.next_entry()? {
            if self.counters.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            match self.seen.judge(&entry, index)? {
                Verdict::Hidden | Verdict::Orphan => {}
                Verdict::Again => {
                    self.extractor.end_layer()?;
                    self.drop_partial(&entry.path);
                    self.put(&entry, &mut reader)?;
                }
                Verdict::Ours => {
                    if matches!(entry.kind, Kind::File { size, .. } if size >= LARGE_BYTES) {
                        self.extractor.settle()?;
                        self.tell(index); // before it takes its time
                    }
                    let begun = self.passing.begin(&entry, &reader);
                    self.entry(index, &entry, &mut reader)?;
                    self.passing.end(begun);
                }
            }
            if self.restored.entries.is_multiple_of(BATCH_MAX as u64) {
                let placed = self.extractor.take_placed();
                self.hand_over(placed, index);
            }
        }
        reader.take_tap().finish().map_err(|e| LayerError::from_stream("parts of files", e))?;
        self.extractor.end_layer()?;
        self.tell(index);
        Ok(())
    }

    /// Hands over all that stands by now.
    fn tell(&mut self, index: usize) {
        self.extractor.tell_directories();
        let placed = self.extractor.take_placed();
        self.hand_over(placed, index);
        self.flush_batch();
    }

    fn entry<R: io::Read + Send>(
        &mut self,
        index: usize,
        entry: &Entry,
        reader: &mut LayerReader<R>,
    ) -> Result<(), LayerError> {
        if matches!(entry.kind, Kind::Whiteout) {
            return Ok(()); // hides older layers; what is local stays
        }
        if let Kind::HardLink { target } = &entry.kind
            && self.ground.lacks(target)
        {
            self.seen.orphan(target, &entry.path);
            return Ok(());
        }
        self.restored.entries += 1;
        self.restored.files += u64::from(matches!(entry.kind, Kind::File { .. }));
        self.counters.files.fetch_add(1, Ordering::Relaxed);
        self.logs.has(&entry.path);
        if let Kind::HardLink { target } = &entry.kind {
            self.complete_target(target)?;
        }
        let there =
            self.ground.look((&mut self.extractor, &mut self.policy), &self.seen, (&entry.path, index))?;
        let is_gone = matches!(there, There::Nothing)
            && !matches!(entry.kind, Kind::Directory)
            && (self.policy.gone)(entry, index);
        if is_gone || matches!(there, There::Hidden) {
            self.restored.kept += 1;
            self.overruled(entry, false);
            return Ok(());
        }
        if let There::Something(stat) = there {
            let identity = Identity::from(&stat);
            let standing = match &mut self.policy.existing {
                Existing::Keep(judge) => judge(&entry.path, entry, &identity, index),
                Existing::Rewrite => Standing::Unknown,
            };
            if standing == Standing::Stays {
                self.keep(entry, &stat)?;
                let path = entry.path.clone();
                self.batch.push(RestoredPath { path, identity, layer: index, kept: true });
                return Ok(());
            }
            self.policy.begin()?;
            if self.ground.must_weigh(entry, &stat, standing) {
                return self.weigh(index, entry, reader, &stat, standing);
            }
            if let Standing::Wins { changed } = standing {
                self.keep(entry, &stat)?;
                self.overruled(entry, changed);
                return Ok(());
            }
            self.ground.clear(&mut self.extractor, entry, &stat, standing)?;
        }
        self.policy.begin()?;
        if matches!(entry.kind, Kind::File { .. }) && !self.ground.was_empty() {
            self.logs.placed(&mut self.extractor, &entry.path)?;
        }
        if let Kind::HardLink { target } = &entry.kind
            && self.ground.has_changed(target)
        {
            self.policy.overruled(entry);
        }
        self.put(entry, reader)
    }

    /// What stands there stays.
    fn keep(&mut self, entry: &Entry, there: &Stat) -> Result<(), LayerError> {
        self.restored.kept += 1;
        let is_dir = FileType::from_raw_mode(there.st_mode) == FileType::Directory;
        if matches!(entry.kind, Kind::Directory) && is_dir {
            // Files put into it may still move its mtime.
            self.extractor.keep_directory(entry, there)?;
        }
        self.ground.stays(&entry.path, there);
        Ok(())
    }

    fn overruled(&mut self, entry: &Entry, changed: bool) {
        self.ground.overrules(&entry.path, changed);
        self.policy.overruled(entry);
    }

    /// A local file that may be the entry: what arrives decides.
    fn weigh<R: io::Read + Send>(
        &mut self,
        index: usize,
        entry: &Entry,
        reader: &mut LayerReader<R>,
        there: &Stat,
        standing: Standing,
    ) -> Result<(), LayerError> {
        let (lenders, source) = (&self.policy.lenders, &self.source);
        let lend = |put: &mut Put<'_>| {
            let Kind::File { refs, .. } = &entry.kind else { return Ok(()) };
            let read = lenders.read(source, Want::all(0, refs), |want, bytes| put(want.at, bytes));
            read.map_err(|e| LayerError::io(e.to_string(), io::ErrorKind::Other))
        };
        let weighed = self.ground.weigh(&mut self.extractor, entry, reader, (there, standing), lend)?;
        let (identity, kept) = match weighed {
            Weighed::Kept => (Identity::from(there), true),
            Weighed::Mended(stat) => (Identity::from(&stat), false),
            Weighed::Replaced(stat) => {
                self.logs.placed(&mut self.extractor, &entry.path)?;
                (Identity::from(&stat), false)
            }
            Weighed::Stays => {
                self.overruled(entry, matches!(standing, Standing::Wins { changed: true }));
                return Ok(());
            }
        };
        self.restored.kept += u64::from(kept);
        self.batch.push(RestoredPath { path: entry.path.clone(), identity, layer: index, kept });
        if self.batch.len() >= BATCH_MAX {
            self.flush_batch();
        }
        Ok(())
    }

    /// Files of which a newer layer decided the first name, or something else stays there, but not the others: their
    /// content is under the first name only, so the layer is read once more for it.
    fn orphans(
        &mut self,
        index: usize,
        bytes: &mut Fetched,
        dictionary: Option<&Dictionary>,
        mut orphans: BTreeMap<RelPath, Vec<RelPath>>,
    ) -> Result<(), LayerError> {
        let mut reader = self.reader(bytes, dictionary)?;
        let mut links = Vec::new();
        while let Some(mut entry) = reader.next_entry()? {
            if matches!(entry.kind, Kind::Directory | Kind::Whiteout | Kind::HardLink { .. }) {
                continue;
            }
            let Some(names) = orphans.remove(&entry.path) else { continue };
            let mut names = names.into_iter();
            let Some(first) = names.next() else { continue };
            let content = std::mem::replace(&mut entry.path, first.clone());
            self.entry(index, &entry, &mut reader)?;
            if self.ground.lacks(&first) {
                names.for_each(|path| self.seen.orphan(&content, &path));
                continue;
            }
            links.extend(names.map(|path| Entry {
                path,
                kind: Kind::HardLink { target: first.clone() },
                meta: entry.meta.clone(),
            }));
        }
        if let Some((target, names)) = orphans.first_key_value() {
            let name = names.first().map(ToString::to_string).unwrap_or_default();
            return Err(LayerError::corrupt(format!(
                "hard link to a file that is not there: {target}: {name}"
            )));
        }
        for link in links {
            self.entry(index, &link, &mut reader)?;
        }
        self.extractor.end_layer()?;
        let placed = self.extractor.take_placed();
        self.hand_over(placed, index);
        Ok(())
    }

    fn hand_over(&mut self, placed: Vec<Placed>, index: usize) {
        for Placed { path, stat } in placed {
            let layer = self.seen.layer_of(&path).unwrap_or(index);
            self.batch.push(RestoredPath { path, identity: Identity::from(&stat), layer, kept: false });
        }
        if self.batch.len() >= BATCH_MAX {
            self.flush_batch();
        }
    }

    fn flush_batch(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        if let Some(on_restored) = &mut self.policy.on_restored
            && !batch.is_empty()
        {
            on_restored(batch);
        }
    }
}
