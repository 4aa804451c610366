//! The start of a committer: what the remote has against what the records say.
use super::tidy::NextLook;
use super::*;
use crate::remote::{ObjectStore, Recent};

/// What a start found.
#[derive(Debug, Clone)]
pub struct Opening {
    /// The name versions go to: a fork, if one was made before.
    pub name: String,
    /// The newest version in the remote (layered only).
    pub head: Option<Head>,
    /// The tag of that HEAD, or of the archive.
    pub tag: Option<Tag>,
    /// How it stands to the records.
    pub relation: Relation,
}

/// How the remote stands to the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// Neither has anything.
    Fresh,
    /// The records describe the newest version.
    Same,
    /// The records describe no version, or an older one: restore, then [`Committer::adopt`]. To keep
    /// what was written on the older one, [`Committer::keep`] first: the next commit makes a fork.
    Moved,
    /// The remote is behind the records: its newest version is older than the one that they describe, as where a backup
    /// was put back or a replica lags. What is here is not what became of that version.
    Behind,
    /// The remote has another history than that of which the records describe a version, as where it was lost and begun
    /// anew: what either has nobody has removed from the other.
    Other,
    /// The records describe a version, but the remote has none. To begin anew: `Records::reset`, then
    /// open again.
    Lost,
}

impl State {
    /// Nothing is known of the remote yet.
    fn at(name: String, version: VersionId) -> Self {
        Self {
            name,
            version,
            head: None,
            line: None,
            tag: None,
            overlapped: None,
            unsettled: true,
            unread: false,
            next_look: NextLook::default(),
            gone: 0,
        }
    }
}

impl Committer {
    fn at(store: Store, records: Arc<Records>, options: CommitOptions, state: State) -> Self {
        Self {
            // Small layers are merged soon: what was just written need not be read.
            store: Arc::new(Recent::new(store, head::LAYERS)),
            records,
            options,
            turn: tokio::sync::Mutex::new(()),
            state: Mutex::new(state),
            dictionary: Mutex::default(),
            stored: Mutex::default(),
        }
    }

    /// Reads HEAD (or looks at the archive), finds the end of flushes cut off by the last stop, and
    /// tells how both stand to each other. Any failure to read is an error, never an empty start.
    pub async fn open(
        store: Store,
        records: Arc<Records>,
        options: CommitOptions,
    ) -> Result<(Self, Opening), CommitError> {
        let name = records.current_name();
        head::check_name(&name)?;
        let version = records.meta().base.as_ref().map_or(0, |b| b.version);
        let state = State::at(name, version);
        let committer = Self::at(store, records, options, state);
        committer.resolve().await?;
        let meta = committer.records.meta();
        let name = committer.records.current_name();
        let (head, tag) = match committer.options.layout {
            Layout::Layered => head::read_head(&*committer.store, &name).await?.unzip(),
            Layout::Single => match committer.find_ours(&name).await? {
                single::Found::Ours(_, tag) => (None, Some(tag)),
                single::Found::Other(tag) => (None, tag),
            },
        };
        if head.as_ref().is_some_and(|head| head.log) && !committer.options.log {
            return Err(CommitError::OtherLayout { name, layout: "log" });
        }
        // Who forgets to say which layout must not begin anew beside the versions of the other one.
        if tag.is_none() && meta.fork.is_none() {
            refuse_other_layout(&*committer.store, &name, committer.options.layout).await?;
        } else if committer.options.layout == Layout::Single {
            // Nor go on with an archive that layers were made of since: nobody reads it any more.
            refuse_readable_other_layout(&*committer.store, &name, Layout::Single).await?;
        }
        let relation = match (&meta.base, &tag) {
            (None, None) => Relation::Fresh,
            (Some(_), None) if meta.fork.is_some() && committer.options.layout == Layout::Single => {
                Relation::Same // the fork's first archive is still to come
            }
            (Some(_), None) => Relation::Lost,
            (Some(base), Some(tag)) if base.tag == *tag => Relation::Same,
            (Some(base), Some(_))
                if head.as_ref().is_some_and(|head| head.is_of_another_history(base.history)) =>
            {
                Relation::Other
            }
            // The same version after somebody gave it a name.
            (Some(base), Some(_)) if head.as_ref().is_some_and(|h| h.was(base.version, &base.tag)) => {
                Relation::Same
            }
            // The same document under another tag, as after a copy of the bucket.
            (Some(base), Some(_))
                if head.as_ref().is_some_and(|h| h.version == base.version && h.writer == meta.writer) =>
            {
                Relation::Same
            }
            (Some(base), Some(_)) if head.as_ref().is_some_and(|head| head.version < base.version) => {
                Relation::Behind
            }
            _ => Relation::Moved,
        };
        let mut state = committer.state();
        state.unsettled = false;
        state.name.clone_from(&name);
        match relation {
            Relation::Fresh | Relation::Same => (state.head, state.tag) = (head.clone(), tag.clone()),
            Relation::Moved | Relation::Behind | Relation::Other | Relation::Lost => {
                state.tag = Some(Tag(STALE_TAG.into()));
            }
        }
        state.version = meta.base.map_or(0, |b| b.version);
        state.line = None;
        *committer.state.lock() = state;
        Ok((committer, Opening { name, head, tag, relation }))
    }

