//! One random operation, applied in the same way to a mount and to a plain directory; the answers of both,
//! errors included, must be equal.
use super::snapshot::show;
use proptest::prelude::*;
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, RenameFlags, SeekFrom, Timespec, Timestamps,
    XattrFlags,
};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The names that everything happens under: few, so that operations meet.
const NAMES: [&[u8]; 8] = [b"a", b"b", b"c", b"new\nline", b".wh.a", b"\xff\xfe", &[b'n'; 255], &[b'm'; 256]];
const TARGETS: [&[u8]; 6] = [b"a", b"b/a", b".", b"/does/not/exist", b"c", &[b't'; 300]];
/// How many descriptors stay open between operations.
const HANDLES: usize = 4;
/// Files stay small: what is tested is the order of things, not their size...
const MAX: u64 = 300_000;
/// ...but some are large, which is another road where they are not here. Little of that is data.
const LARGE: u64 = 8 << 20;

/// Something that exists (modulo how many things do), or a name in it.
#[derive(Debug, Clone, Copy)]
pub struct Pick(u16, Option<u8>);

/// One operation; the indices are taken modulo what there is.
#[derive(Debug, Clone)]
pub enum Op {
    Write(Pick, u8, u32, u16),
    Open(u8, Pick, u8),
    Close(u8),
    Pwrite(u8, u32, u16),
    Pread(u8, u32, u16),
    Append(Pick, u16),
    Truncate(Pick, u32),
    Empty(Pick, u8),
    Enlarge(Pick, u16),
    AppendLater(Pick, u16),
    Ftruncate(u8, u32),
    Read(Pick),
    Rename(Pick, Pick, u8),
    Link(Pick, Pick),
    Symlink(u8, Pick),
    Readlink(Pick),
    Unlink(Pick),
    Rmdir(Pick),
    Mkdir(Pick, u16),
    Chmod(Pick, u16),
    Utimens(Pick, u8, u32),
    Chown(Pick, u8),
    SetXattr(Pick, u8, u16, u8),
    GetXattr(Pick, u8),
    RemoveXattr(Pick, u8),
    Fallocate(u8, u8, u32, u32),
    Seek(u8, bool, u32),
    CopyRange(u8, u8, u32, u32, u32),
    Mkfifo(Pick),
    List(Pick),
    Stat(Pick),
    Flush,
    Crash,
    Remount,
    Elsewhere,
}

fn pick() -> impl Strategy<Value = Pick> {
    // Existing things and fresh names in equal parts; the root itself now and then.
    (any::<u16>(), proptest::option::of(0..NAMES.len() as u8)).prop_map(|(a, b)| Pick(a, b))
}

