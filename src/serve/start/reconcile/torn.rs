//! Files whose content a failure of the machine has taken.
//!
//! A disk keeps the names, times and attributes of a file as soon as its own journal is written, and its content when that
//! is written back, which may be half a minute later. What was brought just before a failure has all that its record says
//! but for the length: nobody changed it, or its change time had moved. To save that as a change would spoil the newest
//! version for all. Whoever needs a file to be safe before that calls fsync, and then it is no such file.
use super::{Locks, Start};
use crate::error::{Error, ErrorKind, Result};
use crate::layer::extract::Dirs;
use crate::path::RelPath;
use crate::serve::start::remounted::Mounting;
use crate::state::absent::tree::What;
use crate::state::absent::{Absent, Hydrator, Pace, Source};
use crate::state::backing::Backing;
use crate::state::commit::Opening;
use crate::state::head::Head;
use crate::state::identity::Identity;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::Runtime;

/// So many are named.
const TOLD_MAX: usize = 10;

/// By path: as it was recorded. Of several names of a file the first.
type Torn = BTreeMap<RelPath, Identity>;

impl Start<'_> {
    /// After an unclean stop, if the disk was mounted anew since then: gives such files the content that the version has.
    pub(super) fn mend_torn(&self, runtime: &Runtime, opening: &Opening, locks: &Locks) -> Result<()> {
        let failed = |e| Error::io("cannot look for files that have lost their content", e);
        let mounting = Mounting::of(locks.backing()).map_err(failed)?;
        if !mounting.is_anew(&self.settings.state_dir) {
            return Ok(());
        }
        if !self.records.was_clean() {
            self.mend_all(runtime, opening, locks)?;
        }
        // Last: a start that fails before has mended nothing.
        mounting.note(&self.settings.state_dir).map_err(failed)
    }

    fn mend_all(&self, runtime: &Runtime, opening: &Opening, locks: &Locks) -> Result<()> {
        let torn = self.torn(locks)?;
        if torn.is_empty() {
            return Ok(());
        }
        let told: Vec<String> = torn.keys().take(TOLD_MAX).map(ToString::to_string).collect();
        let what = format!("the machine failed before the content of {} files was on its disk", torn.len());
        match opening.head.as_ref().filter(|head| Source::can_read(head)) {
            Some(head) => {
                self.mend(runtime, head, locks, &torn).map_err(|e| e.context(what.clone()))?;
                self.status.notice(format!("{what}; it is brought again: {}", told.join(", ")));
            }
            None => {
                self.status.notice(format!(
                    "{what}, which the next version will have as they are: {}",
                    told.join(", ")
                ));
            }
        }
        Ok(())
    }

    fn torn(&self, locks: &Locks) -> Result<Torn> {
        let mut backing = Backing::new(locks.backing().as_fd(), None);
        let (mut torn, mut seen) = (Torn::new(), std::collections::HashSet::new());
        for record in self.records.below(&RelPath::root()) {
            let (path, record) = record?;
            if record.file_type() != FileType::RegularFile {
                continue;
            }
            let here = backing.stat(&path).ok().flatten();
            if here.is_some_and(|here| is_torn(&here, &record)) && seen.insert(record.ino) {
                torn.insert(path, record);
            }
        }
        Ok(torn)
    }

    fn mend(&self, runtime: &Runtime, head: &Head, locks: &Locks, torn: &Torn) -> Result<()> {
        let place = self.settings.state_dir.join("torn");
        let _of_a_start_that_was_killed = fs::remove_dir_all(&place);
        let mended = self.bring_into(&place, runtime, head, torn).and_then(|absent| {
            let from = Dirs::new(open(&place.join("content"))?.into());
            self.put_back(locks, (&absent, from), torn)
        });
        let _as_far_as_it_came = fs::remove_dir_all(&place);
        mended
    }

    /// Brings what the version has at these paths into a place of its own.
    fn bring_into(&self, place: &Path, runtime: &Runtime, head: &Head, torn: &Torn) -> Result<Arc<Absent>> {
        let content = place.join("content");
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&content);
        made.map_err(|e| Error::io(format!("cannot use: {}", content.display()), e))?;
        let root = open(&content)?.into();
        let source = Source { store: self.store.clone(), root, place: place.join("absent"), records: None };
        let absent = Arc::new(runtime.block_on(source.begin(head))?);
        let files: Vec<u32> = torn.keys().filter_map(|path| file_at(&absent, path)).collect();
        let (store, handle) = (self.store.clone(), runtime.handle().clone());
        let hydrator = Arc::new(Hydrator::new(absent.clone(), store, handle, false, Pace::default()));
        runtime
            .block_on(hydrator.bring(files))
            .map_err(|e| Error::new(ErrorKind::Unavailable, "cannot bring it again").with_source(e))?;
        Ok(absent)
    }

    /// Writes it where it was, and records that. What the version no longer has there stays as it is.
    fn put_back(&self, locks: &Locks, (absent, mut from): (&Absent, Dirs), torn: &Torn) -> Result<()> {
        let mut here = Dirs::new(locks.backing_fd()?);
        for (path, record) in torn.iter().filter(|(path, _)| file_at(absent, path).is_some()) {
            let written = write_back((&mut from, &mut here), path, record);
            let now = written.map_err(|e| Error::io(format!("cannot write: {path}"), e))?;
            let others = self.records.links(record.ino)?;
            for name in others.iter().filter(|name| *name != path).chain([path]) {
                if let Some(before) = self.records.get(name)?.filter(|before| before.ino == record.ino) {
                    self.records.touched(name, &before, &now)?;
                }
            }
        }
        Ok(())
    }
}

