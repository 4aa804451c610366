//! The registry of running mounts: how a verb that is given only DIR finds the daemon.
//!
//! One small JSON file per mount, named by the hash of the canonical directory, in a directory that
//! only its user can write. A file is a hint, never the truth: the truth is who answers on the socket.
use crate::config::{Environment, place, wire};
use crate::serve::control::{Client, SOCKET_NAME};
use crate::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The largest registry file that is read, in bytes: two paths and a little more.
const ENTRY_MAX_BYTES: u64 = 64 << 10;

/// A mount as the registry knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// The mount directory, canonical.
    #[serde(with = "wire::path")]
    pub dir: PathBuf,
    /// Where its socket and log are.
    #[serde(with = "wire::path")]
    pub state_dir: PathBuf,
    /// The daemon.
    pub pid: u32,
    /// The process that it is for, its parent.
    #[serde(default)]
    pub owner: Option<u32>,
    /// It shows a version and changes nothing.
    #[serde(default)]
    pub read_only: bool,
}

impl Registered {
    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.state_dir.join(SOCKET_NAME)
    }

    /// Whether the process that it was for is gone: then it saves, and ends by itself.
    pub fn is_orphaned(&self) -> bool {
        self.owner.is_some_and(|owner| stat(self.pid, 1).is_some_and(|parent| parent != owner.to_string()))
    }

    /// Whether the process exists (it may be another one by now; the socket knows).
    pub fn process_exists(&self) -> bool {
        let pid = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw);
        let there =
            pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH));
        there && !is_zombie(self.pid)
    }
}

/// What is known of a directory.
#[derive(Debug)]
pub enum Found {
    /// A daemon answers.
    Running(Registered, Client),
    /// A daemon was here and is gone.
    Stale(Registered),
    /// Nothing is known.
    Unknown,
}

/// The directories in which registry files lie.
#[derive(Debug, Clone)]
pub struct Registry {
    /// Where own mounts are registered; `None` for a user who has no place of his own, as in a function: then there
    /// are none.
    own: Option<PathBuf>,
    /// Where others' mounts may be found as well.
    others: Vec<PathBuf>,
}

impl Registry {
    /// The registry of this user: `$ICECACHE_RUNTIME_DIR`; for root `/run/icecache`; else
    /// `$XDG_RUNTIME_DIR/icecache`; else a folder of the user's state.
    pub fn of(environment: &Environment) -> Self {
        if let Some(own) = environment.path("ICECACHE_RUNTIME_DIR") {
            return Self::at(own);
        }
        let run = PathBuf::from("/run/icecache");
        if environment.root {
            // Not $XDG_RUNTIME_DIR: with sudo it may be a directory that another user can write.
            let users = fs::read_dir("/run/user").into_iter().flatten().flatten();
            let others = users.map(|user| user.path().join("icecache")).collect();
            return Self { own: Some(run), others };
        }
        let own = match environment.path("XDG_RUNTIME_DIR") {
            Some(runtime) => Some(runtime.join("icecache")),
            None => place::state_home(environment).ok().map(|home| home.join("run")),
        };
        Self { own, others: vec![run] }
    }

    /// A registry in one directory.
    pub fn at(own: impl Into<PathBuf>) -> Self {
        Self { own: Some(own.into()), others: Vec::new() }
    }

    /// Enters a mount; it is taken out when the result is dropped.
    pub fn register(&self, entry: &Registered) -> Result<Registration> {
        let Some(own) = &self.own else {
            let message =
                "there is no place to register the mount: set HOME, XDG_RUNTIME_DIR or ICECACHE_RUNTIME_DIR";
            return Err(Error::new(ErrorKind::Invalid, message));
        };
        let failed = |e| Error::io(format!("cannot register mount: {}", own.display()), e);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(own).map_err(failed)?;
        let file = own.join(file_name(&entry.dir));
        let temporary = own.join(format!("{}.{}.tmp", file_name(&entry.dir), entry.pid));
        let write = || -> io::Result<()> {
            let text = serde_json::to_vec(entry)?;
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            options.custom_flags(libc::O_NOFOLLOW).open(&temporary)?.write_all(&text)?;
            fs::rename(&temporary, &file)
        };
        write().map_err(failed)?;
        Ok(Registration { file, entry: entry.clone() })
    }