/// All operations; the last four (of which there are few) only mean something to a mount.
pub fn op() -> impl Strategy<Value = Op> {
    let at = 0..MAX as u32;
    let small = 0..20_000_u16;
    let h = || 0..HANDLES as u8;
    let data = prop_oneof![
        5 => (pick(), any::<u8>(), at.clone(), small.clone()).prop_map(|(p, f, a, l)| Op::Write(p, f, a, l)),
        3 => (h(), pick(), any::<u8>()).prop_map(|(h, p, f)| Op::Open(h, p, f)),
        1 => h().prop_map(Op::Close),
        5 => (h(), at.clone(), small.clone()).prop_map(|(h, a, l)| Op::Pwrite(h, a, l)),
        2 => (h(), at.clone(), small.clone()).prop_map(|(h, a, l)| Op::Pread(h, a, l)),
        2 => (pick(), small.clone()).prop_map(|(p, l)| Op::Append(p, l)),
        2 => (pick(), at.clone()).prop_map(|(p, l)| Op::Truncate(p, l)),
        1 => (pick(), any::<u8>()).prop_map(|(p, w)| Op::Empty(p, w)),
        1 => (pick(), small.clone()).prop_map(|(p, l)| Op::Enlarge(p, l)),
        1 => (pick(), small).prop_map(|(p, l)| Op::AppendLater(p, l)),
        1 => (h(), at.clone()).prop_map(|(h, l)| Op::Ftruncate(h, l)),
        2 => pick().prop_map(Op::Read),
        2 => (h(), 0..4_u8, at.clone(), 1..100_000_u32).prop_map(|(h, m, a, l)| Op::Fallocate(h, m, a, l)),
        1 => (h(), any::<bool>(), at.clone()).prop_map(|(h, d, a)| Op::Seek(h, d, a)),
        2 => (h(), h(), at.clone(), at, 0..50_000_u32).prop_map(|(a, b, f, t, l)| Op::CopyRange(a, b, f, t, l)),
    ];
    let names = prop_oneof![
        5 => (pick(), pick(), 0..4_u8).prop_map(|(a, b, f)| Op::Rename(a, b, f)),
        2 => (pick(), pick()).prop_map(|(a, b)| Op::Link(a, b)),
        2 => (0..TARGETS.len() as u8, pick()).prop_map(|(t, p)| Op::Symlink(t, p)),
        1 => pick().prop_map(Op::Readlink),
        3 => pick().prop_map(Op::Unlink),
        1 => pick().prop_map(Op::Rmdir),
        5 => (pick(), any::<u16>()).prop_map(|(p, m)| Op::Mkdir(p, m)),
        1 => pick().prop_map(Op::Mkfifo),
        1 => pick().prop_map(Op::List),
    ];
    let attributes = prop_oneof![
        2 => (pick(), any::<u16>()).prop_map(|(p, m)| Op::Chmod(p, m)),
        2 => (pick(), 0..4_u8, any::<u32>()).prop_map(|(p, k, t)| Op::Utimens(p, k, t)),
        1 => (pick(), any::<u8>()).prop_map(|(p, o)| Op::Chown(p, o)),
        2 => (pick(), 0..3_u8, 0..600_u16, 0..3_u8).prop_map(|(p, n, l, f)| Op::SetXattr(p, n, l, f)),
        1 => (pick(), 0..3_u8).prop_map(|(p, n)| Op::GetXattr(p, n)),
        1 => (pick(), 0..3_u8).prop_map(|(p, n)| Op::RemoveXattr(p, n)),
        2 => pick().prop_map(Op::Stat),
    ];
    let verbs = prop_oneof![4 => Just(Op::Flush), 1 => Just(Op::Crash), 1 => Just(Op::Remount), 1 => Just(Op::Elsewhere)];
    prop_oneof![48 => data, 36 => names, 12 => attributes, 4 => verbs]
}

/// Everything that exists below `base`, the root (an empty path) first; symlinks are not followed.
pub fn live(base: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    let mut next = 0;
    while next < found.len() {
        let here = base.join(&found[next]);
        if here.symlink_metadata().is_ok_and(|m| m.is_dir()) {
            let mut names: Vec<_> =
                std::fs::read_dir(here).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            let inside: Vec<_> = names.into_iter().map(|n| found[next].join(n)).collect();
            found.extend(inside);
        }
        next += 1;
    }
    found
}

/// One side: a directory and the descriptors open in it.
#[derive(Debug)]
pub struct Side {
    /// Where it is.
    pub base: PathBuf,
    handles: [Option<File>; HANDLES],
}

type Answer = rustix::io::Result<String>;

impl Side {
    /// A side without open descriptors.
    pub fn new(base: PathBuf) -> Self {
        Self { base, handles: Default::default() }
    }

    /// Closes everything.
    pub fn close(&mut self) {
        self.handles = Default::default();
    }

    /// Does it and says in words what came of it.
    pub fn apply(&mut self, op: &Op, live: &[PathBuf]) -> String {
        match self.attempt(op, live) {
            Ok(answer) => answer,
            // Whether a fifo has a reader: a child that another test starts at this moment may still have
            // a copy of a descriptor that was closed.
            Err(Errno::NXIO | Errno::SPIPE) => "no place in a pipe".into(),
            Err(e) => format!("{e:?} ({e})"),
        }
    }

    fn path(&self, pick: Pick, live: &[PathBuf]) -> PathBuf {
        let at = &live[usize::from(pick.0) % live.len()];
        let at = pick.1.map_or(at.clone(), |n| at.join(std::ffi::OsStr::from_bytes(NAMES[usize::from(n)])));
        if at.as_os_str().is_empty() { self.base.clone() } else { self.base.join(at) }
    }

