//! Layout layered: one layer a version, and HEAD.
use super::at_once::Along;
use super::merge::{MERGE_ATTEMPTS, Merging};
use super::pack::{Copied, Material};
use super::*;
use crate::remote::Condition;
use crate::state::chunk::Borrowing;

/// How a swap of HEAD ended.
pub(super) enum Swap {
    /// HEAD has our layer; it has this tag, and is this document if not the one that was sent.
    Done(Tag, Option<Box<Head>>),
    /// Another writer's HEAD is there (or none any more).
    Lost(Option<Box<(Head, Tag)>>),
}

impl Committer {
    pub(super) async fn commit_layer(
        &self,
        state: State,
        plan: Arc<Plan>,
        source: Arc<dyn ContentSource>,
        time: Timestamp,
    ) -> Result<Receipt, CommitError> {
        if state.head.is_none() && state.tag.is_some() {
            return Err(CommitError::Unadopted);
        }
        let id = Uuid::now_v7();
        let key = head::layer_key(id);
        let borrowing = Borrowing::new(Arc::clone(self.records.known()), state.head.as_ref(), id);
        // A fork must have what we refer to, and HEAD as well.
        let borrowing = match &state.line {
            Some(line) => borrowing.within(&line.head),
            None => borrowing,
        };
        let options = self.options.pack;
        let dictionary = self.dictionary(state.head.as_ref(), &plan, &source).await;
        let needed = dictionary.as_ref().map(|dictionary| Digest(dictionary.digest()));
        let reader = Arc::clone(&source);
        let material = Material { plan: Arc::clone(&plan), source, dictionary };
        let (borrowing, mut copied) = (Some(borrowing), Copied::default());
        let sent =
            pack::send(&*self.store, &key, Condition::Always, material, options, borrowing, &mut copied);
        let (upload, packed) = sent.await?;
        if packed.summary.entries == 0 {
            upload.abort().await;
            return Ok(self.nothing(&state, packed.skipped));
        }
        reader.all_read();
        let small = copied.whole().filter(|_| self.goes_along(state.head.as_ref()));
        let mut along = match small {
            Some(bytes) => Some(Along { upload, bytes }),
            None => {
                upload.finish().await?;
                None
            }
        };
        let mut pending = self.stage(&state, &key, &packed, Arc::clone(&plan)).await?;

        let writer = self.records.meta().writer;
        let host = self.options.host.clone();
        let mut base = state.head.clone().unwrap_or_else(|| Head::empty(&state.name, writer, &host));
        let layer = LayerRef { dictionary: needed, ..layer_ref(&key, &packed, writer, time) };
        base.dictionary = self.known_dictionary().or(base.dictionary);
        base.log |= self.options.log;
        let mut condition = match &state.tag {
            Some(tag) => Condition::IfMatch(tag.clone()),
            None => Condition::IfAbsent,
        };
        let line = base.clone();
        let lent = state.line.as_ref().map_or(&line, |line| &line.head).lends(&layer.refers);
        let mut since = match &state.line {
            Some(line) => line.since.clone(),
            None => Since::version(state.version),
        };
        let (mut attempt, mut merges, mut merged) = (1, 0, None);
        let theirs = loop {
            let mut next = base.next(writer, &host, layer.clone());
            merge::tag_overlapped(&mut next, state.overlapped);
            self.lighten(&mut next);
            let swapped = match along.take() {
                Some(along) => {
                    along.enter(&mut next);
                    let swap = self.attempt(&next, &key, condition, &state);
                    tokio::join!(self.publish(along, &key, swap), self.make_up(&base)).0
                }
                None => tokio::join!(self.attempt(&next, &key, condition, &state), self.make_up(&base)).0,
            };
            match swapped? {
                Swap::Done(tag, there) => {
                    self.promote(&pending, Some(there.map_or(next, |there| *there)), tag).await?;
                    self.state.lock().overlapped = None;
                    if merged.is_some() {
                        self.remember(since, &plan, &packed.skipped);
                    }
                    let receipt = self.receipt(&state.name, pending.version, packed, None);
                    return Ok(Receipt { merge: merged.take(), ..receipt });
                }
                // Somebody gave our version a name: no writer, and what we build on with it.
                Swap::Lost(Some(theirs)) if is_ours(&state, &theirs.0) => {
                    if attempt == SWAP_ATTEMPTS {
                        return Err(refused_for_nothing(&head::head_key(&state.name)).into());
                    }
                    let (head, tag) = *theirs;
                    if !head.lends(&layer.refers) {
                        // What the layer refers to was let go meanwhile, and may be deleted any time.
                        self.replaced(head, tag, 0).await?;
                        return Err(CommitError::LetGo);
                    }
                    (base, condition) = (head, Condition::IfMatch(tag));
                    base.dictionary = self.known_dictionary().or(base.dictionary);
                    base.log |= self.options.log;
                    attempt += 1;
                }
                Swap::Lost(Some(theirs)) if self.lost() == Lost::Merge && merges < MERGE_ATTEMPTS => {
                    if self.adopt_late(&state.name, &theirs.0, &theirs.1).await? {
                        return Err(CommitError::Outdated);
                    }
                    if line::is_other_history(&line, &since, &theirs.0) {
                        tracing::error!(name = %state.name, version = since.ours, there = theirs.0.version,
                            "the remote went back to an older version or has another history: nothing is merged with it");
                        break theirs;
                    }
                    merges += 1;
                    let (their, stored) = (&theirs.0, &theirs.1);
                    if lent && !their.lends(&layer.refers) {
                        // As above.
                        self.heard(theirs.0, theirs.1);
                        return Err(CommitError::LetGo);
                    }
                    let merge = self.merge((&line, &since), &plan, (their, stored), &layer).await?;
                    let Some(Merging { base: on, told, foreign }) = merge else { break theirs };
                    since.known = Some((their.version, Arc::new(foreign)));
                    let version = their.version + 1;
                    pending = self
                        .blocking(move |records| records.merge(&mut pending, version).map(|()| pending))
                        .await?;
                    (base, condition, merged) = (on, Condition::IfMatch(stored.clone()), Some(told));
                    base.dictionary = self.known_dictionary().or(base.dictionary);
                }
                Swap::Lost(Some(theirs)) => break theirs,
                Swap::Lost(None) => return Err(self.gone(state.name.clone(), head::head_key(&state.name))),
            }
        };
        if self.adopt_late(&state.name, &theirs.0, &theirs.1).await? {
            return Err(CommitError::Outdated);
        }

        if self.lost() == Lost::GiveWay {
            return Err(self.give_way(state.name));
        }
        let base = line;
        self.require_layers(&base, &theirs.0).await?;
        let origin = self.records.meta().name;
        for attempt in 1..=FORK_ATTEMPTS {
            let name = fork::fork_name(&origin, &host, head::instant(time), attempt);
            let next = base.fork(&name).next(writer, &host, layer.clone());
            let (target, next_of) = (name.clone(), next.version);
            pending = self
                .blocking(move |records| records.retarget(&mut pending, &target, next_of).map(|()| pending))
                .await?;
            if let Swap::Done(tag, there) = self.swap(&next, Some(&key), Condition::IfAbsent).await? {
                let next = there.map_or(next, |there| *there);
                tracing::error!(fork = %name, from = %state.name, version = state.version,
                    "another writer moved HEAD; our changes are in a fork");
                self.promote(&pending, Some(next), tag).await?;
                let forked = Forked { name: name.clone(), from: state.name, base: state.version };
                return Ok(self.receipt(&name, pending.version, packed, Some(forked)));
            }
        }
        Err(RemoteError::Precondition { key: head::head_key(&origin) }.into())
    }