/// Whether only the end of a file is missing.
fn is_torn(here: &Identity, record: &Identity) -> bool {
    here.size < record.size && Identity { size: record.size, ..*here }.unchanged_since(record)
}

fn file_at(absent: &Absent, path: &RelPath) -> Option<u32> {
    match absent.tree().what(absent.tree().find(path)?) {
        What::File(file) => Some(file),
        _ => None,
    }
}

fn open(place: &Path) -> Result<File> {
    File::open(place).map_err(|e| Error::io(format!("cannot open: {}", place.display()), e))
}

/// Into the same file, which keeps its names and attributes; it is on the disk then.
fn write_back(
    (from, here): (&mut Dirs, &mut Dirs),
    path: &RelPath,
    record: &Identity,
) -> io::Result<Identity> {
    let (above, name) = (path.parent().unwrap_or_default(), path.name().unwrap_or(b"."));
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |dirs: &mut Dirs, access: OFlags| -> io::Result<File> {
        let dir = dirs.get(&above, false)?;
        Ok(rustix::fs::openat(&dir, name, access | flags, Mode::empty())?.into())
    };
    let (mut source, mut file) = (open(from, OFlags::RDONLY)?, open(here, OFlags::WRONLY)?);
    file.set_len(0)?;
    io::copy(&mut source, &mut file)?;
    let time = Timespec { tv_sec: record.mtime.sec, tv_nsec: i64::from(record.mtime.nsec) };
    rustix::fs::futimens(&file, &Timestamps { last_access: time, last_modification: time })?;
    file.sync_all()?;
    Ok(Identity::from(&rustix::fs::statat(&file, c"", AtFlags::EMPTY_PATH)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lost_its_end_and_nothing_else_is_torn() {
        let stat = rustix::fs::stat("/proc/self/exe").expect("stat");
        let record = Identity::from(&stat);
        assert!(is_torn(&Identity { size: 0, ..record }, &record));
        assert!(!is_torn(&record, &record));
        assert!(!is_torn(&Identity { size: record.size + 1, ..record }, &record));
        let mut touched = Identity { size: 0, ..record };
        touched.ctime.sec += 1;
        assert!(!is_torn(&touched, &record), "somebody cut it");
    }
}
