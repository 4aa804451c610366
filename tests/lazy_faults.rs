//! What once went wrong with a directory that is usable before its content is there.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use harness::{KEPT, LIMIT, Lab, Mode, Setup, Subject, TIMELESS, Tree};
use rustix::fs::{AtFlags, CWD, RenameFlags, StatxFlags, XattrFlags};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, mpsc};

const BOTH: [Mode; 2] = [Mode::Passthrough, Mode::Classic];

fn populate(dir: &Path) {
    for sub in ["a/b", "many", "other"] {
        fs::create_dir_all(dir.join(sub)).unwrap();
    }
    for n in 0..100 {
        fs::write(dir.join(format!("many/{n}")), format!("content {n}\n")).unwrap();
    }
    for name in ["a/file", "a/b/deep", "other/one", "top"] {
        fs::write(dir.join(name), format!("this is {name}\n")).unwrap();
    }
    fs::hard_link(dir.join("a/file"), dir.join("other/second name")).unwrap();
    fs::hard_link(dir.join("a/file"), dir.join("third")).unwrap();
}

/// A machine that has just got a directory back; nothing of it is here.
fn arrived(mode: Mode) -> Lab {
    Lab::arrived(Setup::mode(mode).with(&["--no-prefetch"]), populate).0
}

/// One more machine that shares the remote of a lab.
struct Machine<'a> {
    lab: &'a Lab,
    dir: PathBuf,
    state: PathBuf,
}

impl<'a> Machine<'a> {
    fn new(lab: &'a Lab, name: &str) -> Self {
        let dir = lab.root().join(name);
        fs::create_dir(&dir).unwrap();
        Self { lab, dir, state: lab.root().join(format!("{name}.state")) }
    }

    fn mount(&self) -> String {
        self.lab.try_mount_at(&self.dir, &self.state).must("mount").stderr
    }

    fn unmount(&self) {
        self.lab.call(["unmount".as_ref(), self.dir.as_os_str()]).must("unmount");
    }
}

/// SEMANTICS, Restore: "What comes to the directory is no change of it".
#[test]
fn a_machine_that_only_read_takes_the_newer_version() {
    for options in [&[][..], &["--no-prefetch"][..]] {
        let lab = Lab::prepare(Setup::default().with(options));
        let (writer, reader) = (Machine::new(&lab, "writer"), Machine::new(&lab, "reader"));
        writer.mount();
        populate(&writer.dir);
        writer.unmount();
        reader.mount();
        for name in ["a/file", "many/3", "other/one", "top"] {
            fs::read(reader.dir.join(name)).unwrap();
        }
        reader.unmount();
        writer.mount();
        fs::write(writer.dir.join("many/3"), "newer").unwrap();
        writer.unmount();
        let said = reader.mount();
        assert!(!said.contains("unsaved"), "{options:?}: {said}");
        assert_eq!(fs::read_to_string(reader.dir.join("many/3")).unwrap(), "newer", "{options:?}");
        reader.unmount();
    }
}

/// SEMANTICS, Restore: "What comes to the directory is no change of it".
#[test]
fn a_scan_finds_no_change_in_what_came() {
    for mode in BOTH {
        let mut lab = arrived(mode);
        lab.setup.options.push("--scan=always".into());
        fs::read(lab.dir().join("a/file")).unwrap();
        fs::read(lab.dir().join("many/1")).unwrap();
        lab.remount();
        assert_eq!(lab.flush(), "1", "{mode:?}: what came made a version");
        // The same in a directory that has changes of its own, before and after they are saved.
        fs::write(lab.dir().join("many/new"), "new").unwrap();
        fs::read(lab.dir().join("many/2")).unwrap();
        assert_eq!(lab.flush(), "2");
        fs::read(lab.dir().join("many/3")).unwrap();
        lab.remount();
        assert_eq!(lab.flush(), "2", "{mode:?}: what came made a version");
        // And what was changed there is found all the same.
        lab.unmount();
        fs::set_permissions(lab.dir().join("many"), PermissionsExt::from_mode(0o700)).unwrap();
        lab.mount();
        assert_eq!(lab.flush(), "3", "{mode:?}: a change was taken for something that came");
    }
}