    fn handle(&self, index: u8) -> Result<&File, Errno> {
        self.handles[usize::from(index)].as_ref().ok_or(Errno::BADF)
    }

    /// Regular files only: what other kinds answer to these calls is the backing's own business.
    fn regular(&self, index: u8) -> Result<&File, Errno> {
        let file = self.handle(index)?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode);
        if kind == FileType::RegularFile { Ok(file) } else { Err(Errno::BADF) }
    }

    fn attempt(&mut self, op: &Op, live: &[PathBuf]) -> Answer {
        let path = |pick: &Pick| self.path(*pick, live);
        let done = String::from("done");
        match op {
            Op::Write(p, flags, at, length) => {
                let file = open(
                    &path(p),
                    OFlags::WRONLY | OFlags::CREATE | flags_of(*flags),
                    0o600 | u32::from(*flags),
                )?;
                write(&file, u64::from(*at), *length)
            }
            Op::Open(h, p, flags) => {
                let access = [OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR, OFlags::RDWR | OFlags::CREATE]
                    [usize::from(flags & 3)];
                let file = open(&path(p), access | flags_of(flags >> 2), 0o644)?;
                self.handles[usize::from(*h)] = Some(file);
                Ok(done)
            }
            Op::Close(h) => self.handles[usize::from(*h)].take().map(|_| done).ok_or(Errno::BADF),
            Op::Pwrite(h, at, length) => write(self.handle(*h)?, u64::from(*at), *length),
            Op::Pread(h, at, length) => read(self.handle(*h)?, u64::from(*at), usize::from(*length)),
            Op::Append(p, length) => write(&open(&path(p), OFlags::WRONLY | OFlags::APPEND, 0)?, 0, *length),
            Op::Truncate(p, length) => truncate(&path(p), u64::from(*length)).map(|()| done),
            Op::Empty(p, way) => {
                match way % 4 {
                    0 => truncate(&path(p), 0)?,
                    1 => rustix::fs::ftruncate(open(&path(p), OFlags::RDWR, 0)?, 0)?,
                    2 => drop(open(&path(p), OFlags::WRONLY | OFlags::TRUNC, 0)?),
                    _ => rustix::fs::ftruncate(open(&path(p), OFlags::WRONLY, 0)?, 0)?,
                }
                Ok(done)
            }
            Op::Enlarge(p, length) => {
                let file = open(&path(p), OFlags::WRONLY, 0)?;
                if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
                    return Err(Errno::INVAL);
                }
                rustix::fs::ftruncate(&file, LARGE + u64::from(*length))?;
                write(&file, LARGE - u64::from(*length), *length)
            }
            Op::AppendLater(p, length) => {
                let file = open(&path(p), OFlags::WRONLY, 0)?;
                let flags = rustix::fs::fcntl_getfl(&file)?;
                rustix::fs::fcntl_setfl(&file, flags | OFlags::APPEND)?;
                write(&file, 0, *length)
            }
            Op::Ftruncate(h, length) => {
                rustix::fs::ftruncate(self.handle(*h)?, u64::from(*length)).map(|()| done)
            }
            Op::Read(p) => read(&open(&path(p), OFlags::RDONLY, 0)?, 0, MAX as usize * 2),
            Op::Rename(from, to, flags) => {
                // A mount point answers for its root as no plain directory does (EXDEV, EBUSY).
                if path(from) == self.base || path(to) == self.base {
                    return Ok("the root".into());
                }
                let flags = [
                    RenameFlags::empty(),
                    RenameFlags::empty(),
                    RenameFlags::NOREPLACE,
                    RenameFlags::EXCHANGE,
                ][usize::from(*flags)];
                rustix::fs::renameat_with(CWD, path(from), CWD, path(to), flags).map(|()| done)
            }
            Op::Link(from, to) => {
                rustix::fs::linkat(CWD, path(from), CWD, path(to), AtFlags::empty()).map(|()| done)
            }
            Op::Symlink(t, p) => rustix::fs::symlink(TARGETS[usize::from(*t)], path(p)).map(|()| done),
            Op::Readlink(p) => Ok(show(rustix::fs::readlink(path(p), Vec::new())?.to_bytes())),
            Op::Unlink(p) => rustix::fs::unlink(path(p)).map(|()| done),
            Op::Rmdir(p) if path(p) == self.base => Ok(done),
            Op::Rmdir(p) => rustix::fs::rmdir(path(p)).map(|()| done),
            Op::Mkdir(p, mode) => {
                rustix::fs::mkdir(path(p), Mode::from_raw_mode(0o700 | u32::from(*mode) & 0o1777))
                    .map(|()| done)
            }
            Op::Mkfifo(p) => rustix::fs::mknodat(CWD, path(p), FileType::Fifo, Mode::from_raw_mode(0o640), 0)
                .map(|()| done),
            // The owner keeps his bits, so that an ordinary user's run does not lock itself out.
            Op::Chmod(p, mode) => {
                rustix::fs::chmod(path(p), Mode::from_raw_mode(0o700 | u32::from(*mode) & 0o7777))
                    .map(|()| done)
            }
            Op::Utimens(p, kind, time) => {
                let given = Timespec { tv_sec: i64::from(*time), tv_nsec: i64::from(time % 1_000_000_000) };
                let omit = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
                let (a, m) =
                    [(given, given), (omit, given), (given, omit), (given, given)][usize::from(*kind)];
                let flags = if *kind == 3 { AtFlags::SYMLINK_NOFOLLOW } else { AtFlags::empty() };
                rustix::fs::utimensat(
                    CWD,
                    path(p),
                    &Timestamps { last_access: a, last_modification: m },
                    flags,
                )?;
                let stat = rustix::fs::statat(CWD, path(p), flags)?;
                Ok(if *kind == 2 { done } else { format!("{}.{}", stat.st_mtime, stat.st_mtime_nsec) })
            }
            Op::Chown(p, owner) => {
                let (uid, gid) = (1000 + u32::from(owner & 3), 1000 + u32::from(owner >> 6));
                let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
                rustix::fs::chownat(CWD, path(p), Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                    .map(|()| done)
            }
            Op::SetXattr(p, n, length, flags) => {
                let flags =
                    [XattrFlags::empty(), XattrFlags::CREATE, XattrFlags::REPLACE][usize::from(*flags)];
                rustix::fs::lsetxattr(
                    path(p),
                    name(*n),
                    &pattern(u64::from(*length), usize::from(*length)),
                    flags,
                )
                .map(|()| done)
            }
            Op::GetXattr(p, n) => {
                let mut value = vec![0; 1000];
                let length = rustix::fs::lgetxattr(path(p), name(*n), &mut value[..])?;
                Ok(show(&value[..length]))
            }
            Op::RemoveXattr(p, n) => rustix::fs::lremovexattr(path(p), name(*n)).map(|()| done),
            Op::Fallocate(h, mode, at, length) => {
                let mode = [
                    FallocateFlags::empty(),
                    FallocateFlags::KEEP_SIZE,
                    FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                    FallocateFlags::ZERO_RANGE,
                ][usize::from(*mode)];
                rustix::fs::fallocate(self.regular(*h)?, mode, u64::from(*at), u64::from(*length))
                    .map(|()| done)
            }
            Op::Seek(h, data, at) => seek(self.regular(*h)?, *data, u64::from(*at)),
            Op::CopyRange(from, to, at, onto, length) => {
                let (from, to) = (self.regular(*from)?, self.regular(*to)?);
                let (mut at, mut onto, mut left) = (u64::from(*at), u64::from(*onto), *length as usize);
                while left > 0 {
                    match rustix::fs::copy_file_range(from, Some(&mut at), to, Some(&mut onto), left)? {
                        0 => break,
                        copied => left -= copied,
                    }
                }
                Ok(format!("copied {}", *length as usize - left))
            }
            Op::List(p) => {
                let names = std::fs::read_dir(path(p)).map_err(|e| errno(&e))?;
                let mut names: Vec<_> = names.map(|e| show(e.unwrap().file_name().as_bytes())).collect();
                names.sort();
                Ok(names.join(" "))
            }
            Op::Stat(p) => {
                let s = rustix::fs::statat(CWD, path(p), AtFlags::SYMLINK_NOFOLLOW)?;
                let directory = FileType::from_raw_mode(s.st_mode) == FileType::Directory;
                let (size, links) = if directory { (0, 0) } else { (s.st_size, s.st_nlink) };
                Ok(format!("{:o} {links} {}:{} {size}", s.st_mode, s.st_uid, s.st_gid))
            }
            Op::Flush | Op::Crash | Op::Remount | Op::Elsewhere => Ok(done),
        }
    }
}

