//! A version that stays the same is kept in fewer layers, and what no kept version needs is let go.
//!
//! On a line that is the HEAD in the remote, whoever made its newest version, and the line stays as it is: the layers
//! of the line itself may be let go, and are deleted as all others are. What of them is not on the disk yet is held
//! there as long as this writer tidies. A fork of the line needs all of them; it is made while they are there, and
//! refused when they are not ([`CommitError::Deleted`]).
use super::layered::{self, Swap};
use super::merge::MERGE_ATTEMPTS;
use super::*;
use crate::remote::Condition;
use crate::state::compact::{self, Aim, Waste};
use crate::state::head::{HEAD_BYTES_AIM, VERSIONS_MAX};
use crate::state::restore::fetch::Source;
use crate::state::restore::{Counters, Lenders};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use std::collections::HashSet;
use std::ops::Range;
use std::time::Duration;
use tokio::runtime::Handle;

/// How many tables are asked for at once.
pub(super) const TABLES_AT_ONCE: usize = 16;
/// After so many layers are gone what stood in them is forgotten; until then it is passed over.
const FORGET_AFTER: usize = 512;
/// After so many versions it is looked anew how much of the layers is dead.
const LOOK_EVERY: VersionId = 64;

/// How a name is kept in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tidy {
    /// How many layers the newest version may have at most.
    pub chain: usize,
    /// How many of the newest versions are kept.
    pub keep: usize,
    /// Younger ones are kept as well.
    pub keep_for: Option<Duration>,
    /// How long a layer that nothing needs stays; `None`: for ever.
    pub delete_after: Option<Duration>,
    /// How much a merge of all layers may write for each byte that those on top of the oldest hold; 0: the
    /// oldest is not merged because much of it is dead.
    pub amplification: u64,
}

/// When it is looked how much of the layers is dead.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct NextLook {
    /// From this version on.
    version: VersionId,
    /// Or when a merge may write so much.
    may: Option<u64>,
}

/// A merge that is to be done.
struct Merging {
    run: Range<usize>,
    aim: Aim,
    tails: Vec<Bytes>,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tidied {
    /// How many layers became one.
    pub merged: usize,
    /// Length of that one.
    pub bytes: u64,
    /// Bytes of files that were copied into it; the rest is referred to.
    pub copied: u64,
    /// Layers that nothing needs any more.
    pub unneeded: usize,
}

impl Committer {
    /// Whether the newest version has as many layers as it may.
    pub fn is_due(&self, tidy: &Tidy) -> bool {
        let state = self.state.lock();
        let layers = state.there().map_or(&[][..], |(head, _)| &head.layers);
        self.options.layout == Layout::Layered && compact::choose(layers, tidy.chain).is_some()
    }

