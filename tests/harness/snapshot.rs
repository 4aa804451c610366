//! What a tree is, down to the last attribute, and how two trees differ in words.
use rustix::fs::{AtFlags, FileType, Mode, OFlags, SeekFrom, Stat};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The granularity in which content and holes are compared.
const BLOCK: usize = 4096;

/// What of a tree is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// Modification times in nanoseconds.
    pub times: bool,
    /// Where data and holes are, in blocks of 4 KiB.
    pub holes: bool,
    /// Sockets (layers do not carry them).
    pub sockets: bool,
    /// The attributes of the root directory itself.
    pub root: bool,
}

/// Everything that a flush promises to keep.
pub const KEPT: Look = Look { times: true, holes: true, sockets: false, root: false };
/// What two trees made by the same calls at different times have in common.
pub const TIMELESS: Look = Look { times: false, holes: false, sockets: true, root: false };

/// One name in a tree.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    kind: String,
    mode: u32,
    owner: (u32, u32),
    size: u64,
    mtime: Option<(i64, u32)>,
    /// For a file with several names: their number and the smallest of them.
    link: Option<(u64, String)>,
    target: Option<String>,
    device: Option<(u32, u32)>,
    xattrs: BTreeMap<String, String>,
    content: Option<String>,
    holes: Option<String>,
}

/// A tree: every name with what stands there. Keys are relative paths.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tree(pub BTreeMap<Vec<u8>, Node>);

/// Bytes as a person can read them, each sequence in one way only.
pub fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// The number of names of a file and those of them that were met.
type Names = (u64, Vec<Vec<u8>>);

struct Walk {
    look: Look,
    nodes: BTreeMap<Vec<u8>, Node>,
    names: HashMap<(u64, u64), Names>,
}

impl Tree {
    /// Reads the tree at `root`; panics on anything unreadable.
    #[track_caller]
    pub fn take(root: &Path, look: Look) -> Self {
        Self::try_take(root, look).unwrap_or_else(|e| panic!("cannot read tree: {e}: {}", root.display()))
    }

    /// What `populate` and then `work` make of a directory of this machine; without times.
    pub fn made_by(populate: impl FnOnce(&Path), work: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        populate(dir.path());
        work(dir.path());
        Self::take(dir.path(), TIMELESS)
    }

    /// Reads the tree at `root`, or says at which path that failed.
    pub fn try_take(root: &Path, look: Look) -> Result<Self, String> {
        let mut walk = Walk { look, nodes: BTreeMap::new(), names: HashMap::new() };
        let fd = open_dir(root).map_err(|e| format!("{}: {e}", root.display()))?;
        if look.root {
            let node = walk.node(root, b"").map_err(|e| format!("root: {e}"))?;
            walk.nodes.insert(Vec::new(), node.0);
        }
        walk.directory(&fd, b"")?;
        for (count, mut paths) in walk.names.into_values() {
            paths.sort();
            let first = show(&paths[0]);
            for path in paths {
                if let Some(node) = walk.nodes.get_mut(&path) {
                    node.link = Some((count, first.clone()));
                }
            }
        }
        Ok(Self(walk.nodes))
    }

    /// Every difference in one line each: `path: what: expected != found`.
    pub fn diff(&self, found: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, node) in &self.0 {
            match found.0.get(path) {
                None => lines.push(format!("{}: missing ({})", show(path), node.kind)),
                Some(other) => node.diff(other, &show(path), &mut lines),
            }
        }
        for (path, node) in &found.0 {
            if !self.0.contains_key(path) {
                lines.push(format!("{}: should not exist ({})", show(path), node.kind));
            }
        }
        lines
    }

    /// Panics with the differences, if there are any.
    #[track_caller]
    pub fn assert_same(&self, found: &Self, what: &str) {
        let lines = self.diff(found);
        if !lines.is_empty() {
            let shown = lines.iter().take(40).fold(String::new(), |mut out, l| {
                let _ = writeln!(out, "  {l}");
                out
            });
            panic!("{what}: {} differences (expected != found):\n{shown}", lines.len());
        }
    }

    /// The paths in the tree, readable.
    pub fn paths(&self) -> Vec<String> {
        self.0.keys().map(|k| show(k)).collect()
    }
}

impl Node {
    fn diff(&self, found: &Self, path: &str, lines: &mut Vec<String>) {
        let mut field = |name: &str, a: &dyn std::fmt::Debug, b: &dyn std::fmt::Debug| {
            let (a, b) = (format!("{a:?}"), format!("{b:?}"));
            if a != b {
                lines.push(format!("{path}: {name}: {a} != {b}"));
            }
        };
        field("kind", &self.kind, &found.kind);
        let octal = |m: u32| format!("{m:04o}");
        field("mode", &octal(self.mode), &octal(found.mode));
        field("owner", &self.owner, &found.owner);
        field("size", &self.size, &found.size);
        field("mtime", &self.mtime, &found.mtime);
        field("hard links", &self.link, &found.link);
        field("target", &self.target, &found.target);
        field("device", &self.device, &found.device);
        field("xattrs", &self.xattrs, &found.xattrs);
        field("content", &self.content, &found.content);
        field("holes", &self.holes, &found.holes);
    }
}

