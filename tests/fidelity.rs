//! What a version keeps: everything that survives flush, the loss of the machine, and a mount elsewhere.
//! Each case runs on a real mount in both modes, on a faithful twin (the harness proves itself), and on
//! twins with defects, which it must notice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use harness::{Defect, KEPT, Lab, Mode, Setup, Subject, Tree, Twin, must_notice};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Mode as Bits, RenameFlags, Timespec, Timestamps, XattrFlags,
};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

type Step = fn(&Path);

/// Applies the steps with a flush after each; every version must be the tree of its time, and the last
/// one must come up elsewhere.
fn survives(subject: &mut dyn Subject, steps: &[Step]) {
    let mut versions = Vec::new();
    for step in steps {
        step(&subject.dir());
        let expected = Tree::take(&subject.dir(), KEPT);
        versions.push((subject.flush(), expected));
    }
    let (_, last) = versions.last().unwrap();
    last.assert_same(&Tree::take(&subject.dir(), KEPT), "the tree after the flush");
    subject.remount();
    last.assert_same(&Tree::take(&subject.dir(), KEPT), "the tree after a remount");
    subject.elsewhere();
    last.assert_same(&Tree::take(&subject.dir(), KEPT), "the tree elsewhere");
    for (version, expected) in &versions {
        let found = Tree::take(&subject.checkout(version), KEPT);
        expected.assert_same(&found, &format!("version {version}"));
    }
}