/// SEMANTICS, Restore: "However many wait at once".
#[test]
fn more_opens_than_the_daemon_has_threads_are_all_answered() {
    const OPENERS: usize = 1100;
    let mut lab = Lab::new(Setup::default().with(&["--no-prefetch"]));
    for n in 0..OPENERS {
        fs::write(lab.dir().join(n.to_string()), n.to_string()).unwrap();
    }
    lab.flush();
    lab.elsewhere();
    let (together, (tell, told)) = (Arc::new(Barrier::new(OPENERS)), mpsc::channel());
    for n in 0..OPENERS {
        let (path, together, tell) = (lab.dir().join(n.to_string()), together.clone(), tell.clone());
        std::thread::Builder::new()
            .stack_size(128 << 10)
            .spawn(move || {
                together.wait();
                let _nobody_waits = tell.send((n, fs::read_to_string(path).ok()));
            })
            .unwrap();
    }
    for answered in 0..OPENERS {
        let (n, read) =
            told.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("{answered} of {OPENERS} were answered"));
        assert_eq!(read, Some(n.to_string()));
    }
    assert_eq!(lab.absent_files(), 0);
}

/// SEMANTICS, Restore: "Every operation works on what is not here yet".
#[test]
fn an_absent_file_changes_places_with_a_directory_of_absent_files() {
    for mode in BOTH {
        let twin = tempfile::tempdir().unwrap();
        populate(twin.path());
        let exchange = |dir: &Path| {
            let swap = |a: &str, b: &str| {
                rustix::fs::renameat_with(CWD, dir.join(a), CWD, dir.join(b), RenameFlags::EXCHANGE)
            };
            swap("top", "a").unwrap();
            swap("many", "third").unwrap();
            swap("other/one", "many").unwrap();
        };
        exchange(twin.path());
        let mut lab = arrived(mode);
        exchange(&lab.dir());
        let version = lab.flush();
        let expected = Tree::take(twin.path(), TIMELESS);
        expected.assert_same(&Tree::take(&lab.checkout(&version), TIMELESS), "the version");
        expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), "the tree");
    }
}

/// SEMANTICS, Restore: "What comes to the directory is no change of it".
#[test]
fn what_a_program_does_to_a_directory_stays_while_files_come_to_it() {
    let lab = arrived(Mode::Passthrough);
    let many = lab.dir().join("many");
    let done = Arc::new(AtomicBool::new(false));
    let reader = {
        let (many, done) = (many.clone(), done.clone());
        std::thread::spawn(move || {
            for n in 0..100 {
                fs::read(many.join(n.to_string())).unwrap();
            }
            done.store(true, Ordering::Release);
        })
    };
    let mut second = 1_000_000;
    while !done.load(Ordering::Acquire) {
        second += 1;
        let time = rustix::fs::Timespec { tv_sec: second, tv_nsec: 7 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, &many, &times, AtFlags::empty()).unwrap();
        let statx = || {
            rustix::fs::statx(CWD, &many, AtFlags::from_bits_retain(0x2000), StatxFlags::BASIC_STATS).unwrap()
        };
        assert_eq!(statx().stx_mtime.tv_sec, second, "another time than was set");
    }
    reader.join().unwrap();
    assert_eq!(fs::metadata(&many).unwrap().mtime(), second, "the last time that was set is lost");
}

/// SEMANTICS, Restore: "names, attributes, extended attributes and links are there without a request for content".
#[test]
fn a_file_has_its_names_while_it_comes() {
    const FILES: u64 = 600;
    for mode in BOTH {
        let mut lab = Lab::new(Setup::mode(mode).with(&["--no-prefetch"]));
        for n in 0..FILES {
            fs::write(lab.dir().join(n.to_string()), n.to_string()).unwrap();
        }
        lab.flush();
        lab.elsewhere();
        let at = Arc::new(AtomicU64::new(0));
        let looks: Vec<_> = (0..3)
            .map(|_| {
                let (dir, at) = (lab.dir(), at.clone());
                std::thread::spawn(move || {
                    let mut wrong = Vec::new();
                    loop {
                        let n = at.load(Ordering::Acquire);
                        if n >= FILES {
                            return wrong;
                        }
                        // As it is now, not as the kernel remembers it.
                        let fresh = AtFlags::from_bits_retain(0x2000);
                        let path = dir.join(n.to_string());
                        let stat = rustix::fs::statx(CWD, path, fresh, StatxFlags::BASIC_STATS).unwrap();
                        if stat.stx_nlink != 1 {
                            wrong.push((n, stat.stx_nlink));
                        }
                    }
                })
            })
            .collect();
        for n in 0..FILES {
            at.store(n, Ordering::Release);
            let path = lab.dir().join(n.to_string());
            let before = fs::metadata(&path).unwrap().ino();
            fs::read(&path).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().ino(), before, "{mode:?}: it got another number");
        }
        at.store(FILES, Ordering::Release);
        for look in looks {
            assert_eq!(look.join().unwrap(), [], "{mode:?}: files without a name, or with too many");
        }
    }
}

