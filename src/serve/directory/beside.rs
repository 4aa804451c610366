//! [`Beside`]: the look after a save goes on while the remote is waited for.
//!
//! A version is of one instant if nothing moved from the first look at the directory to a second one. That one can begin
//! when all content has been read. But the records become those of the new version only when the remote has it, and the
//! second look compares with what they are meanwhile. So what it finds different, and all that was saved, is held
//! against the new records afterwards. Of everything else the records did not change. Together: at the instant when the
//! second look began all was as the new version has it.
use super::require_place;
use crate::error::{Error, Result};
use crate::state::dirty::{Extent, Marks};
use crate::state::live::Live;
use crate::state::plain::Plain;
use crate::state::plan::{LookOptions, Plan};
use crate::state::record::Records;
use crate::state::scan::{Scan, Seen, scan_again};
use crate::sync::Mutex;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

/// Looks at a directory, again and again.
pub(super) struct Beside {
    live: Weak<Plain>,
    records: Arc<Records>,
    look: LookOptions,
    dir: PathBuf,
    seen: Mutex<Seen>,
    going: Mutex<Option<Going>>,
}

/// A look that goes on, and what is saved meanwhile.
type Going = (JoinHandle<Result<Scan>>, Arc<Plan>);

impl Beside {
    /// Looks whenever all content of a plan of `live` has been read.
    pub(super) fn new(
        live: &Arc<Plain>,
        records: Arc<Records>,
        look: LookOptions,
        dir: PathBuf,
    ) -> Arc<Self> {
        let (seen, going) = (Mutex::default(), Mutex::default());
        let beside = Arc::new(Self { live: Arc::downgrade(live), records, look, dir, seen, going });
        // A whole plan has every path, changed or not: nothing can be held against the records.
        if !beside.look.whole {
            let looks = Arc::clone(&beside);
            live.when_read(Box::new(move |plan| looks.begin(plan)));
        }
        beside
    }

    fn begin(self: &Arc<Self>, plan: &Arc<Plan>) {
        let (looks, plan) = (Arc::clone(self), Arc::clone(plan));
        let thread = std::thread::Builder::new().name("look".into());
        // Without a thread it is looked afterwards. One that goes on still is of an attempt that failed.
        let begun = thread.spawn(move || {
            let Some(live) = looks.live.upgrade() else { return Ok(Scan::default()) };
            require_place(&live, &looks.dir)?;
            looks.scan(&live)
        });
        *self.going.lock() = begun.ok().map(|begun| (begun, plan));
    }

    /// What differs from the records now.
    pub(super) fn scan(&self, live: &Plain) -> Result<Scan> {
        Ok(scan_again(live.root(), &self.records, &self.look, &mut self.seen.lock())?)
    }

    /// No look of an earlier save is taken for one of the next.
    pub(super) fn forget(&self) {
        let earlier = self.going.lock().take();
        drop(earlier.map(|(look, _)| look.join()));
    }