    /// Looks up a directory (canonical) and asks its socket.
    pub fn find(&self, dir: &Path) -> Found {
        let mut stale = None;
        for place in self.places() {
            let Some(entry) = read(&place.join(file_name(dir))).filter(|e| e.dir == dir) else { continue };
            match Client::connect(&entry.socket()) {
                Ok(client) => return Found::Running(entry, client),
                Err(_) => stale = stale.or(Some(entry)),
            }
        }
        stale.map_or(Found::Unknown, Found::Stale)
    }

    /// The daemon of a directory, or an error that says what is known.
    pub fn client(&self, dir: &Path) -> Result<(Registered, Client)> {
        match self.find(dir) {
            Found::Running(entry, client) => Ok((entry, client)),
            Found::Stale(entry) if entry.process_exists() => {
                // Says why: not permitted, or not listening yet.
                Client::connect(&entry.socket()).map(|client| (entry, client))
            }
            Found::Stale(entry) => Err(Error::new(
                ErrorKind::NotFound,
                format!("daemon is gone without unmounting (pid {}): {}", entry.pid, dir.display()),
            )),
            Found::Unknown => {
                Err(Error::new(ErrorKind::NotFound, format!("not mounted by icecache: {}", dir.display())))
            }
        }
    }

    /// Every running mount, by directory. Files of dead daemons in our own directory are removed once
    /// their state directory is gone too; else they still tell `unmount` and `mount` what happened.
    pub fn list(&self) -> Vec<(Registered, Client)> {
        let mut running = Vec::new();
        for place in self.places() {
            for file in fs::read_dir(place).into_iter().flatten().flatten() {
                let path = file.path();
                if path.extension().is_none_or(|e| e != "json") {
                    continue;
                }
                let Some(entry) = read(&path) else { continue };
                match Client::connect(&entry.socket()) {
                    Ok(client) => running.push((entry, client)),
                    Err(_) if !entry.process_exists() && !entry.state_dir.exists() => {
                        let _ = fs::remove_file(&path);
                    }
                    Err(_) => {}
                }
            }
        }
        running.sort_by(|(a, _), (b, _)| a.dir.cmp(&b.dir));
        running
    }

    /// Forgets a mount whose daemon is gone.
    pub fn forget(&self, entry: &Registered) {
        for place in self.places() {
            remove_if_same(&place.join(file_name(&entry.dir)), entry);
        }
    }

    fn places(&self) -> impl Iterator<Item = &Path> {
        self.own.iter().chain(&self.others).map(PathBuf::as_path)
    }
}

fn file_name(dir: &Path) -> String {
    format!("{}.json", place::dir_hash(dir))
}

/// Whether a process has ended and only waits to be noticed: in a container without an init, for ever.
fn is_zombie(pid: u32) -> bool {
    stat(pid, 0).is_some_and(|state| state == "Z" || state == "X")
}

/// What the kernel tells of a process: its state, its parent, and so on.
fn stat(pid: u32, field: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold anything, parentheses too.
    stat.rsplit_once(") ")?.1.split(' ').nth(field).map(str::to_owned)
}

