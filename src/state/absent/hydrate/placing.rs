//! Files from one span of a layer to their places.
use super::{Failure, Following, Hydrator};
use crate::error::ErrorKind;
use crate::layer::{Kind, LayerError, LayerReader};
use crate::state::absent::arrival::Arrivals;
use crate::state::absent::lent::Lent;
use crate::state::chunk::Digests;
use crate::state::restore::RestoreError;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;

impl Hydrator {
    /// Reads the span of some files of one layer and puts those still absent in their places. It is no failure
    /// that one does not come that is not `wanted`. `here` is told as soon as the only wanted one is here.
    pub(super) fn fetch(
        self: &Arc<Self>,
        files: Range<u32>,
        wanted: Range<u32>,
        one: Option<(oneshot::Sender<()>, Option<Following>)>,
    ) -> impl Future<Output = Result<(), Failure>> + use<> {
        let own = self.clone();
        async move {
            let one_of_few = own.fetches.clone().acquire_owned().await;
            let work = tokio::task::spawn_blocking(move || {
                let (here, following) = one.unzip();
                // Also when nobody waits for it any more.
                let _to_the_end = (one_of_few, following);
                own.place_around_damage(files, wanted, here)
            });
            work.await.unwrap_or(Err(Arc::new(RestoreError::Stopped)))
        }
    }

    /// What is damaged keeps nothing beside it from coming: the rest of what is wanted is halved until only
    /// that is left.
    fn place_around_damage(
        &self,
        files: Range<u32>,
        wanted: Range<u32>,
        here: Option<oneshot::Sender<()>>,
    ) -> Result<(), Failure> {
        let Err(failure) = self.place(files, wanted.clone(), here) else { return Ok(()) };
        let damaged = match &failure {
            RestoreError::Layer { key, source } if source.kind() == ErrorKind::Corrupt => Some(key),
            _ => None,
        };
        if let Some(key) = damaged {
            self.source.forget(key);
        }
        if damaged.is_none() || wanted.len() < 2 {
            let failure = Arc::new(failure);
            self.lost.note_whole(&self.absent, wanted, &failure);
            return Err(failure);
        }
        let middle = wanted.start + (wanted.end - wanted.start) / 2;
        let halves = [wanted.start..middle, middle..wanted.end];
        let [first, second] = halves.map(|half| self.place_around_damage(half.clone(), half, None));
        first.and(second)
    }

    fn place(
        &self,
        files: Range<u32>,
        wanted: Range<u32>,
        here: Option<oneshot::Sender<()>>,
    ) -> Result<(), RestoreError> {
        let (tree, absent) = (self.absent.tree(), &self.absent);
        // A large one comes to the file that those who have it open use, and never by this road beside it.
        let comes = |file: u32| !self.ranges.serves(file);
        let is_absent = |file: &u32| absent.wants(*file) && comes(*file);
        let ends = (files.clone().find(is_absent), files.clone().rev().find(is_absent));
        let (Some(first), Some(last)) = ends else {
            return Ok(());
        };
        let (start, end) = (tree.file(first).place, tree.file(last).place);
        let span = start.offset..end.offset + end.length;
        let Some(layer) = absent.layers().get(start.layer as usize) else { return Ok(()) };
        let failed = |source: LayerError| RestoreError::Layer { key: layer.source.key.clone(), source };
        if tree.file(first).size == 0 && first == last {
            return absent.arrive_empty(first, false).map_err(failed);
        }
        let dictionary = self.source.dictionary(&layer.source)?;
        let mut bytes = self.source.open_range(&layer.source.key, layer.index.range(span.clone()));
        let mut lent = Lent::new(absent, &self.source, files);
        let result = (|| {
            let mut reader = LayerReader::section(&mut bytes, &layer.index, span)?
                .with_buffers(&self.buffers)
                .with_dictionary(dictionary.as_ref());
            let mut next = first;
            let mut arrivals = Arrivals::new(absent, wanted).telling(here);
            let read = (|| {
                while let Some(entry) = reader.next_entry()? {
                    if !matches!(entry.kind, Kind::File { .. }) {
                        continue;
                    }
                    // Files have their numbers in the order of their rows.
                    let file = next;
                    next += 1;
                    if !self.stopped.load(Ordering::Relaxed) && comes(file) {
                        arrivals.add(file, &entry.meta, |into| {
                            let row = tree.file(file);
                            let mut digests = Digests::new(row.size);
                            reader.content_watched(into, |at, bytes| digests.update(at, bytes))?;
                            absent.saw_entry(layer, row.place, reader.data(), &mut digests);
                            lent.fill(file, into)
                        })?;
                    }
                }
                Ok(())
            })();
            // Those before the failure are whole.
            read.and(arrivals.finish())
        })();
        match (result, bytes.take_failure().or_else(|| lent.take_failure())) {
            (_, Some(failure)) => Err(failure),
            (Err(source), None) => Err(failed(source)),
            (Ok(()), None) => Ok(()),
        }
    }
}
