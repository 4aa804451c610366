//! [`Committer`]: a plan becomes a version, wholly or not at all.
//!
//! Order makes it safe: the layer first, then what it means for the records, then HEAD under the
//! condition that nobody moved it, then the records. A lost reply is told from a lost race by
//! reading HEAD. Whoever lost a race keeps its changes in a fork and goes on there.
use crate::clock::Timestamp;
use crate::journal::JournalError;
use crate::layer::{Dictionary, Kind, LayerError, PackOptions};
use crate::path::RelPath;
use crate::remote::{RemoteError, Store, Tag};
use crate::state::head::{self, Digest, Head, HeadError, LayerRef, VersionId};
use crate::state::plan::{Captured, Plan};
use crate::state::record::{Base, Pending, RecordError, Records};
use crate::state::source::ContentSource;
use crate::sync::Mutex;
use line::{Line, Since};
use pack::Packed;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use uuid::Uuid;

mod at_once;
mod compress;
mod foreign;
mod fork;
mod layered;
mod line;
mod merge;
mod open;
mod ours;
pub mod pack;
mod prune;
mod single;
#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests;
mod tidy;

pub use merge::Merge;
pub use open::{Opening, Relation, look};
pub use prune::PruningError;
pub use tidy::{Tidied, Tidy};

/// How often a conditional PUT is tried when nobody moved its object and it failed all the same.
const SWAP_ATTEMPTS: u32 = 4;
/// How many names are tried for a fork.
const FORK_ATTEMPTS: u32 = 8;
/// A tag no object has: the next swap fails, and its changes become a fork.
const STALE_TAG: &str = "\"stale\"";

/// How versions lie in the remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// One layer a version, and HEAD.
    Layered,
    /// One archive, complete in every version: `<name>.zst`. Plans must be whole.
    Single,
}

/// How to commit.
#[derive(Debug, Clone)]
pub struct CommitOptions {
    /// How versions lie in the remote.
    pub layout: Layout,
    /// The name of this machine, for HEAD and the names of forks.
    pub host: String,
    /// How to pack.
    pub pack: PackOptions,
    /// Whether small layers are compressed with a dictionary (layered only).
    pub dictionary: bool,
    /// Whether nothing but HEAD may ever be deleted or replaced (layered only).
    pub log: bool,
    /// Whether a small layer goes with HEAD and at the same time as its object, so that a version takes as long as one
    /// request (layered, and not where nothing is deleted).
    pub at_once: bool,
    /// What becomes of changes when another writer moved the name.
    pub lost: Lost,
}

/// What becomes of changes when another writer was faster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lost {
    /// They go to a fork.
    Fork,
    /// They are put on top of what the other one changed (layered only; else, and where that cannot be done,
    /// they go to a fork).
    Merge,
    /// They stay unsaved.
    GiveWay,
}

/// What a commit did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The name whose version this is.
    pub name: String,
    /// The newest version now.
    pub version: VersionId,
    /// Whether this commit made it; not if there was nothing to say, and then nothing was sent.
    pub committed: bool,
    /// Bytes of the new object.
    pub bytes: u64,
    /// Bytes of the archive inside.
    pub raw_bytes: u64,
    /// Paths set.
    pub changed: u64,
    /// Paths removed.
    pub removed: u64,
    /// Files that may not be of one instant.
    pub fuzzy: u64,
    /// Paths that stay as the last version has them, and why. They must be marked again.
    pub skipped: BTreeMap<RelPath, String>,
    /// Set if this commit had to leave its name.
    pub fork: Option<Forked>,
    /// Set if this commit was put on top of what another writer had made meanwhile.
    pub merge: Option<Merge>,
}

/// Another writer moved HEAD; our versions go elsewhere from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forked {
    /// Where they go.
    pub name: String,
    /// The name they left.
    pub from: String,
    /// The last version both have; 0 if none.
    pub base: VersionId,
}