/// SEMANTICS, Restore: "A file that cannot come keeps no other from coming".
#[test]
fn a_directory_that_is_gone_beneath_is_in_nobodys_way() {
    let mut lab = Lab::new(Setup::default().with(&["--no-prefetch"]));
    for sub in ["a", "b", "c"] {
        fs::create_dir(lab.dir().join(sub)).unwrap();
        fs::write(lab.dir().join(sub).join("f"), format!("in {sub}\n")).unwrap();
    }
    for name in ["0", "one", "two"] {
        fs::write(lab.dir().join(name), format!("this is {name}\n")).unwrap();
    }
    lab.flush();
    lab.elsewhere();
    for sub in ["a", "b", "c"] {
        fs::metadata(lab.dir().join(sub)).unwrap();
    }
    lab.unmount();
    let away = lab.root().join("away");
    fs::rename(lab.dir().join("a"), &away).unwrap();
    // From now on what lies beside a file that is waited for comes along.
    lab.setup.options.clear();
    lab.setup.options.extend(["--prefetch-rate".into(), "1".into()]);
    lab.mount();
    assert_eq!(fs::read_to_string(lab.dir().join("one")).unwrap(), "this is one\n");
    fs::rename(lab.dir().join("two"), lab.dir().join("moved")).unwrap();
    lab.verb("hydrate", &[]).must("hydrate");
    assert_eq!(fs::read_to_string(lab.dir().join("c/f")).unwrap(), "in c\n");
    lab.flush();
    lab.unmount();
    assert_eq!(fs::read_to_string(lab.dir().join("b/f")).unwrap(), "in b\n");
    assert!(!lab.dir().join("a").exists(), "it came back");
}

/// SEMANTICS, Restore: "A daemon that is killed meanwhile loses nothing and brings nothing back".
#[test]
fn a_file_that_came_under_one_of_its_names_only_stays_one_file() {
    for mode in BOTH {
        let mut lab = arrived(mode);
        let file = lab.dir().join("a/file");
        let times = fs::metadata(&file).unwrap().modified().unwrap();
        fs::metadata(lab.dir().join("other/second name")).unwrap();
        lab.kill();
        rustix::mount::unmount(lab.dir(), rustix::mount::UnmountFlags::DETACH).unwrap();
        // What a daemon leaves that is killed between two names: nobody has written down the first.
        fs::write(&file, "this is a/file\n").unwrap();
        fs::File::open(&file).unwrap().set_modified(times).unwrap();
        lab.mount();
        assert_eq!(fs::read_to_string(lab.dir().join("third")).unwrap(), "this is a/file\n");
        let dir = lab.dir();
        let stat = |name: &str| {
            let meta = fs::metadata(dir.join(name)).unwrap();
            (meta.ino(), meta.nlink())
        };
        let first = stat("a/file");
        assert_eq!(first.1, 3, "{mode:?}");
        assert_eq!([stat("third"), stat("other/second name")], [first, first], "{mode:?}");
        lab.remount();
        let first = stat("a/file");
        assert_eq!([stat("third"), stat("other/second name")], [first, first], "{mode:?}: after a remount");
    }
}

