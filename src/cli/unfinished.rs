//! [`Unfinished`]: what a command has made that must not outlive it half done.
use crate::serve::run::is_ignored;
use crate::sync::Mutex;
use crate::{Error, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level::emulate_default_handler;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How often a directory is taken away that others still write into. Each time they find less to write to.
const REMOVALS_MAX: usize = 1000;

/// Files and directories that go away unless they are [kept](Self::keep): at the end, and if a signal ends the process.
#[derive(Debug)]
pub struct Unfinished {
    /// Held by whoever takes it all away, for good where a signal ends us: nobody else tells of an end then.
    made: Arc<Mutex<Vec<PathBuf>>>,
    signals: Handle,
}

impl Unfinished {
    /// From now on signals are heard, but those that whoever started us wants ignored.
    pub fn begin() -> Result<Self> {
        let failed = |e| Error::io("cannot catch signals", e);
        let heard = [SIGHUP, SIGINT, SIGTERM].into_iter().filter(|signal| !is_ignored(*signal));
        let mut signals = Signals::new(heard).map_err(failed)?;
        let handle = signals.handle();
        let made: Arc<Mutex<Vec<PathBuf>>> = Arc::default();
        let held = Arc::clone(&made);
        let hears = move || {
            if let Some(signal) = signals.forever().next() {
                let mut made = held.lock();
                take_away(&mut made);
                let _never_comes_back = emulate_default_handler(signal);
            }
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(hears).map_err(failed)?;
        Ok(Self { made, signals: handle })
    }

    /// Makes it, and takes it away later.
    pub fn make<T>(&self, path: &Path, make: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
        // No signal comes in between.
        let mut list = self.made.lock();
        let made = make(path)?;
        list.push(path.to_owned());
        Ok(made)
    }

    /// Lets it become what it was made for: it stays.
    pub fn keep(&self, path: &Path, become_it: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        let mut list = self.made.lock();
        become_it(path)?;
        list.retain(|made| made != path);
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        take_away(&mut self.made.lock());
        self.signals.close();
    }
}

fn take_away(made: &mut Vec<PathBuf>) {
    for path in made.drain(..) {
        let is_directory = fs::symlink_metadata(&path).is_ok_and(|there| there.is_dir());
        if !is_directory {
            let _gone_already = fs::remove_file(&path);
            continue;
        }
        for _ in 0..REMOVALS_MAX {
            match fs::remove_dir_all(&path) {
                // Something was written meanwhile.
                Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                _ => break,
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;

    #[test]
    fn what_is_not_kept_goes_away() {
        let temp = tempfile::tempdir().expect("temp");
        let (kept, dropped) = (temp.path().join("kept"), temp.path().join("dropped"));
        let directory = temp.path().join("directory");
        let unfinished = Unfinished::begin().expect("begins");
        unfinished.make(&directory, |path| fs::create_dir_all(path.join("more"))).expect("made");
        for path in [&kept, &dropped] {
            unfinished.make(path, |path| fs::write(path, "x")).expect("made");
        }
        let target = temp.path().join("target");
        unfinished.keep(&kept, |path| fs::rename(path, &target)).expect("kept");
        let again = unfinished.make(&dropped, |path| fs::File::create_new(path).map(drop));
        assert_eq!(again.expect_err("there").kind(), io::ErrorKind::AlreadyExists);
        drop(unfinished);
        let left: Vec<_> = fs::read_dir(temp.path()).expect("there").flatten().map(|e| e.path()).collect();
        assert_eq!(left, [target]);
    }
}