macro_rules! kept {
    ($(#[$doc:meta])* $name:ident: $steps:expr, notices $defects:expr) => {
        mod $name {
            use super::*;
            $(#[$doc])*
            #[test]
            fn passthrough() { survives(&mut Lab::new(Setup::mode(Mode::Passthrough)), &$steps); }
            $(#[$doc])*
            #[test]
            fn classic() { survives(&mut Lab::new(Setup::mode(Mode::Classic)), &$steps); }
            /// The case itself is right, and it notices what it is there to notice.
            #[test]
            fn selftest() {
                survives(&mut Twin::new(Defect::Faithful), &$steps);
                let defects: &[Defect] = &$defects;
                for defect in defects {
                    must_notice(&format!("{defect:?}"), || survives(&mut Twin::new(*defect), &$steps));
                }
            }
        }
    };
}

fn write(path: impl AsRef<Path>, content: &[u8]) {
    fs::write(&path, content).unwrap_or_else(|e| panic!("write {}: {e}", path.as_ref().display()));
}

fn chmod(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn mtime(path: &Path, sec: i64, nsec: i64) {
    let time = Timespec { tv_sec: sec, tv_nsec: nsec as _ };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty())
        .unwrap_or_else(|e| panic!("setxattr {name} {}: {e}", path.display()));
}

fn odd(dir: &Path, name: &[u8]) -> PathBuf {
    dir.join(OsStr::from_bytes(name))
}

fn mknod(path: &Path, kind: FileType, mode: u32, device: (u32, u32)) {
    let device = rustix::fs::makedev(device.0, device.1);
    rustix::fs::mknodat(CWD, path, kind, Bits::from_raw_mode(mode), device).unwrap();
}

kept! {
    /// SEMANTICS, Attributes: "Permission bits with set-user-id, set-group-id and sticky are kept, also of
    /// files their owner cannot write."
    modes: [
        |d| for (name, mode) in [("read", 0o400), ("suid", 0o4755), ("sgid", 0o2755), ("all", 0o7777), ("none", 0o440)] {
            write(d.join(name), name.as_bytes());
            chmod(d.join(name), mode);
        },
        |d| {
            for (name, mode) in [("tmp", 0o1777), ("shared", 0o2775), ("private", 0o700)] {
                fs::create_dir(d.join(name)).unwrap();
                write(d.join(name).join("in"), b"in");
                chmod(d.join(name), mode);
            }
            chmod(d.join("all"), 0o600);
        },
        // A directory that nobody may write is restored with its content all the same.
        |d| { fs::create_dir(d.join("sealed")).unwrap(); write(d.join("sealed/in"), b"x"); chmod(d.join("sealed"), 0o555); },
        |d| chmod(d.join("sealed"), 0o755),
    ], notices [Defect::ForgetAttributes]
}

kept! {
    /// SEMANTICS, Attributes: "Modification times are kept to the nanosecond, of files, directories and symlinks,
    /// before 1970 and after 2038 as far as the backing can hold them."
    times: [
        |d| for (name, sec, nsec) in [("old", -86_400, 1), ("late", 4_294_967_296, 999_999_999), ("zero", 0, 0), ("now", 1_700_000_000, 123_456_789)] {
            write(d.join(name), b"t");
            mtime(&d.join(name), sec, nsec);
        },
        |d| {
            fs::create_dir(d.join("dir")).unwrap();
            write(d.join("dir/in"), b"t");
            symlink("nowhere", d.join("link")).unwrap();
            mtime(&d.join("link"), 1_600_000_000, 42);
            mtime(&d.join("dir"), 1_500_000_000, 987_654_321);
        },
        // A change of the time alone, and one of the content alone.
        |d| { mtime(&d.join("now"), 1_700_000_000, 123_456_790); },
        |d| { write(d.join("zero"), b"T"); mtime(&d.join("zero"), 0, 0); },
    ], notices [Defect::RoundMtimes, Defect::ForgetAttributes]
}

kept! {
    /// SEMANTICS, Attributes: "Owner and group are kept as numbers."
    owners: [
        |d| {
            if !harness::is_root() { return harness::skip("owners", "only root may give files away"); }
            for (name, uid, gid) in [("user", 1000, 1001), ("big", 2_000_000_000, 4_000_000_000)] {
                write(d.join(name), b"o");
                std::os::unix::fs::lchown(d.join(name), Some(uid), Some(gid)).unwrap();
            }
            symlink("user", d.join("link")).unwrap();
            std::os::unix::fs::lchown(d.join("link"), Some(12), Some(34)).unwrap();
        },
        |d| if harness::is_root() { std::os::unix::fs::lchown(d.join("user"), Some(7), None).unwrap() },
    ], notices []
}

kept! {
    /// SEMANTICS, Names: "All names of a file are kept as names of one file, whenever they were made."
    hard_links: [
        |d| {
            write(d.join("one"), b"content");
            fs::create_dir(d.join("sub")).unwrap();
            fs::hard_link(d.join("one"), d.join("two")).unwrap();
            fs::hard_link(d.join("one"), d.join("sub/three")).unwrap();
            symlink("one", d.join("link")).unwrap();
            rustix::fs::linkat(CWD, d.join("link"), CWD, d.join("link2"), AtFlags::empty()).unwrap();
        },
        // A further name of a file that is clean by now; then the first name goes.
        |d| fs::hard_link(d.join("two"), d.join("a new name")).unwrap(),
        |d| fs::remove_file(d.join("one")).unwrap(),
        |d| OpenOptions::new().append(true).open(d.join("sub/three")).unwrap().write_all_at(b" more", 7).unwrap(),
        // Rename between two names of one file does nothing; another name replaced breaks the group.
        |d| { fs::rename(d.join("two"), d.join("sub/three")).unwrap(); write(d.join("fresh"), b"f"); fs::rename(d.join("fresh"), d.join("two")).unwrap(); },
        |d| { fs::remove_file(d.join("a new name")).unwrap(); },
    ], notices [Defect::ForgetHardLinks]
}

kept! {
    /// SEMANTICS, Names: "A symlink is kept as it is: its target is never followed, changed or checked."
    symlinks: [
        |d| {
            symlink("/etc/hostname", d.join("absolute")).unwrap();
            symlink("does/not/exist", d.join("dangling")).unwrap();
            symlink("../../../..", d.join("out")).unwrap();
            symlink(".", d.join("self")).unwrap();
            symlink("loop", d.join("loop")).unwrap();
            symlink("x".repeat(4000), d.join("long")).unwrap();
            symlink(OsStr::from_bytes(b"new\nline \xff\xfe"), d.join("bytes")).unwrap();
        },
        |d| { fs::remove_file(d.join("long")).unwrap(); symlink("y".repeat(150), d.join("long")).unwrap(); },
        |d| { fs::create_dir(d.join("dir")).unwrap(); write(d.join("dir/f"), b"f"); symlink("dir", d.join("todir")).unwrap(); write(d.join("todir/g"), b"g"); },
    ], notices [Defect::FollowSymlinks]
}

kept! {
    /// SEMANTICS, Names: "Pipes, the whiteout of overlay file systems (character device 0:0) and, for root, other device nodes
    /// are kept; sockets are not."
    special_files: [
        |d| {
            mknod(&d.join("pipe"), FileType::Fifo, 0o640, (0, 0));
            let _socket = std::os::unix::net::UnixListener::bind(d.join("socket")).unwrap();
            if !harness::is_root() { return harness::skip("devices", "only root may make device nodes"); }
            mknod(&d.join("null"), FileType::CharacterDevice, 0o666, (1, 3));
            mknod(&d.join("disk"), FileType::BlockDevice, 0o600, (259, 1_048_575));
        },
        |d| { chmod(d.join("pipe"), 0o600); fs::hard_link(d.join("pipe"), d.join("pipe2")).unwrap(); },
        |d| { fs::remove_file(d.join("socket")).unwrap(); fs::remove_file(d.join("pipe")).unwrap(); },
    ], notices [Defect::ForgetSpecialFiles]
}

kept! {
    /// SEMANTICS, Content: "Holes stay holes, to the block."
    holes: [
        |d| {
            let sparse = |name: &str, size: u64, data: &[(u64, &[u8])]| {
                let file = File::create(d.join(name)).unwrap();
                for (at, bytes) in data { file.write_all_at(bytes, *at).unwrap(); }
                file.set_len(size).unwrap();
            };
            let block = [7_u8; 4096];
            sparse("only a hole", 1 << 20, &[]);
            sparse("front", (1 << 20) + 4096, &[(1 << 20, &block)]);
            sparse("back", 1 << 20, &[(0, &block)]);
            sparse("comb", 1 << 20, &[(0, &block), (8192, &block), (65536, &block), (131_072, b"odd"), (1_000_000, b"end")]);
            sparse("odd", 1_234_567, &[(777, b"a"), (700_001, b"b")]);
            sparse("punched", 1 << 20, &[(0, &[9; 1 << 20])]);
        },
        |d| {
            let file = OpenOptions::new().write(true).open(d.join("punched")).unwrap();
            rustix::fs::fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 65536, 131_072).unwrap();
        },
        |d| OpenOptions::new().write(true).open(d.join("only a hole")).unwrap().write_all_at(b"no more", 500_000).unwrap(),
    ], notices [Defect::FillHoles]
}

kept! {
    /// SEMANTICS, Content: "A file may be as large as the backing allows."
    beyond_4_gib: [
        |d| {
            let file = File::create(d.join("large")).unwrap();
            file.set_len((4 << 30) + 12_345).unwrap();
            for at in [0, (2 << 30) - 1, (4 << 30) - 2, (4 << 30) + 8000] { file.write_all_at(b"mark", at).unwrap(); }
        },
        |d| OpenOptions::new().write(true).open(d.join("large")).unwrap().write_all_at(b"again", (4 << 30) + 4).unwrap(),
    ], notices []
}

/// `user::rwx, user:1234:r--, group::r-x, mask::rwx, other::r--` as the kernel stores it.
fn acl() -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, bits, id) in
        [(1_u16, 7_u16, u32::MAX), (2, 4, 1234), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 4, u32::MAX)]
    {
        value.extend(tag.to_le_bytes().into_iter().chain(bits.to_le_bytes()).chain(id.to_le_bytes()));
    }
    value
}