/// SEMANTICS, Restore: "A truncation that is refused changes nothing".
#[test]
fn a_running_program_that_is_not_all_here_is_not_emptied() {
    let program = ["/usr/bin/sleep", "/bin/sleep"].into_iter().find_map(|path| fs::read(path).ok());
    let mut lab = Lab::new(Setup::default().with(&["--no-prefetch"]));
    let path = |lab: &Lab| lab.dir().join("program");
    fs::write(path(&lab), program.expect("sleep")).unwrap();
    let noise: Vec<u8> = (0..12u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let file = fs::OpenOptions::new().write(true).open(path(&lab)).unwrap();
    let length = file.metadata().unwrap().len();
    file.write_all_at(&noise, length).unwrap();
    drop(file);
    fs::set_permissions(path(&lab), PermissionsExt::from_mode(0o755)).unwrap();
    lab.flush();
    lab.elsewhere();
    let mut running = std::process::Command::new(path(&lab)).arg("1000").spawn().unwrap();
    let opened = rustix::fs::open(
        path(&lab),
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::TRUNC,
        rustix::fs::Mode::empty(),
    );
    let (opened, size) = (opened.map(drop), fs::metadata(path(&lab)).unwrap().len());
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!((opened, size), (Err(rustix::io::Errno::TXTBSY), length + noise.len() as u64));
}

/// SEMANTICS, Restore: "A daemon that is killed meanwhile loses nothing and brings nothing back".
#[test]
fn a_directory_is_counted_once_after_a_kill() {
    let mut lab = arrived(Mode::Passthrough);
    let links = |lab: &Lab| fs::metadata(lab.dir()).unwrap().nlink();
    let before = links(&lab);
    lab.kill();
    rustix::mount::unmount(lab.dir(), rustix::mount::UnmountFlags::DETACH).unwrap();
    // What a daemon leaves that is killed before it can say that it made one.
    fs::create_dir(lab.dir().join("other")).unwrap();
    lab.mount();
    assert_eq!(links(&lab), before);
    fs::read(lab.dir().join("other/one")).unwrap();
    assert_eq!(links(&lab), before);
    lab.flush();
}

/// TROUBLESHOOTING: "what is only in the remote cannot be told".
#[test]
fn a_damaged_log_is_not_taken_for_a_shorter_one() {
    let mut lab = arrived(Mode::Passthrough);
    fs::read(lab.dir().join("many/2")).unwrap();
    fs::remove_file(lab.dir().join("many/1")).unwrap();
    fs::write(lab.dir().join("made"), "here").unwrap();
    lab.kill();
    rustix::mount::unmount(lab.dir(), rustix::mount::UnmountFlags::DETACH).unwrap();
    let log = lab.state().join("absent/log");
    let mut damaged = fs::read(&log).unwrap();
    damaged[64 + 4] ^= 1;
    fs::write(&log, &damaged).unwrap();
    let refused = lab.try_mount();
    assert!(!refused.ok() && refused.said().contains("absent/log is damaged"), "{}", refused.said());
    assert_eq!(fs::read(&log).unwrap(), damaged);
    // As it says.
    fs::rename(lab.state().join("journal"), lab.state().join("journal.away")).unwrap();
    lab.mount();
    lab.flush();
    for dir in [lab.dir(), lab.restored(None)] {
        for n in 0..100 {
            let content = fs::read_to_string(dir.join(format!("many/{n}"))).unwrap();
            assert_eq!(content, format!("content {n}\n"));
        }
        assert_eq!(fs::read_to_string(dir.join("made")).unwrap(), "here");
    }
}

/// SEMANTICS, Restore: "`hydrate` brings what it names, or everything".
#[test]
fn what_was_removed_is_not_waited_for() {
    let lab = arrived(Mode::Passthrough);
    fs::remove_dir_all(lab.dir().join("a")).unwrap();
    fs::remove_dir_all(lab.dir().join("many")).unwrap();
    lab.verb("hydrate", &[]).must("hydrate");
    lab.unmount();
    assert!(!lab.state().join("absent").exists(), "nothing is absent any more, and it is remembered");
    lab.mount();
    assert!(!lab.dir().join("a").exists() && !lab.dir().join("many").exists());
}

/// SEMANTICS, Restore: "names, attributes, extended attributes and links are there without a request for content".
#[test]
fn a_sparse_file_takes_no_more_than_its_data() {
    let mut lab = Lab::new(Setup::default().with(&["--no-prefetch"]));
    let sparse = fs::File::create(lab.dir().join("sparse")).unwrap();
    sparse.write_all_at(b"end", 64 << 20).unwrap();
    drop(sparse);
    lab.flush();
    lab.elsewhere();
    let path = lab.dir().join("sparse");
    let blocks = || fs::metadata(&path).unwrap().blocks();
    assert!(blocks() <= 64, "{} blocks before it is here", blocks());
    lab.verb("hydrate", &[]).must("hydrate");
    assert!(blocks() <= 64, "{} blocks when it is here", blocks());
    lab.unmount();
    let beneath = fs::metadata(&path).unwrap().blocks();
    lab.mount();
    assert_eq!(blocks(), beneath);
}

/// A default ACL is for what programs make in a directory, not for what a version has there.
#[test]
fn what_comes_inherits_nothing() {
    // Version 2; entries of (tag, permissions, id): owner, user 77, group, mask, others.
    let entries: [(u16, u16, u32); 5] =
        [(0x01, 7, u32::MAX), (0x02, 7, 77), (0x04, 5, u32::MAX), (0x10, 7, u32::MAX), (0x20, 0, u32::MAX)];
    let mut default_acl = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        default_acl.extend_from_slice(&tag.to_le_bytes());
        default_acl.extend_from_slice(&permissions.to_le_bytes());
        default_acl.extend_from_slice(&id.to_le_bytes());
    }
    for mode in BOTH {
        let mut lab = Lab::new(Setup::mode(mode).with(&["--no-prefetch"]));
        let dir = lab.dir().join("d");
        fs::create_dir_all(dir.join("below")).unwrap();
        fs::write(dir.join("key"), "secret").unwrap();
        fs::set_permissions(dir.join("key"), fs::Permissions::from_mode(0o640)).unwrap();
        rustix::fs::mknodat(CWD, dir.join("pipe"), rustix::fs::FileType::Fifo, 0o640.into(), 0).unwrap();
        rustix::fs::setxattr(&dir, "system.posix_acl_default", &default_acl, XattrFlags::empty()).unwrap();
        lab.flush();
        let tree = Tree::take(&lab.dir(), KEPT);
        lab.elsewhere();
        assert_eq!(fs::read(lab.dir().join("d/key")).unwrap(), b"secret");
        let mut value = [0; 256];
        for name in ["d/key", "d/below", "d/pipe"] {
            for acl in ["system.posix_acl_access", "system.posix_acl_default"] {
                let has = rustix::fs::lgetxattr(lab.dir().join(name), acl, &mut value[..]);
                assert!(has.is_err(), "{mode:?}: {name} inherited {acl}");
            }
        }
        tree.assert_same(&Tree::take(&lab.dir(), KEPT), "the tree");
    }
}