/// Why a commit failed. Nothing of it is visible under any name, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The remote failed.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// HEAD cannot be used.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The records failed.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Packing failed.
    #[error(transparent)]
    Layer(LayerError),
    /// The content of a file could not be had.
    #[error("cannot read: {path}: {source}")]
    Source {
        /// The file.
        path: RelPath,
        /// Why.
        source: std::io::Error,
    },
    /// It is not known how the commit before this ended: call [`Committer::settle`], then plan anew.
    #[error("the last flush has an unknown end")]
    Unsettled,
    /// An earlier commit turned out to have happened: plan anew, the records have changed.
    #[error("an earlier flush took effect late")]
    Outdated,
    /// Layers that the new one refers to were let go while it was made (`prune`): plan anew.
    #[error("layers were let go meanwhile that the new one refers to")]
    LetGo,
    /// Layout single: another writer replaced the archive. The next commit goes to this fork.
    #[error("another writer replaced the archive; continuing as fork: {}", .0.name)]
    Diverged(Forked),
    /// The remote has a version that is not the one the records describe: see [`Relation::Moved`].
    #[error("the remote has another version than this directory was made from")]
    Unadopted,
    /// Another writer moved the name, and forks are not wanted.
    #[error(
        "another writer moved this name; nothing was overwritten, and what changed here stays unsaved \
         (mount with --on-conflict fork to save it beside): {name}"
    )]
    Moved {
        /// The name.
        name: String,
    },
    /// The remote has no version of the name any more, but it had ours: a disk that is not mounted, a
    /// directory or bucket that was moved or emptied. No other writer, so no fork, which would name layers
    /// that are not there.
    #[error(
        "the remote has lost the versions that were saved there, nothing is written before they are back \
         (if they are gone for good: unmount, then mount with --on-existing local saves everything anew): \
         {name}: {why}"
    )]
    Gone {
        /// The name.
        name: String,
        /// What is missing.
        why: RemoteError,
    },
    /// The name has versions, but in the other layout.
    #[error("this name is kept in the other layout, mount it with --layout {layout}: {name}")]
    OtherLayout {
        /// The name.
        name: String,
        /// Its layout.
        layout: &'static str,
    },
    /// Another writer moved the name, and then layers that this directory was made from were deleted, so that a
    /// fork would lack them.
    #[error(
        "another writer moved this name, and layers that this directory was made from have been deleted since; \
         nothing was overwritten, and what changed here stays unsaved (unmount, then mount again: both are \
         shown, and the next save has both): {name}: {key}"
    )]
    Deleted {
        /// The name.
        name: String,
        /// A layer that is missing.
        key: String,
    },
    /// A plan that is not whole for layout single, or whole for layered.
    #[error("plan does not fit the layout")]
    Misfit,
    /// The program is being stopped.
    #[error("flush was stopped")]
    Stopped,
}

impl From<JournalError> for CommitError {
    fn from(e: JournalError) -> Self {
        Self::Record(e.into())
    }
}

impl CommitError {
    /// Whether the store did not permit it.
    pub fn is_denied(&self) -> bool {
        matches!(
            self,
            Self::Remote(RemoteError::Denied { .. })
                | Self::Head(HeadError::Remote(RemoteError::Denied { .. }))
        )
    }

    /// Whether a later attempt with a new plan may succeed without anybody's help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Remote(e) | Self::Head(HeadError::Remote(e)) => e.is_transient(),
            Self::Layer(LayerError::Changed { .. }) => true,
            Self::Unsettled | Self::Outdated | Self::LetGo | Self::Diverged(_) => true,
            _ => false,
        }
    }
}

impl From<LayerError> for CommitError {
    fn from(e: LayerError) -> Self {
        match e {
            LayerError::Content { path, source } => Self::Source { path, source },
            e => Self::Layer(e),
        }
    }
}

impl From<CommitError> for crate::Error {
    fn from(e: CommitError) -> Self {
        use crate::ErrorKind;
        let kind = match e {
            CommitError::Remote(e) => return HeadError::Remote(e).into(),
            CommitError::Head(e) => return e.into(),
            CommitError::Record(e) => return e.into(),
            CommitError::Layer(e) => return e.into(),
            // Nothing is damaged: somebody cut it short. Whoever tries again finds what is there then.
            CommitError::Source { path, source } if source.kind() == std::io::ErrorKind::UnexpectedEof => {
                let message = format!("it became shorter while it was read: {path}");
                return Self::new(ErrorKind::Io, message).with_source(source);
            }
            CommitError::Source { path, source } => return Self::io(format!("cannot read: {path}"), source),
            CommitError::Unsettled
            | CommitError::Outdated
            | CommitError::LetGo
            | CommitError::Stopped
            | CommitError::Gone { .. } => ErrorKind::Unavailable,
            CommitError::Diverged(_)
            | CommitError::Unadopted
            | CommitError::Moved { .. }
            | CommitError::Deleted { .. } => ErrorKind::Conflict,
            CommitError::Misfit | CommitError::OtherLayout { .. } => ErrorKind::Invalid,
        };
        Self::new(kind, e.to_string())
    }
}