kept! {
    /// SEMANTICS, Attributes: "Extended attributes of the user and security name spaces and access control lists are
    /// kept byte for byte."
    xattrs: [
        |d| {
            write(d.join("file"), b"x");
            fs::create_dir(d.join("dir")).unwrap();
            for path in [d.join("file"), d.join("dir")] {
                xattr(&path, "user.plain", b"value");
                xattr(&path, "user.empty", b"");
                xattr(&path, "user.bytes", b"line\nnul\0equals=\xff end\n");
                xattr(&path, "user.100 8=x\n", b"looks like a tar record\n12 a=b\n");
                xattr(&path, &format!("user.{}", "n".repeat(250)), &[b'v'; 1000]);
            }
            if !harness::is_root() { return harness::skip("security.*", "only root may set it"); }
            // cap_net_bind_service=ep
            xattr(&d.join("file"), "security.capability", b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        },
        |d| { rustix::fs::lremovexattr(d.join("file"), "user.plain").unwrap(); xattr(&d.join("dir"), "user.plain", b"another"); },
        |d| { xattr(&d.join("file"), "system.posix_acl_access", &acl()); xattr(&d.join("dir"), "system.posix_acl_default", &acl()); },
        |d| fs::hard_link(d.join("file"), d.join("file2")).unwrap(),
    ], notices [Defect::ForgetXattrs]
}

const NAMES: [&[u8]; 17] = [
    b"new\nline",
    b"\xff\xfe\x80",
    b"-rf",
    b"--checkpoint=1",
    b" lead",
    b"trail ",
    b"back\\slash",
    b"*?[",
    b"...",
    b".hidden",
    b"\x01\x7f\x1b[31m",
    b"\xc3\xa9",
    b"e\xcc\x81",
    b"a:b",
    b"quote'\"",
    b"%2F",
    b"HEAD",
];
const WHITEOUTS: [&[u8]; 5] = [b".wh.x", b".wh..wh..opq", b".wh.", b".wh..wh.x", b".wh"];

kept! {
    /// SEMANTICS, Names: "A name is any sequence of 1 to 255 bytes but `/` and NUL, and means itself."
    names: [
        |d| {
            for name in NAMES { write(odd(d, name), name); }
            for fill in ["n", "\u{e9}"] { let name = fill.repeat(255 / fill.len()); write(odd(d, name.as_bytes()), b"255"); }
            for name in NAMES { let dir = odd(d, &[b"d", name].concat()); fs::create_dir(&dir).unwrap(); write(odd(&dir, name), name); }
        },
        |d| for name in &NAMES[..8] { fs::remove_file(odd(d, name)).unwrap(); },
        |d| for name in NAMES { fs::remove_dir_all(odd(d, &[b"d", name].concat())).unwrap(); },
    ], notices [Defect::SkipDeletes]
}

kept! {
    /// SEMANTICS, Names: "Names that archives use for deletions (`.wh.x`, `.wh..wh..opq`) are ordinary names here, beside
    /// the deletion of what they would stand for."
    whiteout_names: [
        |d| {
            for name in WHITEOUTS { write(odd(d, name), name); }
            write(d.join("x"), b"not deleted by its neighbour");
            fs::create_dir(d.join("dir")).unwrap();
            write(d.join("dir/y"), b"y");
        },
        |d| { write(d.join("dir/.wh..wh..opq"), b"plain"); write(d.join("dir/.wh.y"), b"plain"); },
        |d| fs::remove_file(d.join("x")).unwrap(),
        |d| { write(d.join("x"), b"back"); fs::remove_file(d.join(".wh.x")).unwrap(); fs::remove_file(d.join("dir/y")).unwrap(); },
        |d| { fs::remove_file(d.join("dir/.wh..wh..opq")).unwrap(); fs::create_dir(d.join(".wh.dir")).unwrap(); write(d.join(".wh.dir/z"), b"z"); },
    ], notices [Defect::SkipDeletes]
}

kept! {
    /// SEMANTICS, Names: "A path may be as deep as the kernel allows."
    deep: [
        |d| {
            let long = (0..12).fold(d.to_path_buf(), |p, i| p.join(format!("{i}{}", "d".repeat(245))));
            fs::create_dir_all(&long).unwrap();
            write(long.join("leaf"), b"deep");
            let many = (0..300).fold(d.join("many"), |p, _| p.join("d"));
            fs::create_dir_all(&many).unwrap();
            write(many.join("leaf"), b"deeper");
        },
        |d| {
            let many = (0..300).fold(d.join("many"), |p, _| p.join("d"));
            write(many.join("leaf"), b"changed");
            fs::rename(d.join("many/d/d"), d.join("up")).unwrap();
        },
    ], notices [Defect::SkipDeletes]
}

kept! {
    /// SEMANTICS, Content: "Empty files and empty directories are kept."
    empty: [
        |d| { fs::create_dir_all(d.join("a/b/c")).unwrap(); File::create(d.join("file")).unwrap(); write(d.join("full"), b"f"); write(d.join("a/f"), b"f"); },
        |d| { File::create(d.join("full")).unwrap(); fs::remove_file(d.join("a/f")).unwrap(); },
        |d| { fs::remove_dir(d.join("a/b/c")).unwrap(); },
    ], notices [Defect::ForgetEmptyDirectories]
}

kept! {
    /// SEMANTICS, Flush: "What was deleted before a flush is not in its version, nor in any later one, whatever older
    /// versions had at that place."
    deletes: [
        |d| { for i in 0..20 { fs::create_dir_all(d.join(format!("d{i}/sub"))).unwrap(); write(d.join(format!("d{i}/f")), b"f"); write(d.join(format!("d{i}/sub/g")), b"g"); } },
        |d| { fs::remove_dir_all(d.join("d0")).unwrap(); fs::remove_file(d.join("d1/f")).unwrap(); fs::remove_dir_all(d.join("d2/sub")).unwrap(); },
        // Deleted and made again between two flushes: only the new content counts.
        |d| { fs::remove_dir_all(d.join("d3")).unwrap(); fs::create_dir(d.join("d3")).unwrap(); write(d.join("d3/new"), b"n"); },
        // Deleted in one flush, made again in the next.
        |d| { fs::create_dir_all(d.join("d0")).unwrap(); write(d.join("d0/other"), b"o"); },
        // Made and deleted between two flushes: never seen.
        |d| { write(d.join("brief"), b"b"); fs::remove_file(d.join("brief")).unwrap(); fs::create_dir(d.join("d4/t")).unwrap(); fs::remove_dir(d.join("d4/t")).unwrap(); },
        |d| for i in 5..20 { fs::remove_dir_all(d.join(format!("d{i}"))).unwrap(); },
    ], notices [Defect::SkipDeletes]
}

kept! {
    /// SEMANTICS, rename: "A renamed file or directory is at its new place with everything below it and not at the old."
    renames: [
        |d| {
            for dir in ["one/in/ner", "two", "void", "x", "y"] { fs::create_dir_all(d.join(dir)).unwrap(); }
            for file in ["a", "b", "c", "one/f", "one/in/g", "one/in/ner/h", "two/f", "x/x", "y/y"] { write(d.join(file), file.as_bytes()); }
        },
        |d| { fs::rename(d.join("a"), d.join("renamed")).unwrap(); fs::rename(d.join("b"), d.join("c")).unwrap(); },
        |d| { fs::rename(d.join("one"), d.join("two/one")).unwrap(); },
        |d| { fs::rename(d.join("two/one/in"), d.join("void")).unwrap(); },
        |d| rustix::fs::renameat_with(CWD, d.join("x"), CWD, d.join("y"), RenameFlags::EXCHANGE).unwrap(),
        |d| rustix::fs::renameat_with(CWD, d.join("c"), CWD, d.join("x"), RenameFlags::EXCHANGE).unwrap(),
        |d| rustix::fs::renameat_with(CWD, d.join("renamed"), CWD, d.join("fresh"), RenameFlags::NOREPLACE).unwrap(),
        // There and back again, and a change below a directory that moved.
        |d| { fs::rename(d.join("void"), d.join("v")).unwrap(); fs::rename(d.join("v"), d.join("void")).unwrap(); write(d.join("void/ner/h"), b"changed"); },
        |d| { fs::rename(d.join("void"), d.join("moved")).unwrap(); write(d.join("moved/ner/h"), b"changed again"); fs::create_dir(d.join("void")).unwrap(); write(d.join("void/new"), b"n"); },
    ], notices [Defect::SkipDeletes, Defect::OnlyNewest]
}

kept! {
    /// SEMANTICS, Names: "A name may become another kind of thing; nothing of the old thing stays."
    type_changes: [
        |d| { write(d.join("t"), b"file"); fs::create_dir(d.join("real")).unwrap(); write(d.join("real/in"), b"in"); },
        |d| { fs::remove_file(d.join("t")).unwrap(); fs::create_dir(d.join("t")).unwrap(); write(d.join("t/in"), b"mine"); write(d.join("t/own"), b"own"); },
        // A directory with content becomes a symlink to one with the same names: a restore that goes through it breaks `real`.
        |d| { fs::remove_dir_all(d.join("t")).unwrap(); symlink("real", d.join("t")).unwrap(); },
        |d| { fs::remove_file(d.join("t")).unwrap(); mknod(&d.join("t"), FileType::Fifo, 0o600, (0, 0)); },
        |d| { fs::remove_file(d.join("t")).unwrap(); fs::create_dir(d.join("t")).unwrap(); write(d.join("t/in"), b"again"); },
        |d| { fs::remove_dir_all(d.join("t")).unwrap(); write(d.join("t"), b"file again"); },
    ], notices [Defect::SkipDeletes]
}

kept! {
    /// SEMANTICS, Flush: "A change of attributes alone is a change."
    attributes_alone: [
        |d| { for name in ["mode", "time", "xattr", "owner"] { write(d.join(name), b"same"); } fs::create_dir(d.join("dir")).unwrap(); },
        |d| chmod(d.join("mode"), 0o751),
        |d| mtime(&d.join("time"), 1_000_000_000, 5),
        |d| xattr(&d.join("xattr"), "user.a", b"b"),
        |d| chmod(d.join("dir"), 0o710),
        |d| mtime(&d.join("dir"), 1_000_000_000, 6),
        // Same size, time put back: only the change time tells.
        |d| { write(d.join("time"), b"SAME"); mtime(&d.join("time"), 1_000_000_000, 5); },
    ], notices [Defect::OnlyNewest, Defect::ForgetAttributes]
}

kept! {
    /// SEMANTICS, Flush: "Every version is complete: what did not change is in it as well."
    unchanged_stays: [
        |d| for i in 0..2000 { write(d.join(format!("file{i:04}")), format!("{i}").as_bytes()); },
        |d| write(d.join("one more"), b"1"),
        |d| { for i in (0..2000).step_by(7) { fs::remove_file(d.join(format!("file{i:04}"))).unwrap(); } write(d.join("file0001"), b"new"); },
    ], notices [Defect::OnlyNewest, Defect::SkipDeletes, Defect::AcknowledgeEarly]
}

/// SEMANTICS, Layers: "An exported version is one archive that plain `tar --zstd -x` unpacks to the same tree."
fn archive_is_the_tree(subject: &mut dyn Subject) {
    let dir = subject.dir();
    write(dir.join("file"), b"content");
    xattr(&dir.join("file"), "user.bytes", b"line\nnul\0end");
    chmod(dir.join("file"), 0o4751);
    fs::hard_link(dir.join("file"), dir.join("again")).unwrap();
    symlink("t".repeat(300), dir.join("link")).unwrap();
    mknod(&dir.join("pipe"), FileType::Fifo, 0o644, (0, 0));
    for name in NAMES {
        write(odd(&dir, name), name);
    }
    fs::create_dir_all(dir.join("a/b")).unwrap();
    let deep = (0..10).fold(dir.join("deep"), |p, _| p.join("d".repeat(200)));
    fs::create_dir_all(&deep).unwrap();
    write(deep.join("leaf"), b"leaf");
    let file = File::create(dir.join("sparse")).unwrap();
    file.write_all_at(b"data", 1 << 20).unwrap();
    file.set_len(5 << 30).unwrap();
    subject.flush();
    fs::remove_file(odd(&dir, NAMES[0])).unwrap();
    fs::rename(dir.join("a"), dir.join("z")).unwrap();
    mtime(&dir.join("file"), 1_234_567_890, 123_456_789);
    let expected = Tree::take(&dir, KEPT);
    subject.flush();
    let outside = tempfile::tempdir().unwrap();
    let (archive, to) = (outside.path().join("all.tar.zst"), outside.path().join("tree"));
    fs::create_dir(&to).unwrap();
    subject.archive(&archive);
    let mut args: Vec<&OsStr> =
        ["--zstd", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf"].map(OsStr::new).to_vec();
    args.extend([archive.as_os_str(), OsStr::new("-C"), to.as_os_str()]);
    harness::tool("tar", &args);
    expected.assert_same(&Tree::take(&to, KEPT), "what tar unpacked");
}

/// SEMANTICS, Layers: "An exported version is one archive that plain `tar --zstd -x` unpacks to the same tree."
#[test]
fn exported_archive_is_the_tree() {
    archive_is_the_tree(&mut Lab::new(Setup::default()));
}

/// The case notices an archive without deletes, attributes, links or holes.
#[test]
fn exported_archive_selftest() {
    archive_is_the_tree(&mut Twin::new(Defect::Faithful));
    for defect in [Defect::SkipDeletes, Defect::ForgetXattrs, Defect::ForgetHardLinks, Defect::RoundMtimes] {
        must_notice(&format!("{defect:?}"), || archive_is_the_tree(&mut Twin::new(defect)));
    }
}

/// SEMANTICS, import: "An imported archive is a first version, equal to what tar would unpack."
#[test]
fn import_is_the_inverse_of_export() {
    let mut lab = Lab::new(Setup::default());
    write(lab.dir().join("file"), b"content");
    symlink("file", lab.dir().join("link")).unwrap();
    fs::hard_link(lab.dir().join("file"), lab.dir().join("hard")).unwrap();
    fs::create_dir(lab.dir().join("empty")).unwrap();
    let expected = Tree::take(&lab.dir(), KEPT);
    lab.flush();
    let archive = lab.root().join("all.tar.zst");
    lab.archive(&archive);
    let remote = lab.remote();
    let file = archive.to_str().unwrap();
    lab.call(["import", file, "--remote", &remote, "--name", "second"]).must("import");
    let to = lab.root().join("second");
    lab.call(["restore", "--remote", &remote, "--name", "second", "--to", to.to_str().unwrap()])
        .must("restore");
    expected.assert_same(&Tree::take(&to, KEPT), "the imported version");
}

/// A directory and the file in it whose path from the mount is longer than any system call takes: reached step by step.
fn too_deep(top: &Path, make: bool) -> rustix::fd::OwnedFd {
    let open = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
    let name = "D".repeat(200);
    let mut at = rustix::fs::open(top, open, Bits::empty()).unwrap();
    for _ in 0..21 {
        if make {
            rustix::fs::mkdirat(&at, &name, Bits::from_raw_mode(0o755)).unwrap();
        }
        at = rustix::fs::openat(&at, &name, open, Bits::empty()).unwrap();
    }
    at
}

fn leaf(dir: &rustix::fd::OwnedFd, name: &str, how: rustix::fs::OFlags) -> File {
    rustix::fs::openat(dir, name, how, Bits::from_raw_mode(0o644)).unwrap().into()
}

#[track_caller]
fn leaves_are(top: &Path, closed: &str, open: &str) {
    use std::io::Read;
    let dir = too_deep(top, false);
    for (name, expected) in [("leaf", closed), ("open", open)] {
        let mut found = String::new();
        leaf(&dir, name, rustix::fs::OFlags::RDONLY).read_to_string(&mut found).unwrap();
        assert_eq!(found, expected, "{name} in {}", top.display());
    }
}

/// SEMANTICS, Names: "A path may be as deep as the kernel allows." One such file had stopped all saving for ever.
#[test]
fn a_path_longer_than_a_system_call_takes_is_saved_like_any_other() {
    use rustix::fs::OFlags;
    use std::io::Write;
    let new = OFlags::CREATE | OFlags::WRONLY;
    for (mode, restore) in [(Mode::Passthrough, "lazy"), (Mode::Classic, "eager")] {
        let mut lab = Lab::new(Setup::mode(mode).with(&["--restore", restore]));
        let dir = too_deep(&lab.place(), true);
        leaf(&dir, "leaf", new).write_all(b"deep").unwrap();
        let mut open = leaf(&dir, "open", new);
        open.write_all(b"one").unwrap();
        lab.flush();
        leaf(&dir, "leaf", OFlags::WRONLY | OFlags::TRUNC).write_all(b"deeper").unwrap();
        open.write_all(b" two").unwrap();
        let version = lab.flush();
        // A close may arrive after the flush; the next one then finds that nothing changed.
        let clean = (0..10).any(|_| lab.status_number("dirty_files") == 0 || lab.flush() != version);
        assert!(clean && lab.status_number("dirty_files") == 0, "it stays dirty");
        leaves_are(&lab.checkout(&version), "deeper", "one two");
        drop((open, dir));
        // Found by a scan as well.
        lab.unmount();
        leaf(&too_deep(&lab.place(), false), "leaf", OFlags::WRONLY | OFlags::APPEND)
            .write_all(b" still")
            .unwrap();
        lab.setup = lab.setup.clone().with(&["--scan", "always"]);
        lab.mount();
        let version = lab.flush();
        leaves_are(&lab.checkout(&version), "deeper still", "one two");
        lab.call(["verify", "--remote", &lab.remote(), "--name", "work", &version]).must("verify");
        lab.elsewhere();
        leaves_are(&lab.place(), "deeper still", "one two");
        lab.verb("hydrate", &[]).must("hydrate");
        // It can be removed again, and then no version has it.
        let top = lab.place().join("D".repeat(200));
        fs::rename(&top, lab.place().join("short")).unwrap();
        let version = lab.flush();
        assert!(lab.checkout(&version).join("short").is_dir());
    }
}