const MIB: usize = 1 << 20;

/// What cannot be compressed.
fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

/// A version of one layer, in the order of its content, and the layer. What is not compressed stands in it about
/// where it stands in a tar archive.
fn in_order(options: &[&str]) -> (Lab, PathBuf) {
    let mut lab = Lab::new(Setup::default().with(options));
    for (seed, name) in [(1, "a"), (2, "b"), (3, "c")] {
        fs::write(lab.dir().join(name), noise(seed, 2 * MIB)).unwrap();
    }
    fs::write(lab.dir().join("large"), noise(4, 12 * MIB)).unwrap();
    fs::write(lab.dir().join("one"), "this is one\n").unwrap();
    lab.flush();
    let layers = fs::read_dir(lab.remote_dir().join("layers")).unwrap();
    let [layer] = &layers.map(|e| e.unwrap().path()).collect::<Vec<_>>()[..] else { panic!("one layer") };
    (lab, layer.clone())
}

/// Damages `b` and `large`; what follows the damage in `large` begins at so many bytes of it.
fn damage(layer: &Path) -> u64 {
    let mut bytes = fs::read(layer).unwrap();
    for at in [7 * MIB / 2, 21 * MIB / 2] {
        bytes[at] ^= 0x40;
    }
    fs::write(layer, bytes).unwrap();
    9 * MIB as u64 / 2
}

fn key(layer: &Path) -> String {
    format!("layers/{}", layer.file_name().unwrap().to_str().unwrap())
}

