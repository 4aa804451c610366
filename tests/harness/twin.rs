//! A plain directory with the same verbs as a mount, saved by `cp -a`. It proves the checks: every
//! scenario must pass on a faithful twin and must fail on one with a defect.
use super::command::tool;
use super::subject::Subject;
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// What a bad implementation would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// None.
    Faithful,
    /// Deleted names come back.
    SkipDeletes,
    /// Each version has only what the newest flush saw (the original tool's first fault).
    OnlyNewest,
    /// Every hard link becomes a file of its own.
    ForgetHardLinks,
    /// Times are whole seconds.
    RoundMtimes,
    /// All attributes but the content are lost.
    ForgetAttributes,
    /// Extended attributes are lost.
    ForgetXattrs,
    /// Symlinks become empty files.
    FollowSymlinks,
    /// Holes become zeros.
    FillHoles,
    /// Directories without content are left out.
    ForgetEmptyDirectories,
    /// Pipes and devices are left out.
    ForgetSpecialFiles,
    /// The flush answers before it has saved.
    AcknowledgeEarly,
    /// Files are copied one after another while writers go on.
    Torn,
    /// A crash takes the newest change of every file with it.
    LoseOnCrash,
}

/// See the module.
#[derive(Debug)]
pub struct Twin {
    root: TempDir,
    defect: Defect,
    place: u32,
    version: u32,
    writers: Vec<u32>,
    /// With `AcknowledgeEarly`: saved states that are not visible yet.
    late: VecDeque<u32>,
}

impl Twin {
    /// A twin with a defect, or [`Defect::Faithful`].
    pub fn new(defect: Defect) -> Self {
        let root = tempfile::Builder::new().prefix("icecache-twin-").tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("place0")).unwrap();
        std::fs::create_dir_all(root.path().join("v0")).unwrap();
        Self { root, defect, place: 0, version: 0, writers: Vec::new(), late: VecDeque::new() }
    }

    fn saved(&self, version: u32) -> PathBuf {
        self.root.path().join(format!("v{version}"))
    }

    fn copy(&self, from: &Path, to: &Path) {
        let mut args: Vec<&OsStr> = vec![OsStr::new("-a")];
        let options = match self.defect {
            Defect::ForgetHardLinks => &["--no-preserve=links", "--sparse=auto"][..],
            Defect::ForgetAttributes => &["--no-preserve=mode,timestamps,ownership", "--sparse=auto"],
            Defect::ForgetXattrs => &["--no-preserve=xattr", "--sparse=auto"],
            Defect::FillHoles => &["--sparse=never", "--reflink=never"],
            _ => &["--sparse=auto"],
        };
        args.extend(options.iter().map(OsStr::new));
        let (from, to) = (from.join("."), to.to_path_buf());
        args.extend([from.as_os_str(), to.as_os_str()]);
        let mut command = std::process::Command::new("cp");
        let done = super::command::run(command.args(&args), super::command::LIMIT);
        let lossy = self.defect == Defect::Torn; // it races with deletes
        assert!(done.ok() || lossy, "cp: {}", done.said());
    }

    fn save(&mut self) {
        let next = self.version + 1;
        let to = self.saved(next);
        std::fs::create_dir(&to).unwrap();
        if self.defect == Defect::SkipDeletes {
            self.copy(&self.saved(self.version), &to);
            let _ = super::command::run(
                std::process::Command::new("cp")
                    .args(["-a", "--remove-destination"])
                    .arg(self.dir().join("."))
                    .arg(&to),
                super::command::LIMIT,
            );
        } else {
            self.copy(&self.dir(), &to);
        }
        match self.defect {
            Defect::OnlyNewest => self.drop_what_was_there(&to),
            Defect::RoundMtimes => each(&to, &|path, meta| {
                use std::os::unix::fs::MetadataExt;
                let time = |s| rustix::fs::Timespec { tv_sec: s, tv_nsec: 0 };
                let times = rustix::fs::Timestamps {
                    last_access: time(meta.atime()),
                    last_modification: time(meta.mtime()),
                };
                rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
                    .unwrap();
            }),
            Defect::FollowSymlinks => each(&to, &|path, meta| {
                if meta.is_symlink() {
                    std::fs::remove_file(path).unwrap();
                    std::fs::write(path, b"").unwrap();
                }
            }),
            Defect::ForgetEmptyDirectories => each(&to, &|path, meta| {
                if meta.is_dir() {
                    let _ = std::fs::remove_dir(path);
                }
            }),
            Defect::ForgetSpecialFiles => each(&to, &|path, meta| {
                if !meta.is_dir() && !meta.is_file() && !meta.is_symlink() {
                    std::fs::remove_file(path).unwrap();
                }
            }),
            _ => {}
        }
        self.version = next;
    }

    fn drop_what_was_there(&self, to: &Path) {
        let old = self.saved(self.version);
        let known = |path: &Path| {
            path.strip_prefix(to).map(|p| old.join(p)).is_ok_and(|p| p.symlink_metadata().is_ok())
        };
        each(to, &|path, meta| {
            if !meta.is_dir() && known(path) {
                std::fs::remove_file(path).unwrap();
            }
        });
    }

    /// Copies every other file once more, after its writer has gone on: two moments in one version.
    fn tear(&self) {
        if self.writers.is_empty() {
            return;
        }
        let (dir, saved) = (self.dir(), self.saved(self.version));
        let again = std::cell::RefCell::new(Vec::new());
        each(&saved, &|path, meta| {
            if meta.is_file() && !path.to_string_lossy().ends_with("-shm") {
                again.borrow_mut().push(path.to_path_buf());
            }
        });
        let mut again = again.into_inner();
        again.sort();
        for path in again.iter().skip(1).step_by(2) {
            let from = dir.join(path.strip_prefix(&saved).unwrap());
            let old = std::fs::read(path).unwrap();
            super::command::eventually("the writer to go on", super::command::LIMIT, || {
                let Ok(now) = std::fs::read(&from) else { return Some(()) };
                let moved = now != old;
                if moved {
                    std::fs::write(path, now).unwrap();
                }
                moved.then_some(())
            });
        }
    }

    fn show_again(&mut self, from: u32) {
        let saved = self.saved(from);
        self.place += 1;
        std::fs::create_dir(self.dir()).unwrap();
        self.copy(&saved, &self.dir());
    }

    fn signal(&self, signal: rustix::process::Signal) {
        for pid in &self.writers {
            if let Some(pid) = rustix::process::Pid::from_raw(*pid as i32) {
                let _ = rustix::process::kill_process(pid, signal);
            }
        }
    }

    fn await_stopped(&self) {
        for pid in &self.writers {
            super::command::eventually("writer to stop", super::command::LIMIT, || {
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
                let state = stat.rsplit(") ").next()?.as_bytes()[0];
                matches!(state, b'T' | b'Z' | b'X').then_some(())
            });
        }
    }
}

