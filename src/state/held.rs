//! [`held_files`]: which files beneath a directory other processes have open, so that they would go on with files that
//! nobody sees if others took the place of these.
//!
//! What is open for reading alone does no harm, unless it is a database of SQLite: who reads that finds its log by its
//! name, and would take the log of another one for its own.
use super::mapped::each_mapping_of;
use super::walindex;
use crate::path::RelPath;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// The bits of the flags of a descriptor that say what it is open for; 0: for reading.
const ACCESS: u32 = 0o3;
/// How the directory begins in which a Java machine counts what it does, through a mapping: nobody misses that.
const COUNTERS: &[u8] = b"hsperfdata_";
/// What stands behind the path of a file whose name is gone.
const DELETED: &[u8] = b" (deleted)";

/// Whose files are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holders {
    /// Of every visible process but this one.
    Anybody,
    /// Of those that this process has started, and that these have.
    Offspring,
}

/// A file that a process has open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldFile {
    /// Where it is, beneath the directory.
    pub path: RelPath,
    /// The number of the process.
    pub process: u32,
    /// What the process is called.
    pub name: String,
}

/// Those beneath `dir`, in no order. What this process itself writes to as its output is none of them: who has started it
/// has that open as well.
pub fn held_files(dir: &Path, holders: Holders) -> Vec<HeldFile> {
    let parents = parents();
    let own = std::process::id();
    let output: HashSet<(u64, u64)> = outputs().collect();
    let (mut held, mut can_be_asked) = (Vec::new(), true);
    for process in parents.keys().copied().filter(|process| *process != own) {
        if holders == Holders::Offspring && !descends(process, own, &parents) {
            continue;
        }
        let place = format!("/proc/{process}");
        let mut paths = HashSet::new();
        for entry in fs::read_dir(format!("{place}/fd")).into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            let Some(path) = beneath(dir, target.as_os_str().as_bytes()) else { continue };
            let Ok(there) = fs::metadata(entry.path()) else { continue };
            if !there.is_file() || there.nlink() == 0 || output.contains(&identity(&there)) {
                continue;
            }
            let info = Path::new(&place).join("fdinfo").join(entry.file_name());
            if writes(&info) || is_database(&entry.path()) {
                paths.insert(path);
            }
        }
        if let Ok(maps) = File::open(format!("{place}/maps")) {
            each_mapping_of(&maps, &mut can_be_asked, &mut |mapping| {
                paths.extend(beneath(dir, &mapping.path).filter(|path| !path.as_bytes().ends_with(DELETED)));
            });
        }
        if !paths.is_empty() {
            let name = fs::read_to_string(format!("{place}/comm")).unwrap_or_default();
            let file = |path| HeldFile { path, process, name: name.trim_end().to_owned() };
            held.extend(paths.into_iter().map(file));
        }
    }
    held
}

/// The parent of each visible process.
fn parents() -> HashMap<u32, u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbered = processes.filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok());
    numbered.filter_map(|process| Some((process, parent(process)?))).collect()
}

/// `number (name) state parent …`, where the name may have anything in it (proc_pid_stat(5)).
fn parent(process: u32) -> Option<u32> {
    let stat = fs::read(format!("/proc/{process}/stat")).ok()?;
    let after = stat.iter().rposition(|byte| *byte == b')')? + 1;
    std::str::from_utf8(&stat[after..]).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn descends(process: u32, from: u32, parents: &HashMap<u32, u32>) -> bool {
    let mut above = parents.get(&process);
    // Processes come and go while they are looked at, so this need not end by itself.
    for _ in 0..parents.len() {
        match above {
            Some(parent) if *parent == from => return true,
            Some(parent) => above = parents.get(parent),
            None => return false,
        }
    }
    false
}

/// What this process has been given to write to, and to read.
fn outputs() -> impl Iterator<Item = (u64, u64)> {
    let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let given = [input.as_raw_fd(), output.as_raw_fd(), error.as_raw_fd()];
    given
        .into_iter()
        .filter_map(|fd| fs::metadata(format!("/proc/self/fd/{fd}")).ok())
        .map(|it| identity(&it))
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

fn beneath(dir: &Path, path: &[u8]) -> Option<RelPath> {
    let path = Path::new(OsStr::from_bytes(path)).strip_prefix(dir).ok()?;
    let path = RelPath::new(path.as_os_str().as_bytes()).ok().filter(|path| !path.is_root())?;
    let counts = path.components().any(|name| name.starts_with(COUNTERS));
    (!counts).then_some(path)
}

/// Whether a descriptor may be written to (proc_pid_fdinfo(5)).
fn writes(info: &Path) -> bool {
    let text = fs::read_to_string(info).unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    flags.is_some_and(|flags| u32::from_str_radix(flags.trim(), 8).is_ok_and(|flags| flags & ACCESS != 0))
}

/// Whether an open file is a database of SQLite.
fn is_database(descriptor: &Path) -> bool {
    let mut start = [0; walindex::DATABASE.len()];
    let read = File::open(descriptor).and_then(|file| file.read_exact_at(&mut start, 0));
    read.is_ok() && start == *walindex::DATABASE
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::process::{Child, Command, Stdio};

    /// A process that has files open until it is told to end.
    struct Holder(Child);

    impl Holder {
        fn of(dir: &Path, opens: &str) -> Self {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("exec {opens}; echo; read end")]).current_dir(dir);
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts");
            let mut told = [0];
            child.stdout.as_mut().expect("piped").read_exact(&mut told).expect("has opened them");
            Self(child)
        }
    }

    impl Drop for Holder {
        fn drop(&mut self) {
            let _gone_already = self.0.stdin.take().map(|mut input| input.write_all(b"\n"));
            let _reaped = self.0.wait();
        }
    }

    fn held(dir: &Path, holders: Holders) -> Vec<String> {
        let mut paths: Vec<String> =
            held_files(dir, holders).into_iter().map(|held| held.path.to_string()).collect();
        paths.sort();
        paths
    }

    #[test]
    fn what_is_written_to_and_databases_are_found_and_nothing_else() {
        let dir = tempfile::tempdir().expect("dir");
        let place = fs::canonicalize(dir.path()).expect("there");
        let here = tempfile::tempdir().expect("dir");
        for name in ["log", "read", "gone", "both"] {
            fs::write(place.join(name), "text").expect("writes");
        }
        fs::write(place.join("base"), [&walindex::DATABASE[..], &[0; 84]].concat()).expect("writes");
        let own = File::options().append(true).open(place.join("read")).expect("opens");
        let holder = Holder::of(&place, "3>>log 4<read 5>>gone 6<>both 7<base; rm gone");
        for holders in [Holders::Anybody, Holders::Offspring] {
            assert_eq!(held(&place, holders), ["base", "both", "log"], "{holders:?}");
            assert!(held(&here.path().join("elsewhere"), holders).is_empty());
        }
        let found = held_files(&place, Holders::Anybody);
        assert!(found.iter().all(|held| held.process == holder.0.id() && held.name == "sh"), "{found:?}");
        drop((own, holder));
        assert!(held(&place, Holders::Anybody).is_empty());
    }

    #[test]
    fn who_descends_from_whom_is_known() {
        let parents = HashMap::from([(1, 0), (2, 1), (3, 2), (4, 1), (6, 7), (7, 6)]);
        assert!(descends(3, 1, &parents) && descends(3, 2, &parents) && !descends(4, 2, &parents));
        assert!(!descends(6, 2, &parents), "and it ends");
    }
}