    /// Merges layers of the newest version if there are as many as there may be. `local` are the keys of
    /// layers that this machine still reads. `None`: nothing was to be done, or another writer moved HEAD,
    /// which the next commit finds out. After an error the version is what it was.
    pub async fn tidy(&self, tidy: &Tidy, local: HashSet<String>) -> Result<Option<Tidied>, CommitError> {
        let _turn = self.turn.lock().await;
        let state = self.state();
        if state.unsettled {
            return Err(CommitError::Unsettled);
        }
        let there = match &state.line {
            // Others may have merged it meanwhile, or made it longer.
            Some(_) if self.is_due(tidy) => head::read_head(&*self.store, &state.name).await?,
            Some(_) => None,
            None => state.head.clone().zip(state.tag.clone()).filter(|(_, tag)| tag.0 != STALE_TAG),
        };
        let Some((head, tag)) = there else { return Ok(None) };
        if state.line.is_some() {
            self.heard(head.clone(), tag.clone());
        }
        let Some(run) = compact::choose(&head.layers, tidy.chain) else { return Ok(None) };
        let merging = match self.leaner(&head, &run, tidy.amplification).await? {
            Some(merging) => merging,
            None => Merging { tails: self.tables(&head, &run).await?, run, aim: Aim::Shorter },
        };
        let mut run = merging.run.clone();
        let replaced: Vec<&str> =
            head.layers.get(run.clone()).unwrap_or_default().iter().map(|layer| &*layer.key).collect();
        let id = Uuid::now_v7();
        let key = head::layer_key(id);
        let (upload, written) = self.rewrite(&head, merging, id, state.line.is_none()).await?;
        upload.finish().await?;
        let layer = merged_ref(&key, head.layers.get(run.clone()).unwrap_or_default(), &written);

        let (mut base, mut stored) = (head.clone(), tag);
        for _ in 0..if state.line.is_some() { MERGE_ATTEMPTS } else { SWAP_ATTEMPTS } {
            let now = jiff::Timestamp::now();
            let mut next = base.merged(run.clone(), layer.clone(), stored.clone());
            let since = tidy.keep_for.and_then(|age| now.checked_sub(age).ok());
            let (mut most, mut unneeded) = (VERSIONS_MAX, 0);
            loop {
                unneeded += next.retain(next.kept((tidy.keep, most), since), &local, now);
                let bytes = next.to_bytes().map_or(usize::MAX, |bytes| bytes.len());
                if bytes <= HEAD_BYTES_AIM || most == 1 {
                    break;
                }
                most = next.versions().len().min(most).div_ceil(2);
                tracing::warn!(
                    bytes,
                    most,
                    "HEAD would be too long: fewer versions are kept than was asked for"
                );
            }
            self.lighten(&mut next);
            match self.swap(&next, Some(&key), Condition::IfMatch(stored)).await? {
                Swap::Done(tag, there) => {
                    self.replaced(there.map_or(next, |there| *there), tag, unneeded).await?;
                    let (bytes, copied) = (written.summary.bytes, written.copied);
                    return Ok(Some(Tidied { merged: run.len(), bytes, copied, unneeded }));
                }
                // Somebody gave the version a name.
                Swap::Lost(Some(theirs))
                    if layered::is_ours(&state, &theirs.0) && theirs.0.layers == head.layers =>
                {
                    (base, stored) = *theirs;
                }
                // Another version is on top of it, which we do not have in any case.
                Swap::Lost(Some(theirs)) if state.line.is_some() => {
                    match run_of(&theirs.0, &replaced).filter(|_| theirs.0.lends(&layer.refers)) {
                        Some(there) => (run, (base, stored)) = (there, *theirs),
                        None => return Ok(None),
                    }
                }
                Swap::Lost(_) => return Ok(None),
            }
        }
        Err(layered::refused_for_nothing(&head::head_key(&state.name)).into())
    }

    /// The merge of all layers but the newest, if too much of them is dead. It is looked for when `run` is to be
    /// merged anyway, and not each time: their tables are read for it.
    async fn leaner(
        &self,
        head: &Head,
        run: &Range<usize>,
        amplification: u64,
    ) -> Result<Option<Merging>, CommitError> {
        let Some([oldest, newer @ ..]) = head.layers.get(..run.end) else { return Ok(None) };
        let whole = 0..run.end;
        let may = newer.iter().map(|layer| layer.bytes).sum::<u64>().saturating_mul(amplification);
        let mut tables =
            std::iter::once(oldest).chain(newer).map(|layer| layer.table.as_ref().map(|t| t.bytes));
        if run.start == 0
            || tables.try_fold(0u64, |sum, bytes| Some(sum + bytes?)).is_none_or(|sum| sum > may)
        {
            return Ok(None);
        }
        let next = self.state.lock().next_look;
        if head.version < next.version && next.may.is_none_or(|enough| may < enough) {
            return Ok(None);
        }
        let tails = self.tables(head, &whole).await?;
        let (looked_at, shared) = (head.clone(), tails.clone());
        let range = whole.clone();
        let look = move || {
            let layers = looked_at.layers.get(range.clone()).unwrap_or_default();
            let tail = |(bytes, layer): (_, &LayerRef)| compact::Tail { bytes, layer_bytes: layer.bytes };
            let tails: Vec<_> = shared.iter().map(|tail| &**tail).zip(layers).map(tail).collect();
            Waste::of(&looked_at, range, &tails)
        };
        let waste = tokio::task::spawn_blocking(look).await.map_err(|_| CommitError::Stopped)??;
        // It will be as large as what is alive now, compressed as the layers are.
        let (bytes, raw) =
            head.layers.iter().fold((0, 0), |(b, r), layer| (b + layer.bytes, r + layer.raw_bytes));
        let writes = (waste.live as u128 * u128::from(bytes) / u128::from(raw.max(1))) as u64;
        tracing::debug!(?waste, writes, may, "looked for what is dead");
        // What could not be paid for is looked at again when it can be.
        self.state.lock().next_look =
            NextLook { version: head.version + LOOK_EVERY, may: waste.is_much().then_some(writes) };
        Ok((waste.is_much() && writes <= may).then_some(Merging { run: whole, aim: Aim::Leaner, tails }))
    }