    /// The start of whoever may not read the remote, and has records of no version: the first commit succeeds
    /// only if the name has none, whatever becomes of changes otherwise. That condition is of one layout, so the
    /// other one must not have any that can be read.
    pub async fn unread(
        store: Store,
        records: Arc<Records>,
        options: CommitOptions,
    ) -> Result<(Self, Opening), CommitError> {
        let name = records.current_name();
        refuse_readable_other_layout(&*store, &name, options.layout).await?;
        let state = State { unsettled: false, unread: true, ..State::at(name.clone(), 0) };
        let committer = Self::at(store, records, options, state);
        Ok((committer, Opening { name, head: None, tag: None, relation: Relation::Fresh }))
    }

    /// The backing and the records are now at this version (`None`: a single archive of unknown
    /// history, or nothing at all); the next commit builds on it.
    pub fn adopt(&self, head: Option<Head>, tag: Option<Tag>) {
        let mut state = self.state.lock();
        state.version = match (&head, &tag) {
            (Some(head), _) => head.version,
            (None, Some(_)) => self.records.meta().base.map_or(0, |b| b.version),
            (None, None) => 0,
        };
        (state.head, state.tag, state.line) = (head, tag, None);
    }

    /// Of the version that was adopted some was changed here as well, and stays as it is here: the next commit gives that
    /// version a tag.
    pub fn overlaps(&self) {
        let mut state = self.state.lock();
        state.overlapped = Some(state.version);
    }

    /// The backing stays at the older version the records describe, although `newest` is there: the
    /// next commit becomes a fork of it. `false` if `newest` no longer shows that version.
    pub fn keep(&self, newest: &Head) -> bool {
        let Some(older) = self.records.meta().base.and_then(|base| newest.at(base.version)) else {
            return false;
        };
        self.adopt(Some(older), Some(Tag(STALE_TAG.into())));
        true
    }
}

/// Looks whether it can be known what the remote has of a name. Fails if not, and if it has that in the other layout.
pub async fn look(store: &dyn ObjectStore, name: &str, layout: Layout) -> Result<(), CommitError> {
    let looked = match layout {
        Layout::Layered => head::read_head(store, name).await.map(drop).map_err(CommitError::from),
        // Its content is not read.
        Layout::Single => match store.download(&head::archive_key(name), None).await {
            Ok(_) | Err(RemoteError::NotFound { .. }) => Ok(()),
            Err(e) => Err(e.into()),
        },
    };
    if looked.as_ref().is_err_and(CommitError::is_denied) {
        refuse_readable_other_layout(store, name, layout).await?;
    }
    looked
}

/// A name that has versions in the other layout is not an empty one.
async fn refuse_other_layout(store: &dyn ObjectStore, name: &str, layout: Layout) -> Result<(), CommitError> {
    let (key, other) = match layout {
        Layout::Layered => (head::archive_key(name), "single"),
        Layout::Single => (head::head_key(name), "layered"),
    };
    // Its content is not read.
    match store.download(&key, None).await {
        Ok(_) => Err(CommitError::OtherLayout { name: name.into(), layout: other }),
        Err(RemoteError::NotFound { .. }) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// The same for who may not list, and to whom an object that is missing looks like a forbidden one.
async fn refuse_readable_other_layout(
    store: &dyn ObjectStore,
    name: &str,
    layout: Layout,
) -> Result<(), CommitError> {
    match refuse_other_layout(store, name, layout).await {
        Err(e) if e.is_denied() => Ok(()),
        refused => refused,
    }
}
