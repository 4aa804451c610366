//! [`Slot`]: one table, whether anybody has looked into it or not.
use super::asked::Asked;
use super::report::LastChange;
use crate::sync::{Mutex, RwLock};
use icecache_iceberg::publication::Reach;
use icecache_iceberg::{Difference, Location, Publication, Table, TableId, Token};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A table that could not be shown is tried again after so long.
pub(super) const TRY_AGAIN: Duration = Duration::from_secs(5);

/// See the module. Owner of its locks.
#[derive(Debug)]
pub struct Slot {
    /// Number of its catalog.
    pub(super) catalog: usize,
    /// What the catalog calls it.
    pub(super) id: TableId,
    /// Its path below the mount.
    pub(super) path: String,
    /// Who writes into its folder; another table that takes the path has the same one.
    pub(super) writing: Arc<Writing>,
    state: RwLock<State>,
    /// Branches and tags that somebody has looked into: they move with the table.
    pub(super) references: Mutex<BTreeSet<String>>,
    /// Milliseconds after the start at which it was last looked into; 0: never.
    pub(super) used_ms: AtomicU64,
    /// When its catalog is asked about it next.
    pub(super) asked: Mutex<Asked>,
    /// What its files lead to, as far as sweeps have seen it.
    pub(super) reach: Arc<Reach>,
    /// There is something to sweep.
    pub(super) is_unswept: AtomicBool,
    /// After a new version could not be shown: when it is tried again.
    pub(super) retry: Mutex<Retry>,
    /// What was done for it.
    pub(super) account: Mutex<Account>,
    /// Whether its catalog has it no longer. Held while what is remembered of it changes: nothing of it comes back.
    pub(super) is_dropped: Arc<Mutex<bool>>,
}

/// Who writes into the folder of a table, and who brings what is pinned of it. Whoever wants several waits for the turn
/// before `older`, and for `pinning` before both.
#[derive(Debug, Default)]
pub(super) struct Writing {
    /// Held by who publishes, and by who removes what nobody needs.
    pub turn: tokio::sync::Mutex<()>,
    /// Shared by those who write what older snapshots need, once somebody asks for it, and held alone by who removes what
    /// no version leads to: what is half there is led to by nothing yet.
    pub older: tokio::sync::RwLock<()>,
    /// Held by who brings and holds what is pinned.
    pub pinning: tokio::sync::Mutex<()>,
}

/// How often a new version could not be shown, one time after the other.
#[derive(Debug, Default)]
pub(super) struct Retry {
    failures: u32,
    at: Option<Instant>,
    why: Option<String>,
}

impl Retry {
    /// Whether it is too soon to try again.
    pub(super) fn is_early(&self) -> bool {
        self.at.is_some_and(|at| Instant::now() < at)
    }

    /// Why what is current is not shown, if it is not.
    pub(super) fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// What is current is shown, or could not be: then it is left alone twice as long each time.
    pub(super) fn note(&mut self, shown: Result<(), &str>) {
        let Err(why) = shown else { return *self = Self::default() };
        let pause = TRY_AGAIN * (1 << self.failures.min(4));
        let at = Some(Instant::now() + pause);
        *self = Self { failures: self.failures + 1, at, why: Some(why.to_owned()) };
    }
}

/// What was done for a table since the start.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// What the last change took.
    pub last: Option<LastChange>,
    /// What has changed since the keeper came by, oldest first.
    pub differences: Vec<Difference>,
}

/// Why a file was brought before anybody read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Brought {
    /// It took the place of files that were in the cache.
    Successor,
    /// Somebody asked for it.
    Warmed,
}

/// Whether a table is shown.
#[derive(Debug, Clone, Default)]
pub(super) enum State {
    #[default]
    Unopened,
    Shown(Arc<Shown>),
    Failed {
        why: String,
        at: Instant,
    },
}

/// The version of a table that is shown.
#[derive(Debug)]
pub struct Shown {
    /// What is published.
    pub publication: Publication,
    /// What its catalog calls it; that may become another one while the version stays the same.
    token: Mutex<Token>,
    /// Where the metadata comes from.
    pub(super) from: Location,
    /// Snapshots whose files are known.
    pub(super) learned: Mutex<BTreeSet<i64>>,
    /// It is what was shown before the start; its catalog, or the store, has not answered since.
    pub(super) is_remembered: AtomicBool,
}

impl Shown {
    /// A version that is known to be there, or remembered (`is_remembered`).
    pub(super) fn new(publication: Publication, table: &Table, is_remembered: bool) -> Self {
        let learned = publication.metadata().current_snapshot.into_iter().collect();
        Self {
            publication,
            token: Mutex::new(table.token.clone()),
            from: table.metadata_location.clone(),
            learned: Mutex::new(learned),
            is_remembered: AtomicBool::new(is_remembered),
        }
    }

    /// Whether its catalog calls it so.
    pub(super) fn is_called(&self, token: &Token) -> bool {
        *self.token.lock() == *token
    }

    /// From now on its catalog calls it so.
    pub(super) fn call(&self, token: Token) {
        *self.token.lock() = token;
    }

    /// What its catalog is asked with whether it has changed: of one that is remembered all is to be said again, also
    /// what opens its files.
    pub(super) fn asked_with(&self) -> Token {
        if self.is_remembered.load(Ordering::Acquire) {
            Token(String::new())
        } else {
            self.token.lock().clone()
        }
    }
}

impl Slot {
    pub(super) fn new(catalog: usize, id: TableId, path: String, writing: Arc<Writing>) -> Self {
        Self {
            catalog,
            id,
            path,
            writing,
            state: RwLock::default(),
            references: Mutex::default(),
            used_ms: AtomicU64::new(0),
            asked: Mutex::default(),
            reach: Arc::default(),
            is_unswept: AtomicBool::new(false),
            retry: Mutex::default(),
            account: Mutex::default(),
            is_dropped: Arc::default(),
        }
    }

    pub(super) fn state(&self) -> State {
        self.state.read().clone()
    }

    pub(super) fn set(&self, state: State) {
        *self.state.write() = state;
    }

    /// The version that is shown; `None` if it is to be tried (again).
    ///
    /// # Errors
    /// Why it could not be shown a moment ago.
    pub(super) fn shown(&self) -> Result<Option<Arc<Shown>>, String> {
        match self.state() {
            State::Shown(shown) => Ok(Some(shown)),
            State::Failed { why, at } if at.elapsed() < TRY_AGAIN => Err(why),
            State::Unopened | State::Failed { .. } => Ok(None),
        }
    }

    /// The version that is shown, if one is.
    pub(super) fn current(&self) -> Option<Arc<Shown>> {
        match self.state() {
            State::Shown(shown) => Some(shown),
            State::Unopened | State::Failed { .. } => None,
        }
    }

    /// When it was last looked into, in milliseconds after the start.
    pub(super) fn used(&self) -> Option<u64> {
        Some(self.used_ms.load(Ordering::Relaxed)).filter(|ms| *ms > 0)
    }

    /// Whether this branch or tag moves with the table.
    pub(super) fn follows(&self, reference: &str) -> bool {
        self.references.lock().contains(reference)
    }

    /// From now on this branch or tag does.
    pub(super) fn follow(&self, reference: &str) {
        self.references.lock().insert(reference.to_owned());
    }
}