/// By its name: no descriptor, so no open.
fn truncate(path: &Path, length: u64) -> Result<(), Errno> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the path ends with a zero byte and lives over the call.
    let code = unsafe { libc::truncate(path.as_ptr(), length as i64) };
    if code == 0 { Ok(()) } else { Err(last()) }
}

fn flags_of(bits: u8) -> OFlags {
    let mut flags = OFlags::empty();
    for (bit, flag) in [(1, OFlags::TRUNC), (2, OFlags::EXCL), (4, OFlags::APPEND), (8, OFlags::NOFOLLOW)] {
        // Each is set in a quarter of the cases only, so that plain opens are the rule.
        if bits & bit != 0 && bits & (bit << 4) != 0 {
            flags |= flag;
        }
    }
    flags
}

/// Never waits for the other end of a pipe.
fn open(path: &Path, flags: OFlags, mode: u32) -> Result<File, Errno> {
    let flags = flags | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    rustix::fs::open(path, flags, Mode::from_raw_mode(mode & 0o777)).map(File::from)
}

fn pattern(seed: u64, length: usize) -> Vec<u8> {
    (0..length).map(|i| (seed as usize + i * 7 + i / 253) as u8).collect()
}

fn write(file: &File, at: u64, length: u16) -> Answer {
    let written = file.write_at(&pattern(at, usize::from(length)), at).map_err(|e| errno(&e))?;
    Ok(format!("wrote {written}"))
}