impl Subject for Twin {
    fn dir(&self) -> PathBuf {
        self.root.path().join(format!("place{}", self.place))
    }

    fn flush(&mut self) -> String {
        if self.defect == Defect::Torn {
            self.save();
            self.tear();
        } else {
            self.signal(rustix::process::Signal::STOP);
            self.await_stopped();
            self.save();
            self.signal(rustix::process::Signal::CONT);
        }
        if self.defect == Defect::AcknowledgeEarly {
            self.late.push_back(self.version);
        }
        self.version.to_string()
    }

    fn strike(&mut self) {}

    /// What a crash loses is lost when the writers that outlived it are gone: else they write it again.
    fn revive(&mut self) {
        if self.defect == Defect::LoseOnCrash {
            each(&self.dir(), &|path, meta| {
                if meta.is_file() && meta.len() > 0 {
                    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
                    file.set_len(meta.len() - 1).unwrap();
                }
            });
        }
    }

    fn remount(&mut self) {
        self.flush();
    }

    fn elsewhere(&mut self) {
        let from = if self.late.is_empty() { self.version } else { self.version - 1 };
        self.show_again(from);
    }

    fn checkout(&self, version: &str) -> PathBuf {
        let number: u32 = version.parse().unwrap();
        self.saved(if self.late.is_empty() { number } else { number - 1 })
    }

    fn archive(&self, to: &Path) {
        let dir = self.saved(self.version);
        tool(
            "tar",
            &[
                OsStr::new("--zstd"),
                OsStr::new("--xattrs"),
                OsStr::new("--xattrs-include=*"),
                OsStr::new("--format=posix"),
                OsStr::new("--sparse"),
                OsStr::new("-C"),
                dir.as_os_str(),
                OsStr::new("-cf"),
                to.as_os_str(),
                OsStr::new("."),
            ],
        );
    }

    fn writers(&mut self, pids: &[u32]) {
        self.writers = pids.to_vec();
    }
}

/// Visits every name below `dir`, children before their directory.
fn each(dir: &Path, visit: &dyn Fn(&Path, &std::fs::Metadata)) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = dir.join(OsStr::from_bytes(entry.unwrap().file_name().as_bytes()));
        let meta = path.symlink_metadata().unwrap();
        if meta.is_dir() {
            each(&path, visit);
        }
        visit(&path, &meta);
    }
}