/// An unreadable or malformed file counts as none.
fn read(path: &Path) -> Option<Registered> {
    let mut text = Vec::new();
    fs::File::open(path).ok()?.take(ENTRY_MAX_BYTES).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

fn remove_if_same(file: &Path, entry: &Registered) {
    if read(file).as_ref() == Some(entry) {
        let _ = fs::remove_file(file);
    }
}

/// A registered mount.
#[derive(Debug)]
pub struct Registration {
    file: PathBuf,
    entry: Registered,
}

impl Drop for Registration {
    fn drop(&mut self) {
        // Not if a later daemon has taken the place.
        remove_if_same(&self.file, &self.entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn entry(temp: &Path, pid: u32) -> Registered {
        Registered { dir: temp.join("dir"), state_dir: temp.to_owned(), pid, owner: None, read_only: false }
    }

    #[test]
    fn an_entry_lives_as_long_as_its_daemon() {
        let temp = tempfile::tempdir().expect("temp");
        let registry = Registry::at(temp.path().join("run"));
        let entry = entry(temp.path(), std::process::id());
        assert!(matches!(registry.find(&entry.dir), Found::Unknown));
        let registration = registry.register(&entry).expect("registered");
        assert!(matches!(registry.find(&entry.dir), Found::Stale(_)), "nobody listens yet");
        let listener = UnixListener::bind(entry.socket()).expect("bound");
        assert!(matches!(registry.find(&entry.dir), Found::Running(found, _) if found == entry));
        assert_eq!(registry.list().len(), 1);
        drop(listener);
        assert!(matches!(registry.find(&entry.dir), Found::Stale(_)), "dead socket");
        assert!(registry.list().is_empty());
        drop(registration);
        assert!(matches!(registry.find(&entry.dir), Found::Unknown));
    }

    #[test]
    fn a_dead_daemon_is_told_from_none() {
        let temp = tempfile::tempdir().expect("temp");
        let registry = Registry::at(temp.path().join("run"));
        // A process that has certainly ended.
        let mut child = std::process::Command::new("true").spawn().expect("spawns");
        child.wait().expect("ends");
        let entry = entry(temp.path(), child.id());
        let registration = registry.register(&entry).expect("registered");
        let error = registry.client(&entry.dir).expect_err("gone");
        assert!(error.to_string().contains("gone without unmounting"), "{error}");
        // Ended, but nobody has waited for it.
        let mut zombie = std::process::Command::new("true").spawn().expect("spawns");
        let ended = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        let pid = rustix::process::Pid::from_child(&zombie);
        rustix::process::waitid(rustix::process::WaitId::Pid(pid), ended).expect("ends");
        assert!(!Registered { pid: zombie.id(), ..entry.clone() }.process_exists());
        zombie.wait().expect("waits");
        // Our parent is not who it was for.
        let ours = Registered { owner: Some(std::process::id()), pid: std::process::id(), ..entry.clone() };
        assert!(ours.is_orphaned());
        let parent = rustix::process::getppid().map(|pid| pid.as_raw_pid() as u32);
        assert!(!Registered { owner: parent, ..ours }.is_orphaned());
        let later = Registered { pid: std::process::id(), ..entry.clone() };
        let kept = registry.register(&later).expect("taken over");
        drop(registration);
        assert!(matches!(registry.find(&entry.dir), Found::Stale(found) if found == later), "kept");
        drop(kept);
        let error = registry.client(&entry.dir).expect_err("unknown");
        assert!(error.to_string().contains("not mounted"), "{error}");
    }

    /// A function has neither a home nor the rights of root.
    #[test]
    fn who_has_no_place_finds_nothing_and_registers_nothing() {
        let temp = tempfile::tempdir().expect("temp");
        let registry = Registry::of(&Environment::of(false, []));
        let entry = entry(temp.path(), std::process::id());
        assert!(matches!(registry.find(&entry.dir), Found::Unknown));
        assert!(registry.client(&entry.dir).is_err_and(|e| e.to_string().contains("not mounted")));
        let error = registry.register(&entry).expect_err("no place");
        assert!(error.to_string().contains("ICECACHE_RUNTIME_DIR"), "{error}");
    }

    #[test]
    fn garbage_is_no_entry() {
        let temp = tempfile::tempdir().expect("temp");
        let registry = Registry::at(temp.path());
        let dir = temp.path().join("dir");
        fs::write(temp.path().join(file_name(&dir)), b"{\"dir\":3").expect("write");
        assert!(matches!(registry.find(&dir), Found::Unknown));
        // A file under the wrong name does not speak for another directory.
        let other = Registered { dir: "/other".into(), ..entry(temp.path(), 1) };
        fs::write(temp.path().join(file_name(&dir)), serde_json::to_vec(&other).expect("json"))
            .expect("write");
        assert!(matches!(registry.find(&dir), Found::Unknown));
    }
}