/// The version the next one will be built on.
#[derive(Debug, Clone)]
struct State {
    name: String,
    version: VersionId,
    /// Its document (layered only). After a merge nobody else has it: it is what our tree is.
    head: Option<Head>,
    /// After a merge: what the remote has, which is more.
    line: Option<Line>,
    tag: Option<Tag>,
    /// A version that is in our tree, but for what was changed both here and there: the next commit gives it a tag.
    overlapped: Option<VersionId>,
    /// The end of the last commit is not known.
    unsettled: bool,
    /// Nobody could read what the remote has: until a commit proves that it had nothing, a lost race is the end.
    unread: bool,
    /// When the layers are next looked at for what is dead.
    next_look: tidy::NextLook,
    /// Layers that became unneeded since what stood in such was forgotten.
    gone: usize,
}

impl State {
    /// HEAD in the remote as it was last known, and its tag, unless nothing is known of it.
    fn there(&self) -> Option<(&Head, &Tag)> {
        match &self.line {
            Some(line) => Some((&line.head, &line.tag)),
            None => Some((self.head.as_ref()?, self.tag.as_ref()?)),
        }
    }

    /// The newest version that is ours.
    fn newest(&self) -> VersionId {
        self.line.as_ref().map_or(self.version, |line| line.since.ours)
    }
}

/// Commits plans, one at a time. Needs a tokio runtime.
#[derive(Debug)]
pub struct Committer {
    store: Store,
    records: Arc<Records>,
    options: CommitOptions,
    /// Held for the whole of one commit.
    turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    /// What small layers are compressed with, once it was made or read.
    dictionary: Mutex<Option<Dictionary>>,
    /// Keys of layers that are inline in HEAD and known to be there as objects.
    stored: Mutex<HashSet<String>>,
}

impl Committer {
    /// Makes the plan the next version. `time` is the instant of the tree that the plan shows.
    ///
    /// After any error but [`CommitError::Misfit`] the plan is to be made anew, from its marks and
    /// those that came since: the records may have changed.
    pub async fn commit(
        &self,
        plan: Arc<Plan>,
        source: Arc<dyn ContentSource>,
        time: Timestamp,
    ) -> Result<Receipt, CommitError> {
        let _turn = self.turn.lock().await;
        let state = self.state();
        if state.unsettled {
            return Err(CommitError::Unsettled);
        }
        if plan.is_whole() != (self.options.layout == Layout::Single) {
            return Err(CommitError::Misfit);
        }
        if plan.is_empty() {
            return Ok(self.nothing(&state, BTreeMap::new()));
        }
        if self.lost() == Lost::GiveWay && state.tag.as_ref().is_some_and(|tag| tag.0 == STALE_TAG) {
            return Err(CommitError::Moved { name: state.name }); // known to be lost: sends nothing
        }
        let committed = match self.options.layout {
            Layout::Layered => self.commit_layer(state, plan, source, time).await,
            Layout::Single => self.commit_whole(state, plan, source, time).await,
        };
        committed.map_err(|e| self.explained(e))
    }

    /// A bucket or directory that had our versions and is missing now has lost them.
    fn explained(&self, e: CommitError) -> CommitError {
        let state = self.state();
        match e {
            CommitError::Remote(why @ RemoteError::NoBucket { .. })
            | CommitError::Head(HeadError::Remote(why @ RemoteError::NoBucket { .. }))
                if state.tag.is_some() =>
            {
                CommitError::Gone { name: state.name, why }
            }
            e => e,
        }
    }

    /// HEAD, or the archive, is no longer there. What is sent before it is back would be for nothing, so
    /// the next flush looks for it first.
    fn gone(&self, name: String, key: String) -> CommitError {
        self.state.lock().unsettled = true;
        CommitError::Gone { name, why: RemoteError::NotFound { key } }
    }

    /// Finds out how a commit of unknown end ended. To be called before planning when
    /// [`is_settled`](Self::is_settled) says no.
    pub async fn settle(&self) -> Result<(), CommitError> {
        let _turn = self.turn.lock().await;
        if !self.state().unsettled {
            return Ok(());
        }
        self.resolve().await.map_err(|e| self.explained(e))?;
        self.state.lock().unsettled = false;
        Ok(())
    }

    /// Whether it is known how the last commit ended.
    pub fn is_settled(&self) -> bool {
        !self.state().unsettled
    }

    /// Whether another writer was faster and our changes stay unsaved for good.
    pub fn has_given_way(&self) -> bool {
        self.lost() == Lost::GiveWay && self.state.lock().tag.as_ref().is_some_and(|tag| tag.0 == STALE_TAG)
    }

