//! No write is missed: a change by every road that the kernel offers is in the next version, in
//! passthrough and in classic mode. The same roads on a twin prove the check.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use harness::snapshot::Look;
use harness::{Defect, LIMIT, Lab, Mode, Setup, Subject, Tree, Twin, eventually, must_notice, wait_for};
use rustix::fs::{CWD, FallocateFlags, Mode as Bits, OFlags};
use rustix::mm::{MapFlags, ProtFlags};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

const CONTENT: Look = Look { times: false, holes: false, sockets: false, root: false };
const SIZE: usize = 256 * 1024;

/// What a road keeps open between its rounds.
#[derive(Default)]
struct Held {
    file: Option<File>,
    map: Option<Map>,
    child: Option<(Child, Option<ChildStdin>)>,
}

impl Held {
    fn file(&mut self, dir: &Path) -> &File {
        self.file.get_or_insert_with(|| open(dir))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some((child, input)) = &mut self.child {
            drop(input.take());
            if wait_for(child, LIMIT).is_none() {
                let _ = child.kill();
            }
        }
    }
}

/// A shared mapping of a whole file.
struct Map(*mut u8, usize);

impl Map {
    fn new(file: &File, length: usize) -> Self {
        let (bits, kind) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a fresh mapping at an address the kernel chooses touches no memory of ours.
        let at = unsafe { rustix::mm::mmap(std::ptr::null_mut(), length, bits, kind, file, 0) }.unwrap();
        Self(at.cast(), length)
    }