fn open_dir(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

impl Walk {
    fn directory(&mut self, fd: &OwnedFd, prefix: &[u8]) -> Result<(), String> {
        // Names are reached through the descriptor, so that no path is ever longer than the kernel allows.
        let base = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let at = |name: &[u8], e: &dyn std::fmt::Display| format!("{}/{}: {e}", show(prefix), show(name));
        let dir = rustix::fs::Dir::read_from(fd).map_err(|e| at(b"", &e))?;
        for entry in dir {
            let entry = entry.map_err(|e| at(b"", &e))?;
            let name = entry.file_name().to_bytes().to_vec();
            if name == b"." || name == b".." {
                continue;
            }
            let path = if prefix.is_empty() { name.clone() } else { [prefix, b"/", &name].concat() };
            let real = base.join(std::ffi::OsStr::from_bytes(&name));
            let (node, kind) = self.node(&real, &path).map_err(|e| at(&name, &e))?;
            if kind == FileType::Socket && !self.look.sockets {
                continue;
            }
            if self.nodes.insert(path.clone(), node).is_some() {
                return Err(format!("{}: listed twice", show(&path)));
            }
            if kind == FileType::Directory {
                let child = open_dir(&real).map_err(|e| at(&name, &e))?;
                self.directory(&child, &path)?;
            }
        }
        Ok(())
    }

    fn node(&mut self, real: &Path, path: &[u8]) -> std::io::Result<(Node, FileType)> {
        let stat: Stat = rustix::fs::statat(rustix::fs::CWD, real, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let mut node = Node {
            kind: format!("{kind:?}"),
            mode: if kind == FileType::Symlink { 0 } else { stat.st_mode & 0o7777 },
            owner: (stat.st_uid, stat.st_gid),
            mtime: self.look.times.then_some((stat.st_mtime, stat.st_mtime_nsec as u32)),
            xattrs: xattrs(real)?,
            ..Node::default()
        };
        match kind {
            FileType::RegularFile => {
                node.size = stat.st_size as u64;
                let file = File::open(real)?;
                let (content, holes) = content(&file, node.size)?;
                node.content = Some(content);
                node.holes = self.look.holes.then_some(holes);
            }
            FileType::Symlink => {
                node.target = Some(show(rustix::fs::readlink(real, Vec::new())?.to_bytes()));
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                node.device = Some((rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)));
            }
            _ => {}
        }
        if kind != FileType::Directory && stat.st_nlink > 1 {
            let group = self.names.entry((stat.st_dev, stat.st_ino)).or_default();
            group.0 = stat.st_nlink;
            group.1.push(path.to_vec());
        }
        Ok((node, kind))
    }
}

/// Attributes that the system puts on files by itself and that say nothing about us.
const IGNORED: [&[u8]; 1] = [b"security.selinux"];

fn xattrs(path: &Path) -> std::io::Result<BTreeMap<String, String>> {
    let mut list = vec![0_u8; 65536];
    let length = match rustix::fs::llistxattr(path, &mut list) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => 0,
        Err(e) => return Err(e.into()),
    };
    let mut found = BTreeMap::new();
    for name in list[..length].split(|b| *b == 0).filter(|n| !n.is_empty() && !IGNORED.contains(n)) {
        let mut value = vec![0_u8; 65536];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..])?;
        found.insert(show(name), show(&value[..length]));
    }
    Ok(found)
}

/// A digest of all bytes that are not zero with their places (so a sparse file of terabytes is quick),
/// and the map of data blocks.
fn content(file: &File, size: u64) -> std::io::Result<(String, String)> {
    let mut hash = blake3::Hasher::new();
    let mut map = String::new();
    let mut buffer = vec![0_u8; 256 * BLOCK];
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
        let block = BLOCK as u64;
        let _ = write!(map, "{}-{} ", start / block, end.div_ceil(block));
        let mut position = start / block * block;
        while position < end {
            let want = buffer.len().min((end - position) as usize);
            let got = file.read_at(&mut buffer[..want], position)?;
            if got == 0 {
                break;
            }
            let aligned = if got == want { got } else { (got / BLOCK * BLOCK).max(got.min(BLOCK)) };
            for (index, part) in buffer[..aligned].chunks(BLOCK).enumerate() {
                if let Some(last) = part.iter().rposition(|b| *b != 0) {
                    hash.update(&(position + (index * BLOCK) as u64).to_le_bytes());
                    hash.update(&part[..=last]);
                }
            }
            position += aligned as u64;
        }
        at = end;
    }
    Ok((hash.finalize().to_hex()[..16].to_string(), map.trim_end().to_owned()))
}