    /// Swaps HEAD. Whoever knows that another writer's is there asks for that one at once.
    async fn attempt(
        &self,
        next: &Head,
        key: &str,
        condition: Condition,
        state: &State,
    ) -> Result<Swap, CommitError> {
        let is_stale = matches!(&condition, Condition::IfMatch(tag) if tag.0 == STALE_TAG);
        if !is_stale || self.lost() != Lost::Merge {
            return self.swap(next, Some(key), condition).await;
        }
        Ok(Swap::Lost(head::read_head(&*self.store, &state.name).await?.map(Box::new)))
    }

    /// A fork lists the layers of `base`; those that `theirs` has let go may have been deleted.
    async fn require_layers(&self, base: &Head, theirs: &Head) -> Result<(), CommitError> {
        for key in base.needed([base.version]).into_iter().filter(|key| theirs.layer(key).is_none()) {
            match self.store.head(&key).await {
                Ok(_) => {}
                Err(RemoteError::NotFound { key }) => {
                    return Err(CommitError::Deleted { name: base.name.clone(), key });
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Puts a HEAD document under a condition. If it is not clear whether that happened, reads HEAD
    /// to find out, by the layer `key` that is new in it; if that fails, too, the committer is unsettled.
    pub(super) async fn swap(
        &self,
        next: &Head,
        key: Option<&str>,
        condition: Condition,
    ) -> Result<Swap, CommitError> {
        let bytes = bytes::Bytes::from(next.to_bytes()?);
        let place = head::head_key(&next.name);
        let mut failure = refused_for_nothing(&place);
        for _ in 0..SWAP_ATTEMPTS {
            // Unknown from the moment it is sent, even if this future is dropped.
            self.state.lock().unsettled = true;
            let sent = self.store.put(&place, bytes.clone(), condition.clone()).await;
            let certain = match sent {
                Ok(tag) => {
                    self.state.lock().unsettled = false;
                    return Ok(Swap::Done(tag, None));
                }
                Err(RemoteError::Precondition { .. } | RemoteError::NotFound { .. }) => true,
                Err(e) => {
                    failure = e;
                    false
                }
            };
            let current = match head::read_head(&*self.store, &next.name).await {
                Ok(current) => current,
                Err(e) if certain => return Err(e.into()),
                Err(_) => return Err(failure.into()),
            };
            self.state.lock().unsettled = false;
            if let Some((head, tag)) = &current
                && key.is_some_and(|key| head.has_layer(key))
            {
                // With the tags it was given since.
                return Ok(Swap::Done(tag_of(head, tag, next.version), head.at(next.version).map(Box::new)));
            }
            if !certain {
                return Err(failure.into());
            }
            let unmoved = match (&condition, &current) {
                (Condition::IfMatch(ours), Some((_, tag))) => ours == tag,
                (_, None) => condition == Condition::IfAbsent,
                _ => false,
            };
            if !unmoved {
                return Ok(Swap::Lost(current.map(Box::new)));
            }
        }
        Err(failure.into())
    }

    /// HEAD may have an earlier layer of ours whose PUT took effect after we had given it up.
    async fn adopt_late(&self, name: &str, head: &Head, tag: &Tag) -> Result<bool, CommitError> {
        let pending = self.blocking(|records| records.pending()).await?;
        for earlier in pending.iter().rev().filter(|p| p.target == name) {
            if let Some(ours) = head.at(earlier.version).filter(|h| h.has_layer(&earlier.layer)) {
                self.promote(earlier, Some(ours), tag_of(head, tag, earlier.version)).await?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) async fn resolve_layers(&self) -> Result<(), CommitError> {
        let pending = self.blocking(|records| records.pending()).await?;
        let names: BTreeSet<String> = pending.iter().map(|p| p.target.clone()).collect();
        let state = self.state(); // without a tag while a committer opens
        for name in names {
            match head::read_head(&*self.store, &name).await? {
                Some((head, tag)) if self.adopt_late(&name, &head, &tag).await? => return Ok(()),
                None if name == state.name && state.tag.is_some() => {
                    let key = head::head_key(&name);
                    return Err(self.gone(name, key));
                }
                _ => {}
            }
        }
        if let Some(cut_off) = self.blocking(|records| records.interrupted()).await? {
            // HEAD had it, and has moved on so far that it no longer shows.
            self.promote(&cut_off, None, Tag(STALE_TAG.into())).await?;
        }
        Ok(())
    }
}

/// The store says that somebody moved an object that nobody moved (S3 does so for two PUTs at once).
pub(super) fn refused_for_nothing(key: &str) -> RemoteError {
    RemoteError::Unavailable { message: format!("conditional write refused, though nothing moved: {key}") }
}

/// Whether this is the version we build on, with other tags. Not if we know that another writer's is
/// there: what we build on then may only look like it.
pub(super) fn is_ours(state: &State, theirs: &Head) -> bool {
    state.tag.as_ref().is_some_and(|tag| tag.0 != STALE_TAG)
        && state.head.as_ref().is_some_and(|ours| theirs.is_version_of(ours))
}

/// The tag to build on: HEAD's own if it shows our version, else one that no HEAD has, since
/// another writer has built on ours.
fn tag_of(head: &Head, tag: &Tag, version: VersionId) -> Tag {
    if head.version == version { tag.clone() } else { Tag(STALE_TAG.into()) }
}

fn layer_ref(key: &str, packed: &Packed, writer: Uuid, time: Timestamp) -> LayerRef {
    LayerRef {
        key: key.into(),
        bytes: packed.summary.bytes,
        raw_bytes: packed.summary.raw_bytes,
        digest: Digest(packed.summary.digest),
        entries: packed.summary.entries,
        table: Some(packed.summary.tail.into()),
        dictionary: None,
        version: 0,
        base: None,
        refers: packed.refers.clone(),
        time: head::instant(time),
        writer,
        changed: packed.changed,
        removed: packed.removed,
        fuzzy: packed.fuzzy,
        inline: None,
        extra: serde_json::Map::new(),
    }
}