    /// The name versions go to: another than asked for after a fork.
    pub fn name(&self) -> String {
        self.state().name
    }

    /// The newest version known to be committed; 0 if there is none.
    pub fn version(&self) -> VersionId {
        self.state.lock().newest()
    }

    /// The newest HEAD known to be committed (layered only).
    pub fn head(&self) -> Option<Head> {
        let state = self.state.lock();
        state.line.as_ref().map(|line| &line.head).or(state.head.as_ref()).cloned()
    }

    fn lost(&self) -> Lost {
        if self.state.lock().unread { Lost::GiveWay } else { self.options.lost }
    }

    fn state(&self) -> State {
        self.state.lock().clone()
    }

    /// Another writer moved the name and no fork is wanted: from now on nothing is even sent.
    fn give_way(&self, name: String) -> CommitError {
        self.state.lock().tag = Some(Tag(STALE_TAG.into()));
        CommitError::Moved { name }
    }

    /// Pending flushes that turn out to be in the remote become the records.
    async fn resolve(&self) -> Result<(), CommitError> {
        match self.options.layout {
            Layout::Layered => self.resolve_layers().await,
            Layout::Single => self.resolve_whole().await,
        }
    }

    fn nothing(&self, state: &State, skipped: BTreeMap<RelPath, String>) -> Receipt {
        Receipt {
            name: state.name.clone(),
            version: state.newest(),
            committed: false,
            bytes: 0,
            raw_bytes: 0,
            changed: 0,
            removed: 0,
            fuzzy: 0,
            skipped,
            fork: None,
            merge: None,
        }
    }

    fn receipt(&self, name: &str, version: VersionId, packed: Packed, fork: Option<Forked>) -> Receipt {
        Receipt {
            name: name.into(),
            version,
            committed: true,
            bytes: packed.summary.bytes,
            raw_bytes: packed.summary.raw_bytes,
            changed: packed.changed,
            removed: packed.removed,
            fuzzy: packed.fuzzy,
            skipped: packed.skipped,
            fork,
            merge: None,
        }
    }

    /// Runs a call that waits for the disk where that does no harm.
    async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Records) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, CommitError> {
        let records = Arc::clone(&self.records);
        let result = tokio::task::spawn_blocking(move || call(&records)).await;
        Ok(result.map_err(|_| CommitError::Stopped)??)
    }

    async fn stage(
        &self,
        state: &State,
        key: &str,
        packed: &Packed,
        plan: Arc<Plan>,
    ) -> Result<Pending, CommitError> {
        let (name, key, version) = (state.name.clone(), key.to_owned(), state.version + 1);
        let object = (packed.summary.digest, packed.summary.bytes);
        let skipped: BTreeSet<RelPath> = packed.skipped.keys().cloned().collect();
        self.blocking(move |records| records.stage(&name, &key, object, version, plan.deltas(&skipped))).await
    }

    /// A pending flush is in the remote: its changes become the records, its version the base.
    async fn promote(&self, pending: &Pending, head: Option<Head>, tag: Tag) -> Result<(), CommitError> {
        let known = || self.records.meta().base.and_then(|base| base.history);
        let history = head.as_ref().and_then(|head| head.history).or_else(known);
        let base = Base { version: pending.version, tag: tag.clone(), history };
        let promoted = pending.clone();
        let result = self.blocking(move |records| records.promote(&promoted, base)).await;
        let mut state = self.state.lock();
        state.name.clone_from(&pending.target);
        if pending.is_merged() {
            // Our tree is what it was and this layer, not what others have beneath it.
            let mut since = match state.line.take() {
                Some(line) => line.since,
                None => Since::version(state.version),
            };
            since.ours = pending.version;
            let layer = head.as_ref().and_then(|head| head.layer(&pending.layer)).cloned();
            if let (Some(layer), Some(theirs)) = (layer, &head) {
                let (writer, host) = (layer.writer, theirs.host.clone());
                let line = state.head.clone().unwrap_or_else(|| Head::empty(&pending.target, writer, &host));
                let line = line.next(writer, &host, layer);
                (state.version, state.head) = (line.version, Some(line));
            }
            state.tag = Some(Tag(STALE_TAG.into()));
            state.line = head.map(|head| Line { head, tag, since });
        } else {
            (state.version, state.head, state.tag) = (pending.version, head, Some(tag));
            state.line = None;
        }
        state.unread = false;
        // The version stands; records that lag behind are mended by settling.
        state.unsettled = result.is_err();
        result
    }
}