fn read(file: &File, at: u64, length: usize) -> Answer {
    let mut bytes = vec![0; length];
    let mut got = 0;
    while got < length {
        match file.read_at(&mut bytes[got..], at + got as u64).map_err(|e| errno(&e))? {
            0 => break,
            more => got += more,
        }
    }
    Ok(format!("read {got} {}", &blake3::hash(&bytes[..got]).to_hex()[..12]))
}

/// Where data and holes are is the file system's choice within limits; the limits are what is checked.
fn seek(file: &File, data: bool, at: u64) -> Answer {
    let size = rustix::fs::fstat(file)?.st_size as u64;
    let zeros = |from: u64, to: u64| {
        let mut bytes = vec![0; (to - from) as usize];
        file.read_exact_at(&mut bytes, from).is_ok() && bytes.iter().all(|b| *b == 0)
    };
    let readable = rustix::fs::fcntl_getfl(file)? & OFlags::ACCMODE != OFlags::WRONLY;
    match rustix::fs::seek(file, if data { SeekFrom::Data(at) } else { SeekFrom::Hole(at) }) {
        Err(Errno::NXIO) if at >= size => Ok("beyond the end".into()),
        Err(Errno::NXIO) if data && (!readable || zeros(at, size)) => Ok("as it should be".into()),
        Err(e) => Err(e),
        Ok(found) if found < at || found > size => Ok(format!("{found} is out of range")),
        Ok(found) if data && readable && !zeros(at, found) => Ok(format!("data before {found} was skipped")),
        Ok(_) => Ok("as it should be".into()),
    }
}

fn name(index: u8) -> &'static str {
    ["user.a", "user.b", "user.with space\n"][usize::from(index)]
}

fn errno(e: &std::io::Error) -> Errno {
    Errno::from_io_error(e).unwrap_or(Errno::IO)
}

fn last() -> Errno {
    errno(&std::io::Error::last_os_error())
}