/// SEMANTICS, Restore: "`status` says how many files cannot come for such a reason and why the first does not, until
/// they come; `hydrate` brings everything else and ends with code 9."
#[test]
fn what_is_damaged_is_told_until_it_comes() {
    let (mut lab, layer) = in_order(&["--no-prefetch"]);
    let (good, key) = (fs::read(&layer).unwrap(), key(&layer));
    let nothing = |lab: &Lab| {
        let status = lab.status();
        assert!(status["lost_files"] == 0 && status["lost_error"].is_null(), "{status}");
    };
    let damaged = damage(&layer);
    lab.elsewhere();
    nothing(&lab);
    for _ in 0..2 {
        let brought = lab.verb("hydrate", &[]);
        assert_eq!(brought.code, 9, "{}", brought.said());
        assert!(brought.stderr.contains(&key) && brought.stderr.contains("2 files"), "{}", brought.said());
        assert!(
            !brought.stderr.contains("network") && brought.stderr.contains("verify"),
            "{}",
            brought.said()
        );
        let status = lab.status();
        assert_eq!((&status["lost_files"], &status["absent_files"]), (&2.into(), &2.into()), "{status}");
        assert!(status["lost_error"].as_str().unwrap().contains(&key), "{status}");
    }
    let said = lab.verb("status", &[]).must("status").said();
    assert!(said.contains("2 files cannot come") && said.contains(&key), "{said}");
    assert_eq!(fs::read(lab.dir().join("c")).unwrap(), noise(3, 2 * MIB));
    fs::write(&layer, &good).unwrap();
    lab.verb("hydrate", &[]).must("hydrate");
    nothing(&lab);
    assert_eq!(fs::read(lab.dir().join("b")).unwrap(), noise(2, 2 * MIB));

    // Of a large file that is read by range.
    damage(&layer);
    lab.elsewhere();
    let file = fs::File::open(lab.dir().join("large")).unwrap();
    let mut bytes = [0; 4096];
    assert_eq!(file.read_exact_at(&mut bytes, damaged).unwrap_err().raw_os_error(), Some(libc::EIO));
    assert_eq!(lab.status_number("lost_files"), 1);
    file.read_exact_at(&mut bytes, 11 * MIB as u64).unwrap();
    assert_eq!(lab.status_number("lost_files"), 1);
    fs::write(&layer, &good).unwrap();
    file.read_exact_at(&mut bytes, damaged).unwrap();
    nothing(&lab);

    // Of a small one, of which what was read is still in memory.
    let mut small = Lab::new(Setup::default().with(&["--no-prefetch"]));
    fs::write(small.dir().join("small"), noise(5, MIB / 16)).unwrap();
    small.flush();
    let objects = small.objects().into_iter().map(|(path, _)| path);
    let [only] = &objects.filter(|path| path.extension().is_some_and(|e| e == "zst")).collect::<Vec<_>>()[..]
    else {
        panic!("one layer")
    };
    let sound = fs::read(only).unwrap();
    let mut torn = sound.clone();
    torn[MIB / 32] ^= 0x40;
    fs::write(only, torn).unwrap();
    small.elsewhere();
    assert!(fs::read(small.dir().join("small")).is_err());
    assert_eq!(small.status_number("lost_files"), 1);
    fs::write(only, sound).unwrap();
    assert_eq!(fs::read(small.dir().join("small")).unwrap(), noise(5, MIB / 16));
    nothing(&small);

    // What is removed is not missed.
    damage(&layer);
    lab.elsewhere();
    assert!(fs::read(lab.dir().join("b")).is_err());
    assert_eq!(lab.status_number("lost_files"), 1);
    fs::remove_file(lab.dir().join("b")).unwrap();
    nothing(&lab);
}

/// SEMANTICS, Restore: "A file that cannot come keeps no other from coming", and "`status` says how many files cannot
/// come for such a reason"
#[test]
fn the_background_tells_what_it_could_not_bring() {
    let (mut lab, layer) = in_order(&[]);
    damage(&layer);
    lab.elsewhere();
    let status = lab.await_status("all but two come", |s| s["absent_files"] == 2 && s["lost_files"] == 2);
    assert!(status["lost_error"].as_str().unwrap().contains(&key(&layer)), "{status}");
    // A layer that goes while it is mounted is as bad.
    let (mut lab, layer) = in_order(&["--no-prefetch"]);
    lab.elsewhere();
    fs::remove_file(&layer).unwrap();
    let brought = lab.verb("hydrate", &["one"]);
    assert_eq!(brought.code, 9, "{}", brought.said());
    assert!(brought.stderr.contains(&key(&layer)), "{}", brought.said());
    assert_eq!(lab.status_number("lost_files"), 1);
}