    async fn tables(&self, head: &Head, run: &Range<usize>) -> Result<Vec<Bytes>, CommitError> {
        let layers = head.layers.get(run.clone()).unwrap_or_default();
        let tables = futures::stream::iter(layers.iter().map(|layer| self.table(layer)));
        tables.buffered(TABLES_AT_ONCE).try_collect().await
    }

    async fn rewrite(
        &self,
        head: &Head,
        Merging { run, aim, tails }: Merging,
        id: Uuid,
        remembers: bool,
    ) -> Result<(Box<dyn crate::remote::Upload>, compact::Rewritten), CommitError> {
        let source = Source::new(self.store.clone(), Handle::current(), Arc::<Counters>::default());
        let (known, options, head) = (Arc::clone(self.records.known()), self.options.pack, head.clone());
        let write = move |sink: pack::Sink| {
            let lenders = Lenders::of(&head);
            let written = compact::rewrite(
                (&head, run, &tails, aim),
                (&lenders, &source),
                (remembers.then_some(&*known), id),
                (sink, options),
            )?;
            known.settle()?;
            Ok(written)
        };
        pack::send_by(&*self.store, &head::layer_key(id), Condition::Always, None, write).await
    }

    /// The tail of a layer, as HEAD says it is.
    pub(super) async fn table(&self, layer: &LayerRef) -> Result<Bytes, CommitError> {
        let wrong = |what: &str| LayerError::corrupt(format!("layer {}: {what}", layer.key));
        let table = layer.table.as_ref().ok_or_else(|| wrong("it has no table"))?;
        let range = layer.bytes - table.bytes..layer.bytes;
        let mut download = self.store.download(&layer.key, Some(range)).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = download.body.next().await {
            bytes.extend_from_slice(&piece?);
            if bytes.len() as u64 > table.bytes {
                break;
            }
        }
        if *blake3::hash(&bytes).as_bytes() != table.digest.0 {
            return Err(wrong("its table differs from HEAD").into());
        }
        Ok(bytes.into())
    }

    /// Another document of the version we build on is there, and it is ours; or, on a line, another one of HEAD.
    pub(super) async fn replaced(&self, head: Head, tag: Tag, gone: usize) -> Result<(), CommitError> {
        let mut base = Some(Base { version: head.version, tag: tag.clone(), history: head.history });
        let ids = |head: &Head| -> Vec<Uuid> {
            head.all_layers().filter_map(|(_, layer)| head::layer_id(&layer.key)).collect()
        };
        let mut live: HashSet<Uuid> = ids(&head).into_iter().collect();
        let forget;
        {
            let mut state = self.state.lock();
            if let Some(line) = &mut state.line {
                // The tree stays what it is.
                (line.head, line.tag, base) = (head, tag, None);
                live.extend(state.head.iter().flat_map(ids));
            } else {
                (state.head, state.tag) = (Some(head), Some(tag));
            }
            state.gone += gone;
            forget = state.gone >= FORGET_AFTER;
            if forget {
                state.gone = 0;
            }
        }
        self.blocking(move |records| {
            if let Some(base) = base {
                records.restored(std::iter::empty(), base, false)?;
            }
            // It is all looked at for that.
            if forget { records.known().retain(&live).map(drop) } else { Ok(()) }
        })
        .await
    }
}

/// Where these layers stand one behind the other in a version, and are not its newest.
fn run_of(head: &Head, keys: &[&str]) -> Option<Range<usize>> {
    let start = head.layers.iter().position(|layer| keys.first() == Some(&&*layer.key))?;
    let run = start..start + keys.len();
    let there = head.layers.get(run.clone())?.iter().map(|layer| &*layer.key);
    (run.end < head.layers.len() && there.eq(keys.iter().copied())).then_some(run)
}

fn merged_ref(key: &str, run: &[LayerRef], written: &compact::Rewritten) -> LayerRef {
    let last = run.last();
    LayerRef {
        key: key.into(),
        bytes: written.summary.bytes,
        raw_bytes: written.summary.raw_bytes,
        digest: Digest(written.summary.digest),
        entries: written.summary.entries,
        table: Some(written.summary.tail.into()),
        dictionary: None,
        version: last.map_or(0, |layer| layer.version),
        base: None,
        refers: written.refers.clone(),
        time: last.map_or(jiff::Timestamp::UNIX_EPOCH, |layer| layer.time),
        writer: last.map_or_else(Uuid::nil, |layer| layer.writer),
        changed: written.changed,
        removed: written.removed,
        fuzzy: written.fuzzy,
        inline: None,
        extra: serde_json::Map::new(),
    }
}