    fn store(&self, at: usize, byte: u8) {
        assert!(at < self.1);
        // SAFETY: `at` is inside the mapping, which lives as long as `self`; the file is not shortened meanwhile.
        unsafe { self.0.add(at).write_volatile(byte) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `new` mapped, and nobody holds a reference into it.
        let _ = unsafe { rustix::mm::munmap(self.0.cast(), self.1) };
    }
}

/// A page for O_DIRECT.
#[repr(align(4096))]
struct Page([u8; 4096]);

fn open(dir: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(dir.join("f")).unwrap()
}

/// A road changes `dir/f` (or its neighbours); it is called before the first flush with 0, then with 1 and 2
/// with a flush after each. False: the machine does not have this road.
type Road = fn(&Path, u8, &mut Held) -> bool;

/// Every version has what the road had written when the flush began.
fn arrives(subject: &mut dyn Subject, road: Road) {
    let dir = subject.dir();
    fs::write(dir.join("f"), vec![b'.'; SIZE]).unwrap();
    fs::write(dir.join("source"), (0..SIZE).map(|i| (i / 251) as u8).collect::<Vec<_>>()).unwrap();
    fs::hard_link(dir.join("f"), dir.join("second name")).unwrap();
    let mut held = Held::default();
    let mut last = None;
    let mut versions = Vec::new();
    for round in 0..3 {
        if !road(&dir, round, &mut held) {
            return harness::skip("road", "not on this machine");
        }
        let expected = Tree::take(&dir, CONTENT);
        if round > 0 {
            assert!(
                last.as_ref() != Some(&expected),
                "round {round} of the road changed nothing: the check is void"
            );
        }
        let version = subject.flush();
        expected.assert_same(
            &Tree::take(&subject.checkout(&version), CONTENT),
            &format!("version of round {round}"),
        );
        versions.push(version);
        last = Some(expected);
    }
    drop(held);
    let expected = Tree::take(&dir, CONTENT);
    let version = subject.flush();
    expected.assert_same(&Tree::take(&subject.checkout(&version), CONTENT), "version after the last close");
    subject.elsewhere();
    expected.assert_same(&Tree::take(&subject.dir(), CONTENT), "the tree elsewhere");
}

macro_rules! roads {
    ($($(#[$doc:meta])* $name:ident: $road:expr;)*) => { $(
        mod $name {
            use super::*;
            const ROAD: Road = $road;
            $(#[$doc])*
            /// SEMANTICS, Writes: "Whatever a program had written before `flush` was called is in its version."
            #[test]
            fn passthrough() { arrives(&mut Lab::new(Setup::mode(Mode::Passthrough)), ROAD); }
            $(#[$doc])*
            #[test]
            fn classic() { arrives(&mut Lab::new(Setup::mode(Mode::Classic)), ROAD); }
            /// The road is right on a plain directory, and a version of before is noticed.
            #[test]
            fn selftest() {
                arrives(&mut Twin::new(Defect::Faithful), ROAD);
                let mut held = Held::default();
                let probe = tempfile::tempdir().unwrap();
                for name in ["f", "source", "second name"] { fs::write(probe.path().join(name), vec![1; SIZE]).unwrap(); }
                if ROAD(probe.path(), 0, &mut held) {
                    must_notice("a flush that comes too early", || arrives(&mut Twin::new(Defect::AcknowledgeEarly), ROAD));
                }
            }
        }
    )* };
}

/// Sends a line to the child that has the file as its output, and waits for its write.
fn through_child(dir: &Path, round: u8, held: &mut Held) {
    let (_, input) = held.child.get_or_insert_with(|| {
        // The descriptor is ours only until the child has it.
        let file = OpenOptions::new().append(true).open(dir.join("f")).unwrap();
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(file).spawn().unwrap();
        let input = child.stdin.take();
        (child, input)
    });
    input.as_mut().unwrap().write_all(&[b'a' + round; 100]).unwrap();
    let want = SIZE as u64 + 100 * (u64::from(round) + 1);
    eventually("the child's write", LIMIT, || {
        (fs::metadata(dir.join("f")).unwrap().len() == want).then_some(())
    });
}

/// One write request through a ring; false if the kernel has none for us.
fn through_ring(file: &File, at: u64, bytes: &[u8]) -> bool {
    let mut ring = match io_uring::IoUring::new(4) {
        Ok(ring) => ring,
        Err(e) => {
            harness::skip("io_uring", &e.to_string());
            return false;
        }
    };
    let fd = io_uring::types::Fd(file.as_raw_fd());
    let request = io_uring::opcode::Write::new(fd, bytes.as_ptr(), bytes.len() as u32).offset(at).build();
    // SAFETY: `bytes` and `file` outlive the completion, which is awaited below.
    unsafe { ring.submission().push(&request).unwrap() };
    ring.submit_and_wait(1).unwrap();
    let answer = ring.completion().next().unwrap().result();
    assert_eq!(answer, bytes.len() as i32, "io_uring write");
    true
}

roads! {
    pwrite: |d, r, _| { open(d).write_all_at(&[b'p', r], 1000).unwrap(); true };
    /// One descriptor is open all the time.
    pwrite_held: |d, r, h| { h.file(d).write_all_at(&[b'h', r], 4096 * u64::from(r)).unwrap(); true };
    /// Opened before a flush, written only after it.
    opened_before_written_after: |d, r, h| { let f = h.file(d); if r > 0 { f.write_all_at(&[b'o', r], 9).unwrap(); } true };
    append: |d, r, _| { OpenOptions::new().append(true).open(d.join("f")).unwrap().write_all(&[b'a', r]).unwrap(); true };
    append_held: |d, r, h| {
        let f = h.file.get_or_insert_with(|| OpenOptions::new().append(true).open(d.join("f")).unwrap());
        f.write_all(&[b'a', r]).unwrap();
        true
    };
    /// The same size and the same time as before: neither tells.
    same_size_same_time: |d, r, _| {
        let before = fs::metadata(d.join("f")).unwrap().modified().unwrap();
        let f = open(d);
        f.write_all_at(&[b's', r], 77).unwrap();
        f.set_modified(before).unwrap();
        true
    };
    truncating_open: |d, r, _| { fs::write(d.join("f"), [b't', r]).unwrap(); true };
    truncate_path: |d, r, _| {
        rustix::fs::ftruncate(open(d), SIZE as u64 - 1000 * (u64::from(r) + 1)).unwrap();
        true
    };
    truncate_held: |d, r, h| { h.file(d).set_len(SIZE as u64 + 777 * (u64::from(r) + 1)).unwrap(); true };
    punch: |d, r, _| {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(open(d), flags, 8192 * u64::from(r), 8192).unwrap();
        true
    };
    punch_held: |d, r, h| {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(h.file(d), flags, 10_000 * u64::from(r), 5000).unwrap();
        true
    };
    zero_range: |d, r, _| {
        match rustix::fs::fallocate(open(d), FallocateFlags::ZERO_RANGE, 20_000 * u64::from(r), 9000) {
            Err(rustix::io::Errno::OPNOTSUPP) => return false,
            other => other.unwrap(),
        }
        true
    };
    allocate: |d, r, _| {
        rustix::fs::fallocate(open(d), FallocateFlags::empty(), SIZE as u64, 4096 * (u64::from(r) + 1)).unwrap();
        true
    };
    /// Stores into a mapping whose descriptor is closed long since; no call tells anybody.
    mmap_after_close: |d, r, h| {
        let map = h.map.get_or_insert_with(|| Map::new(&open(d), SIZE));
        map.store(5000 + usize::from(r), b'm');
        map.store(SIZE - 1, r);
        true
    };
    /// A mapping that exists before a flush and is written only after it.
    mmap_before_store_after: |d, r, h| {
        let map = h.map.get_or_insert_with(|| Map::new(&open(d), SIZE));
        if r > 0 { map.store(70_000, r); }
        true
    };
    /// Mapped, stored, unmapped and closed within one round.
    mmap_brief: |d, r, _| { Map::new(&open(d), SIZE).store(12_345, r + 1); true };
    sendfile: |d, r, h| {
        let source = File::open(d.join("source")).unwrap();
        let mut offset = 1000 * u64::from(r);
        let file = h.file(d);
        assert_eq!(rustix::fs::sendfile(file, &source, Some(&mut offset), 500).unwrap(), 500);
        true
    };
    splice: |d, r, h| {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&writer, &[b'0' + r; 300]).unwrap();
        let mut at = 2000 * u64::from(r);
        let moved = rustix::pipe::splice(&reader, None, h.file(d), Some(&mut at), 300, rustix::pipe::SpliceFlags::empty());
        assert_eq!(moved.unwrap(), 300);
        true
    };
    copy_file_range: |d, r, _| {
        let source = File::open(d.join("source")).unwrap();
        let (mut from, mut to) = (3000 * u64::from(r), 100);
        let copied = rustix::fs::copy_file_range(&source, Some(&mut from), open(d), Some(&mut to), 4000).unwrap();
        assert!(copied > 0);
        true
    };
    copy_file_range_held: |d, r, h| {
        let source = File::open(d.join("source")).unwrap();
        let (mut from, mut to) = (3000 * u64::from(r), 50_000);
        assert!(rustix::fs::copy_file_range(&source, Some(&mut from), h.file(d), Some(&mut to), 4000).unwrap() > 0);
        true
    };
    direct: |d, r, h| {
        if h.file.is_none() {
            match OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(d.join("f")) {
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => return false,
                other => h.file = Some(other.unwrap()),
            }
        }
        let page = Box::new(Page([b'd' + r; 4096]));
        h.file(d).write_all_at(&page.0, 4096 * u64::from(r)).unwrap();
        true
    };
    synchronous: |d, r, _| {
        let f = OpenOptions::new().write(true).custom_flags(libc::O_SYNC).open(d.join("f")).unwrap();
        f.write_all_at(&[b'y', r], 4).unwrap();
        true
    };
    uring: |d, r, h| through_ring(h.file(d), 600 + u64::from(r), b"ring");
    /// The writer is a child; the opener has closed.
    inherited: |d, r, h| { through_child(d, r, h); true };
    /// A descriptor for reading becomes one for writing through /proc.
    reopened: |d, r, _| {
        let reader = File::open(d.join("f")).unwrap();
        let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
        OpenOptions::new().write(true).open(path).unwrap().write_all_at(&[b'r', r], 31).unwrap();
        true
    };
    through_other_link: |d, r, _| {
        let f = OpenOptions::new().write(true).open(d.join("second name")).unwrap();
        f.write_all_at(&[b'l', r], 55).unwrap();
        true
    };
    /// Written through one name that is gone afterwards; the other shows it.
    through_link_then_unlinked: |d, r, h| {
        h.file.get_or_insert_with(|| OpenOptions::new().write(true).open(d.join("second name")).unwrap());
        let _ = fs::remove_file(d.join("second name"));
        h.file(d).write_all_at(&[b'u', r], 66).unwrap();
        true
    };
    renamed_while_open: |d, r, h| {
        let (from, to) = if r % 2 == 0 { ("f", "moved") } else { ("moved", "f") };
        h.file(d);
        fs::rename(d.join(from), d.join(to)).unwrap();
        h.file(d).write_all_at(&[b'n', r], 88).unwrap();
        true
    };
    directory_renamed_while_open: |d, r, h| {
        if r == 0 { fs::create_dir(d.join("dir0")).unwrap(); fs::rename(d.join("f"), d.join("dir0/f")).unwrap(); }
        let (from, to) = (d.join(format!("dir{r}")), d.join(format!("dir{}", r + 1)));
        h.file.get_or_insert_with(|| OpenOptions::new().write(true).open(from.join("f")).unwrap());
        fs::rename(from, to).unwrap();
        h.file(d).write_all_at(&[b'n', r], 88).unwrap();
        true
    };
    /// Unlinked while open: its writes are nobody's, and it must not come back.
    unlinked_while_open: |d, r, h| {
        h.file(d).write_all_at(&[b'g', r], 1).unwrap();
        for name in ["f", "second name"] { let _ = fs::remove_file(d.join(name)); }
        fs::write(d.join("beside"), [r]).unwrap();
        true
    };
    replaced_by_rename: |d, r, h| {
        let new = d.join("new");
        fs::write(&new, [b'R', r]).unwrap();
        fs::rename(&new, d.join("f")).unwrap();
        // The old content is still open and written: it must not end up under the name.
        h.file(d).write_all_at(&[b'x', r], 0).unwrap();
        fs::write(d.join("beside"), [r]).unwrap();
        true
    };
    /// A file without a name gets one; a clean refusal is a valid answer.
    nameless: |d, r, _| {
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = match rustix::fs::open(d, flags, Bits::from_raw_mode(0o644)) {
            Ok(fd) => File::from(fd),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => return false,
            Err(e) => panic!("O_TMPFILE: {e}"),
        };
        file.write_all_at(b"nameless", 0).unwrap();
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let name = d.join(format!("named{r}"));
        rustix::fs::linkat(CWD, path, CWD, name, rustix::fs::AtFlags::SYMLINK_FOLLOW).unwrap();
        file.write_all_at(b"and named", 8).unwrap();
        true
    };
}

/// SEMANTICS, Crash: "A descriptor that the kernel serves outlives the daemon: what is written through it after the
/// daemon's death is found at the next start and is in the next version."
#[test]
fn written_after_the_daemon_died() {
    for mode in [Mode::Passthrough, Mode::Classic] {
        let mut lab = Lab::new(Setup::mode(mode));
        let dir = lab.dir();
        fs::write(dir.join("f"), vec![b'.'; SIZE]).unwrap();
        lab.flush();
        let (file, map) = (open(&dir), Map::new(&open(&dir), SIZE));
        let passes = lab.status()["mode"].as_str().unwrap_or_default().starts_with("passthrough");
        lab.kill();
        let written = file.write_all_at(b"after death", 100);
        assert!(written.is_ok() || !passes, "a passthrough descriptor died with the daemon: {written:?}");
        if passes {
            map.store(9000, b'!');
        }
        lab.mount();
        let expected = Tree::take(&lab.dir(), CONTENT);
        if written.is_ok() {
            assert_eq!(&fs::read(lab.dir().join("f")).unwrap()[100..111], b"after death");
        }
        let version = lab.flush();
        expected
            .assert_same(&Tree::take(&lab.checkout(&version), CONTENT), "what was written after the death");
        drop((file, map));
    }
}

/// SEMANTICS, Writes: the name that a file was opened by is gone, and nobody has looked its other name up since the mount.
#[test]
fn the_only_known_name_is_unlinked_while_open() {
    for mode in [Mode::Passthrough, Mode::Classic] {
        let mut lab = Lab::new(Setup::mode(mode));
        fs::write(lab.dir().join("first"), vec![b'.'; SIZE]).unwrap();
        fs::hard_link(lab.dir().join("first"), lab.dir().join("second")).unwrap();
        lab.flush();
        lab.remount();
        let file = OpenOptions::new().write(true).open(lab.dir().join("second")).unwrap();
        fs::remove_file(lab.dir().join("second")).unwrap();
        for round in 0..3_u64 {
            file.write_all_at(b"changed", 1000 * round).unwrap();
            let version = lab.flush();
            let saved = fs::read(lab.checkout(&version).join("first")).unwrap();
            let at = 1000 * round as usize;
            assert_eq!(&saved[at..at + 7], b"changed", "{mode:?}, round {round}");
        }
        assert_eq!(file.metadata().unwrap().len(), SIZE as u64, "{mode:?}: an open file answers no stat");
        file.set_len(5).unwrap();
        drop(file);
        let version = lab.flush();
        assert_eq!(
            fs::read(lab.checkout(&version).join("first")).unwrap(),
            b"chang",
            "{mode:?}, after the close"
        );
    }
}

/// SEMANTICS, Per call: "a program that runs cannot be emptied or written".
#[test]
fn a_running_program_is_not_emptied() {
    use std::os::unix::fs::OpenOptionsExt;
    for mode in [Mode::Passthrough, Mode::Classic] {
        let lab = Lab::new(Setup::mode(mode));
        let program = lab.dir().join("program");
        fs::copy("/bin/sleep", &program).unwrap();
        let size = fs::metadata(&program).unwrap().len();
        let mut child = Command::new(&program).arg("60").spawn().unwrap();
        let busy = rustix::io::Errno::TXTBSY.raw_os_error();
        // Opened for reading, the kernel has the daemon empty it before it looks whether the file runs.
        let emptied = rustix::fs::open(&program, OFlags::RDONLY | OFlags::TRUNC, Bits::empty());
        let written = OpenOptions::new().write(true).open(&program);
        let truncated = OpenOptions::new().write(true).custom_flags(libc::O_TRUNC).open(&program);
        let (alive, now) = (child.try_wait().unwrap(), fs::metadata(&program).unwrap().len());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(emptied.unwrap_err().raw_os_error(), busy, "{mode:?}");
        assert_eq!(written.unwrap_err().raw_os_error(), Some(busy), "{mode:?}");
        assert_eq!(truncated.unwrap_err().raw_os_error(), Some(busy), "{mode:?}");
        assert_eq!((alive, now), (None, size), "{mode:?}: the program or its file is gone");
        // It has ended: what counted it must have been counted back (the kernel closes a little later).
        let emptied = || rustix::fs::open(&program, OFlags::RDONLY | OFlags::TRUNC, Bits::empty());
        eventually("the end of the program", LIMIT, || emptied().is_ok().then_some(()));
        assert_eq!(fs::metadata(&program).unwrap().len(), 0, "{mode:?}");
    }
}