    /// After a save: whether the look beside it found everything as the version has it. If not, or if there was none, it
    /// is to be looked anew.
    pub(super) fn found_nothing(&self, live: &Plain) -> Result<bool> {
        let Some((look, plan)) = self.going.lock().take() else { return Ok(false) };
        let Ok(found) = look.join() else { return Ok(false) };
        let found = found?;
        if !found.unreadable.is_empty() || !live.dirty().is_empty() {
            return Ok(false);
        }
        let mut marks: Marks = plan.changes().map(|(path, _)| (path.clone(), Extent::Entry)).collect();
        for (path, extent) in found.marks {
            let slot = marks.entry(path).or_insert(extent);
            *slot = (*slot).max(extent);
        }
        let left = Plan::capture(live.root(), &self.records, &marks, &self.look).map_err(Error::from)?;
        require_place(live, &self.dir)?;
        Ok(left.is_empty() && left.unreadable().is_empty())
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::journal::MemoryJournal;
    use crate::layer::PackOptions;
    use crate::layer::content::Content;
    use crate::path::RelPath;
    use crate::remote::MemoryStore;
    use crate::state::commit::{CommitOptions, Committer, Layout, Lost};
    use crate::state::plan::Captured;
    use crate::state::source::{ContentSource, DirectorySource};
    use std::fs::{self, File};
    use std::io;
    use std::path::Path;

    /// A directory of which each plan is committed, and looked at beside that.
    struct Site {
        dir: tempfile::TempDir,
        live: Arc<Plain>,
        records: Arc<Records>,
        beside: Arc<Beside>,
        committer: Committer,
        runtime: tokio::runtime::Runtime,
    }

    /// Does something when all has been read, before it is told.
    struct Then<F>(DirectorySource, Arc<Plain>, Arc<Plan>, F);

    impl<F: Fn() + Send + Sync> ContentSource for Then<F> {
        fn open(&self, path: &RelPath, captured: &Captured) -> io::Result<Box<dyn Content>> {
            self.0.open(path, captured)
        }

        fn all_read(&self) {
            (self.3)();
            self.1.all_read(&self.2);
        }
    }

    impl Site {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("dir");
            let place = fs::canonicalize(dir.path()).expect("there");
            let records = Records::open(Arc::new(MemoryJournal::new()), "memory:", "work").expect("opens");
            let records = Arc::new(records);
            let live = Arc::new(Plain::new(File::open(&place).expect("opens").into(), &place));
            let beside = Beside::new(&live, records.clone(), LookOptions::default(), place);
            let runtime = tokio::runtime::Runtime::new().expect("starts");
            let options = CommitOptions {
                layout: Layout::Layered,
                host: "box".into(),
                pack: PackOptions::default(),
                dictionary: false,
                log: false,
                at_once: true,
                lost: Lost::Fork,
            };
            let opened = Committer::open(Arc::new(MemoryStore::new()), records.clone(), options);
            let (committer, _) = runtime.block_on(opened).expect("opens");
            Self { dir, live, records, beside, committer, runtime }
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.dir.path().join(name), text).expect("writes");
        }

        fn plan(&self) -> Plan {
            let marks = self.beside.scan(&self.live).expect("scans").marks;
            Plan::capture(self.live.root(), &self.records, &marks, &LookOptions::default()).expect("plans")
        }

        /// Whether the look beside the commit of a plan finds nothing, if `then` happens when all has been read.
        fn commit(&self, plan: Plan, then: impl Fn(&Path) + Send + Sync + 'static) -> bool {
            let plan = Arc::new(plan);
            let root = File::open(self.dir.path()).expect("opens").into();
            let place = self.dir.path().to_owned();
            let source =
                Then(DirectorySource::new(root), self.live.clone(), plan.clone(), move || then(&place));
            let committed = self.committer.commit(plan, Arc::new(source), Timestamp::now());
            assert!(self.runtime.block_on(committed).expect("commits").committed);
            self.beside.found_nothing(&self.live).expect("looks")
        }
    }

    #[test]
    fn what_was_saved_is_not_taken_for_changed_and_what_moved_meanwhile_is_found() {
        let site = Site::new();
        site.write("a", "1");
        fs::create_dir(site.dir.path().join("d")).expect("makes");
        site.write("d/b", "1");
        assert!(site.commit(site.plan(), |_| ()), "nothing moved");
        assert!(!site.beside.found_nothing(&site.live).expect("looks"), "there was no look");
        site.write("a", "22");
        assert!(site.commit(site.plan(), |_| ()), "nothing moved");
        // Of what is saved, of what is not, and what is new or gone.
        let cases: [fn(&Path); 4] = [
            |dir| fs::write(dir.join("a"), "4444").expect("writes"),
            |dir| fs::write(dir.join("d/b"), "4444").expect("writes"),
            |dir| fs::write(dir.join("d/new"), "").expect("writes"),
            |dir| fs::remove_file(dir.join("d/new")).expect("removes"),
        ];
        for (n, then) in cases.into_iter().enumerate() {
            site.write("a", &"3".repeat(10 + n));
            assert!(!site.commit(site.plan(), then), "case {n}");
            let left = site.plan();
            assert!(!left.is_empty() && site.commit(left, |_| ()), "case {n}");
        }
    }

    /// An empty file is not opened, so nothing else tells that it has gone; and its directory was looked at later.
    #[test]
    fn a_new_file_that_has_gone_before_the_look_is_missed_afterwards() {
        let site = Site::new();
        site.write("a", "1");
        assert!(site.commit(site.plan(), |_| ()));
        site.write("empty", "");
        let mut plan = site.plan();
        fs::remove_file(site.dir.path().join("empty")).expect("removes");
        let marks = Marks::from([(RelPath::root(), Extent::Entry)]);
        plan.refresh(site.live.root(), &site.records, &marks, &LookOptions::default()).expect("looks");
        assert!(!site.commit(plan, |_| ()), "the version has a file that is not there");
    }
}
