//! What no version of a name needs, let go and deleted without a mount.
use super::import::require_conditions;
use super::{Opened, unknown};
use crate::config::{Layout, RemoteSettings};
use crate::remote::{Condition, RemoteError};
use crate::state::head::{Head, VERSIONS_MAX, head_key, read_head};
use crate::state::prune::{self, Candidate, Deleted, Needed};
use crate::{Error, ErrorKind, Result};
use bytes::Bytes;
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

/// How often HEAD may move meanwhile.
const ATTEMPTS: u32 = 16;
/// What no HEAD names may be on its way into one: a layer is written before its HEAD. Younger ones stay.
const ORPHAN_AGE_MIN: Duration = Duration::from_secs(3600);

/// What to let go and what to delete.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// How many of the newest versions are kept; `None` with `keep_for`: one; without it nothing is let go.
    pub keep: Option<usize>,
    /// Younger versions are kept as well.
    pub keep_for: Option<Duration>,
    /// How long a layer must have been unneeded.
    pub older_than: Duration,
    /// Also what no name knows of.
    pub orphans: bool,
    /// Change nothing.
    pub dry_run: bool,
}

/// What was done, or would be.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Pruned {
    /// Whether it only would be.
    pub dry_run: bool,
    /// Layers that no version needs any more because of this call.
    pub let_go: usize,
    /// Objects that are deleted.
    pub deleted: Vec<Candidate>,
    /// Their bytes.
    pub deleted_bytes: u64,
    /// Unneeded objects that have not been so for long enough.
    pub waiting: Vec<Candidate>,
    /// Unneeded objects that another name needs.
    pub shared: Vec<Candidate>,
    /// Objects that could not be deleted.
    pub left: Vec<Candidate>,
    /// Why.
    pub failure: Option<String>,
}

/// Lets go and deletes by `rules`. With the report comes why some of it could not be done.
pub fn prune(remote: &RemoteSettings, rules: &Rules) -> Result<(Pruned, Option<Error>)> {
    if remote.layout == Layout::Single {
        let message = "layout single keeps the newest version only: nothing to prune";
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    let opened = Opened::new(remote)?;
    let work = Work { opened: &opened, remote, rules, now: jiff::Timestamp::now() };
    let (head, _) = opened.runtime.block_on(work.head())?; // before anything is written
    if head.log {
        let message = format!("nothing of a name in layout log is ever deleted: {}", remote.name);
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    if !rules.dry_run {
        require_conditions(&opened, remote)?;
    }
    opened.runtime.block_on(work.run())
}

struct Work<'a> {
    opened: &'a Opened,
    remote: &'a RemoteSettings,
    rules: &'a Rules,
    now: jiff::Timestamp,
}

impl Work<'_> {
    async fn run(&self) -> Result<(Pruned, Option<Error>)> {
        let store = &*self.opened.store;
        let (head, let_go) = self.let_go().await?;
        let age = self.rules.older_than.max(ORPHAN_AGE_MIN);
        let stored =
            if self.rules.orphans { prune::stored(store, age, self.now).await? } else { BTreeMap::new() };
        let mut due = prune::due(&head, self.rules.older_than, self.now);
        let chosen: HashSet<String> = due.iter().map(|object| object.key.clone()).collect();
        let instead = self.rules.dry_run.then_some(&head);
        let needed = Needed::by_all(store, instead).await?;
        if let Some(log) = needed.log.as_ref().filter(|_| self.rules.orphans) {
            let message = format!(
                "cannot tell orphans from the past of a name in layout log, of which nothing is deleted: {log}"
            );
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        due.extend(prune::of_nobody(stored, &needed));

        let all = prune::due(&head, Duration::ZERO, self.now);
        let waiting = all.into_iter().filter(|object| !chosen.contains(&object.key)).collect();
        let done = if self.rules.dry_run {
            let (shared, gone) = due.into_iter().partition(|object| needed.has(&object.key));
            Deleted { gone, shared, ..Deleted::default() }
        } else {
            let done = prune::delete(store, &needed, due).await;
            self.unlist(&done.keys()).await?;
            done
        };
        let pruned = Pruned {
            dry_run: self.rules.dry_run,
            let_go,
            deleted_bytes: done.gone.iter().map(|object| object.bytes).sum(),
            deleted: done.gone,
            waiting,
            shared: done.shared,
            left: done.left,
            failure: done.failure.as_ref().map(ToString::to_string),
        };
        Ok((pruned, done.failure.map(Error::from)))
    }

    async fn head(&self) -> Result<(Head, crate::remote::Tag)> {
        let read = read_head(&*self.opened.store, self.remote.name.as_str()).await?;
        match read {
            Some(read) => Ok(read),
            None => Err(unknown(&*self.opened.store, self.remote).await),
        }
    }

    /// HEAD once it holds only what the rules keep, and how many layers that let go.
    async fn let_go(&self) -> Result<(Head, usize)> {
        let mut count = 0;
        let head = self.change(|head| {
            if self.rules.keep.is_none() && self.rules.keep_for.is_none() {
                return false;
            }
            let since = self.rules.keep_for.and_then(|age| self.now.checked_sub(age).ok());
            let kept = head.kept((self.rules.keep.unwrap_or(1), VERSIONS_MAX), since);
            count = head.retain(kept, &HashSet::new(), self.now);
            count > 0
        });
        Ok((head.await?, count))
    }

    async fn unlist(&self, gone: &HashSet<String>) -> Result<()> {
        let done = self.change(|head| {
            let before = head.unneeded.len();
            head.unneeded.retain(|unneeded| !gone.contains(&unneeded.key));
            head.unneeded.len() != before
        });
        done.await.map(drop)
    }

    /// Replaces HEAD by what `edit` makes of it, unless that says that there is nothing to do. A dry run
    /// writes nothing.
    async fn change(&self, mut edit: impl FnMut(&mut Head) -> bool) -> Result<Head> {
        for _ in 0..ATTEMPTS {
            let (mut head, stored) = self.head().await?;
            if !edit(&mut head) || self.rules.dry_run {
                return Ok(head);
            }
            let head = head.pruned(&HashSet::new(), stored.clone());
            let bytes = Bytes::from(head.to_bytes()?);
            let key = head_key(self.remote.name.as_str());
            match self.opened.store.put(&key, bytes, Condition::IfMatch(stored)).await {
                Ok(_) => return Ok(head),
                Err(RemoteError::Precondition { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(Error::new(
            ErrorKind::Busy,
            format!("versions are made faster than one can be pruned: {}", self.remote.name),
        ))
    }
}
