//! An ordinary user's mount: through `fusermount3`, without root's privileges. When the tests run as root
//! they become `nobody` for it; where that is impossible they say why.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use harness::lab::{BIN, NEVER, signal, version_in};
use harness::{Finished, LIMIT, eventually, run, skip};
use rustix::process::Signal;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Somebody who is not root, with a home and a program that he may run. Dropping it takes his mounts away.
struct User {
    temp: tempfile::TempDir,
    /// Uid and gid to become; `None`: we are an ordinary user ourselves.
    id: Option<(u32, u32)>,
}

impl User {
    /// `None`, and a word about it, where no ordinary user can mount.
    fn new(what: &str) -> Option<Self> {
        let helper = ["/usr/bin/fusermount3", "/bin/fusermount3", "/usr/local/bin/fusermount3"]
            .into_iter()
            .find_map(|path| fs::metadata(path).ok());
        let reason = match helper {
            None => Some("fusermount3 is not installed (package fuse3)"),
            Some(file) if file.mode() & 0o4000 == 0 => Some("fusermount3 is not set-user-id"),
            Some(_) if !Path::new("/dev/fuse").exists() => Some("there is no /dev/fuse"),
            Some(_) => None,
        };
        let id = if harness::is_root() { nobody() } else { None };
        let reason = reason.or((harness::is_root() && id.is_none()).then_some("there is no user nobody"));
        if let Some(reason) = reason {
            skip(what, reason);
            return None;
        }
        let temp = tempfile::Builder::new().prefix("icecache-user-").tempdir().unwrap();
        fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
        if let Err(why) = device_for_all(temp.path(), id) {
            skip(what, &why);
            return None;
        }
        // Where the tests are built he may not even look.
        // By a program of its own: a descriptor of ours that writes it would be inherited by what another
        // test starts meanwhile, and a program that somebody writes cannot be executed.
        run(Command::new("cp").arg(BIN).arg(temp.path().join("icecache")), LIMIT).must("cp");
        let user = Self { temp, id };
        for dir in ["home", "home/work", "home/else"] {
            fs::create_dir(user.path(dir)).unwrap();
            if let Some((uid, gid)) = id {
                chown(user.path(dir), Some(uid), Some(gid)).unwrap();
            }
        }
        Some(user)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn work(&self) -> PathBuf {
        self.path("home/work")
    }

    /// A program as this user, with nothing of this machine's configuration in sight.
    fn command(&self, program: impl AsRef<OsStr>, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin:/usr/local/bin");
        command.env("HOME", self.path("home")).current_dir("/");
        if let Some((uid, gid)) = self.id {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn run(&self, program: impl AsRef<OsStr>, args: &[&str]) -> Finished {
        run(&mut self.command(program, args), LIMIT)
    }

    fn icecache(&self, args: &[&str]) -> Finished {
        self.run(self.path("icecache"), args)
    }

    fn shell(&self, script: &str) -> Finished {
        self.run("sh", &["-euc", &format!("cd '{}'\n{script}", self.work().display())])
    }

    fn mount(&self, options: &[&str]) -> Finished {
        let work = self.work();
        let mut args = vec!["mount", work.to_str().unwrap(), "--debounce", NEVER, "--max-delay", NEVER];
        args.extend(options);
        let done = self.icecache(&args).must("mount as an ordinary user");
        assert!(mounted(&work), "mount returned zero, but nothing is mounted");
        done
    }

    fn verb(&self, verb: &str, options: &[&str]) -> Finished {
        let work = self.work();
        let args: Vec<&str> = [&[verb, work.to_str().unwrap()], options].concat();
        self.icecache(&args)
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.verb("status", &["--json"]).must("status").stdout).unwrap()
    }

    fn pid(&self) -> u32 {
        self.status()["pid"].as_u64().unwrap() as u32
    }

    /// The newest version in a fresh directory.
    fn restored(&self, name: &str, to: &str) -> PathBuf {
        let to = self.path(&format!("home/else/{to}"));
        self.icecache(&["restore", "--name", name, "--to", to.to_str().unwrap()]).must("restore");
        to
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let work = self.work();
        if mounted(&work) {
            let pid = self.verb("status", &["--json"]);
            if let Some(pid) = serde_json::from_str::<Value>(&pid.stdout).ok().and_then(|s| s["pid"].as_u64())
            {
                signal(pid as u32, Signal::KILL);
            }
            let _gone = rustix::mount::unmount(&work, rustix::mount::UnmountFlags::DETACH).is_ok()
                || run(Command::new("fusermount3").args(["-u", "-z"]).arg(&work), LIMIT).ok();
        }
    }
}

/// Sees to it that everybody may open the FUSE device, as udev does; a machine without udev gets a node for
/// it in a mount name space of this thread (and of the programs it starts), so that nothing else changes.
fn device_for_all(temp: &Path, id: Option<(u32, u32)>) -> Result<(), String> {
    let device = Path::new("/dev/fuse");
    if fs::metadata(device).is_ok_and(|m| m.mode() & 0o006 == 0o006) {
        return Ok(());
    }
    if id.is_none() {
        return Err("/dev/fuse is not open to ordinary users".to_owned());
    }
    use rustix::fs::{FileType, Mode, mknodat};
    use rustix::mount::{MountFlags, MountPropagationFlags, mount_bind, mount_change};
    let failed =
        |what: &str, e: rustix::io::Errno| format!("cannot open /dev/fuse to ordinary users: {what}: {e}");
    // SAFETY: only this thread is moved, and it has no state that depends on the name space it was in.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(format!("no mount name space of our own: {}", std::io::Error::last_os_error()));
    }
    let alone = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", alone).map_err(|e| failed("propagation", e))?;
    let none: Option<&std::ffi::CStr> = None;
    let devices = temp.join("devices");
    fs::create_dir(&devices).unwrap();
    // The temporary directory may forbid devices.
    rustix::mount::mount("devices", &devices, "tmpfs", MountFlags::empty(), none)
        .map_err(|e| failed("tmpfs", e))?;
    let node = devices.join("fuse");
    let number = rustix::fs::makedev(10, 229);
    mknodat(rustix::fs::CWD, &node, FileType::CharacterDevice, Mode::from_raw_mode(0o666), number)
        .map_err(|e| failed("mknod", e))?;
    fs::set_permissions(&node, fs::Permissions::from_mode(0o666)).unwrap();
    mount_bind(&node, device).map_err(|e| failed("bind", e))?;
    rustix::mount::unmount(&devices, rustix::mount::UnmountFlags::DETACH).map_err(|e| failed("tmpfs", e))
}

/// Whether this is a mount point as this thread sees it.
fn mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    table.lines().any(|l| l.split(' ').nth(4) == path.to_str())
}

fn nobody() -> Option<(u32, u32)> {
    let table = fs::read_to_string("/etc/passwd").ok()?;
    let fields: Vec<&str> = table.lines().find(|l| l.starts_with("nobody:"))?.split(':').collect();
    Some((fields[2].parse().ok()?, fields[3].parse().ok()?))
}

/// SEMANTICS, Mount: "An ordinary user mounts through `fusermount3`; what is then not possible is said once, at the mount."
#[test]
fn an_ordinary_user_mounts_writes_flushes_and_unmounts() {
    let Some(user) = User::new("ordinary user") else { return };
    let said = user.mount(&["--name", "mine"]).stderr;
    let remote = user.path("home/.local/share/icecache/remote");
    assert!(said.contains(&format!("is kept in file://{} as mine", remote.display())), "{said}");
    assert_eq!(said.matches("ordinary user").count(), 1, "what is not possible is said once: {said}");

    user.shell(
        "echo text > file; mkdir -p a/b; ln -s ../file a/link; ln file a/hard; chmod 640 file; mkfifo pipe",
    )
    .must("writing");
    let status = user.status();
    assert_eq!(status["mode"], "classic", "{status}");
    assert!(status["mode_reason"].as_str().is_some_and(|r| r.contains("root")), "{status}");
    assert!(status["dirty_files"].as_u64().is_some_and(|n| n > 0), "{status}");
    let version = version_in(&user.verb("flush", &["--wait"]).must("flush").stdout);
    assert_eq!(user.status()["version"], version.as_str());
    assert_eq!(user.status()["dirty_files"], 0);
    if user.id.is_some() {
        assert!(fs::read_dir(user.work()).is_err(), "somebody else enters, root even");
        let socket = fs::symlink_metadata(
            Path::new(user.status()["state_dir"].as_str().unwrap()).join("control.sock"),
        );
        assert_eq!(socket.unwrap().mode() & 0o777, 0o600);
    }

    user.shell("echo later > later").must("writing");
    user.verb("unmount", &[]).must("unmount");
    assert!(!mounted(&user.work()));
    assert_eq!(fs::read_to_string(user.work().join("later")).unwrap(), "later\n");
    let tree = user.restored("mine", "tree");
    assert_eq!(fs::read_to_string(tree.join("a/hard")).unwrap(), "text\n");
    assert_eq!(fs::read_to_string(tree.join("later")).unwrap(), "later\n", "the final flush is missing");
    assert_eq!(fs::read_link(tree.join("a/link")).unwrap(), Path::new("../file"));
    let file = fs::metadata(tree.join("file")).unwrap();
    assert_eq!((file.mode() & 0o7777, file.nlink()), (0o640, 2));
}

/// SEMANTICS, Unmount: "`icecache unmount`, SIGTERM, SIGINT, `umount` and `fusermount3 -u` each end with a final flush."
#[test]
fn every_way_to_stop_saves_for_an_ordinary_user_too() {
    let Some(user) = User::new("ordinary user's stops") else { return };
    let work = user.work();
    for (what, number) in [("fusermount3 -u", 0), ("SIGTERM", 1), ("SIGKILL", 2)] {
        user.mount(&["--name", "stops"]);
        user.shell(&format!("echo {number} > file{number}")).must("writing");
        let pid = user.pid();
        match number {
            0 => drop(user.run("fusermount3", &["-u", work.to_str().unwrap()]).must(what)),
            1 => signal(pid, Signal::TERM),
            _ => signal(pid, Signal::KILL),
        }
        assert!(harness::command::wait_pid(pid, LIMIT), "{what}: the daemon does not end");
        if number == 2 {
            // The dead mount is taken away by the next mount, and what was unsaved is found.
            assert!(mounted(&work), "a killed daemon leaves its mount");
            user.mount(&["--name", "stops"]);
            user.verb("flush", &["--wait"]).must("flush");
            user.verb("unmount", &[]).must("unmount");
        }
        eventually("the mount is gone", LIMIT, || (!mounted(&work)).then_some(()));
        let tree = user.restored("stops", &number.to_string());
        assert_eq!(
            fs::read_to_string(tree.join(format!("file{number}"))).unwrap(),
            format!("{number}\n"),
            "{what}: not saved"
        );
    }
}

/// SEMANTICS, Versions in a mount: "Every call that would change something fails with EROFS"; "All of it is gone after the
/// unmount." An ordinary user's copy of a directory that its owner may not write is in nobody's way either.
#[test]
fn an_ordinary_user_shows_a_version() {
    let Some(user) = User::new("ordinary user's version") else { return };
    user.mount(&["--name", "shown"]);
    user.shell("mkdir -p shut/in; echo 1 > shut/in/file; chmod 500 shut/in shut").must("writing");
    user.verb("flush", &["--wait"]).must("flush");
    user.shell("chmod -R u+w shut; rm -r shut; echo 2 > file").must("writing");
    user.verb("unmount", &[]).must("unmount");
    let state = user.path("home/.local/state/icecache");
    let folders =
        || fs::read_dir(&state).unwrap().map(|e| e.unwrap().path().join("version")).collect::<Vec<_>>();

    user.mount(&["--name", "shown", "--version", "1"]);
    assert_eq!((&user.status()["version"], &user.status()["read_only"]), (&"1".into(), &true.into()));
    assert!(folders().iter().any(|folder| folder.exists()), "{:?}", folders());
    let said = user.shell("cat shut/in/file; touch new").stderr;
    assert!(said.contains("Read-only file system"), "{said}");
    assert_eq!(user.shell("ls; cat shut/in/file").must("reading").stdout, "shut\n1\n");
    user.verb("unmount", &[]).must("unmount");
    assert!(!folders().iter().any(|folder| folder.exists()), "{:?}", folders());
    assert_eq!(user.shell("ls; cat file").must("reading").stdout, "file\n2\n");
}

/// SEMANTICS, Mount: "With `--access owner` nobody else enters; with `--access all` owners and modes decide." Modes bind the
/// owner, too: access(2) had answered yes to everything.
#[test]
fn modes_hold_for_the_one_who_mounted_too() {
    let Some(user) = User::new("modes of one's own") else { return };
    user.mount(&["--name", "modes", "--access", "owner"]);
    let script = "echo kept > ro; chmod 444 ro; mkdir dir; echo x > dir/x; chmod 555 dir; echo y > exe
        if [ -w ro ]; then echo 'test -w says that a file of mode 0444 can be written'; exit 1; fi
        if [ -w dir ]; then echo 'test -w says that a directory of mode 0555 can be written'; exit 1; fi
        if [ -x exe ]; then echo 'test -x says that a file of mode 0644 can be executed'; exit 1; fi
        if (: > ro) 2>/dev/null; then echo 'a file of mode 0444 was emptied'; exit 1; fi
        if (rm -f dir/x) 2>/dev/null; then echo 'a name in a directory of mode 0555 was removed'; exit 1; fi
        [ -r ro ]; [ -w exe ]; chmod 755 exe; [ -x exe ]; chmod 644 ro; [ -w ro ]; chmod 444 ro; chmod 755 dir
        [ \"$(cat ro)\" = kept ]";
    user.shell(script).must("modes");
    user.verb("flush", &["--wait"]).must("flush");
    user.verb("unmount", &[]).must("unmount");
}

/// Runs a script in `dir` as somebody else, or as root.
fn as_user(id: Option<(u32, u32)>, dir: &Path, script: &str) -> String {
    let mut command = Command::new("sh");
    command.args(["-euc", script]).current_dir(dir);
    if let Some((uid, gid)) = id {
        command.uid(uid).gid(gid);
    }
    run(&mut command, LIMIT).must(script).stdout
}

/// SEMANTICS, Attributes: "Permission bits with set-user-id, set-group-id and sticky are kept". So are those that somebody
/// else than the one who mounted makes a file with.
#[test]
fn files_are_made_with_the_bits_that_were_asked_for() {
    use harness::{Lab, Mode, Setup};
    let Some((uid, gid)) = nobody().filter(|_| harness::is_root()) else {
        return skip("set-user-id bits of new files", "only root can have two users");
    };
    let script = "import os, stat
os.umask(0)
for dir in ('.', 'group'):
    for mode in (0o4755, 0o2755, 0o6777, 0o1644, 0o2644, 0o640):
        made = []
        os.close(os.open(f'{dir}/f', os.O_CREAT | os.O_WRONLY | os.O_EXCL, mode))
        os.mknod(f'{dir}/n', stat.S_IFREG | mode)
        os.mkfifo(f'{dir}/p', mode)
        os.mkdir(f'{dir}/d', mode)
        for name in 'fnpd':
            s = os.lstat(f'{dir}/{name}')
            made.append(f'{s.st_mode:o} {s.st_uid} {s.st_gid}')
            os.rename(f'{dir}/{name}', f'{dir}/{name}{mode:o}')
        print(dir, f'{mode:o}', made)";
    for mode in [Mode::Passthrough, Mode::Classic] {
        let lab = Lab::new(Setup::mode(mode).with(&["--access", "all"]));
        fs::set_permissions(lab.root(), PermissionsExt::from_mode(0o755)).unwrap();
        let native = lab.root().join("native");
        fs::create_dir(&native).unwrap();
        let answers = [&native, &lab.place()].map(|dir| {
            fs::set_permissions(dir, PermissionsExt::from_mode(0o777)).unwrap();
            let group = dir.join("group");
            fs::create_dir(&group).unwrap();
            chown(&group, Some(0), Some(gid)).unwrap();
            fs::set_permissions(&group, PermissionsExt::from_mode(0o2777)).unwrap();
            let mut command = Command::new("python3");
            command.args(["-c", script]).current_dir(dir).uid(uid).gid(gid);
            run(&mut command, LIMIT).must("making files").stdout
        });
        assert!(answers[0].contains("104755") && answers[0].contains("102755"), "{}", answers[0]);
        assert_eq!(answers[0], answers[1], "{mode:?}");
    }
}

/// SEMANTICS, Calls: "set-user-id and set-group-id are cleared by writes and by `chown` as on a local disk." What the kernel
/// writes for a mount it writes in the name of root, whose writes leave them.
#[test]
fn privileges_go_with_a_write_as_on_the_disk_beneath() {
    use harness::{Lab, Mode, Setup};
    let Some(nobody) = nobody().filter(|_| harness::is_root()) else {
        return skip("set-user-id bits", "only root can have two users");
    };
    let writes = [
        ("appending", "printf x >> $f"),
        ("emptying", ": > $f"),
        ("only opening", ": >> $f"),
        ("writing in the middle", "printf x | dd of=$f bs=1 seek=2 conv=notrunc 2>/dev/null"),
        ("allocating", "fallocate -l 9000 $f"),
        ("truncating", "truncate -s 3 $f"),
        ("copying over", "cp other $f"),
        (
            "a descriptor held",
            "exec 3>>$f; stat -c %a $f; printf x >&3; stat -c %a $f; printf y >&3; exec 3>&-",
        ),
        ("two descriptors", "exec 3>>$f; exec 4<$f; printf x >&3; cat <&4 >/dev/null; exec 3>&- 4<&-"),
        ("replacing", "cp other new; chmod 6755 new; printf x >> new; stat -c %a new; mv new $f"),
    ];
    for mode in [Mode::Passthrough, Mode::Classic] {
        let lab = Lab::new(Setup::mode(mode).with(&["--access", "all"]));
        fs::set_permissions(lab.root(), PermissionsExt::from_mode(0o755)).unwrap();
        let native = lab.root().join("native");
        fs::create_dir(&native).unwrap();
        let mut answers = Vec::new();
        for dir in [&native, &lab.place()] {
            fs::set_permissions(dir, PermissionsExt::from_mode(0o777)).unwrap();
            fs::write(dir.join("other"), "other content").unwrap();
            let mut said = Vec::new();
            for (who, id) in [("nobody", Some(nobody)), ("root", None)] {
                for bits in [0o4777, 0o2777, 0o6777, 0o777] {
                    for (what, script) in writes {
                        let file = dir.join("f");
                        fs::write(&file, "content").unwrap();
                        fs::set_permissions(&file, PermissionsExt::from_mode(bits)).unwrap();
                        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, bits); // cached from here on
                        let script = format!("f=f; stat -c %a $f >/dev/null; {script}; stat -c %a $f");
                        let modes = as_user(id, dir, &script);
                        let after = fs::metadata(&file).unwrap().mode() & 0o7777;
                        said.push(format!(
                            "{what}, {bits:o}, {who}: {} {after:o}",
                            modes.trim().replace('\n', " ")
                        ));
                        fs::remove_file(&file).unwrap();
                    }
                }
            }
            answers.push(said);
        }
        let differ: Vec<_> =
            answers[0].iter().zip(&answers[1]).filter(|(disk, mount)| disk != mount).collect();
        assert!(differ.is_empty(), "{mode:?}: disk and mount say: {differ:#?}");
        // It is open already, and by the kernel: then they go at the latest with the write.
        let file = lab.place().join("f");
        fs::write(&file, "content").unwrap();
        fs::set_permissions(&file, PermissionsExt::from_mode(0o4777)).unwrap();
        let reader = fs::File::open(&file).unwrap();
        as_user(Some(nobody), &lab.place(), "printf x >> f");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o777, "{mode:?}: with a reader");
        assert_eq!(std::io::read_to_string(reader).unwrap(), "contentx");
        lab.verb("flush", &["--wait"]).must("flush");
    }
}

/// Runs a script of Python as somebody in a plain directory and on mounts, and demands that it says the same; what it says.
fn on_the_disk_and_on_mounts(id: (u32, u32), script: &str, prepare: impl Fn(&Path)) -> String {
    use harness::{Lab, Mode, Setup};
    let mut said = Vec::new();
    for mode in [Mode::Passthrough, Mode::Classic] {
        let lab = Lab::new(Setup::mode(mode).with(&["--access", "all"]));
        fs::set_permissions(lab.root(), PermissionsExt::from_mode(0o755)).unwrap();
        let native = lab.root().join("native");
        fs::create_dir(&native).unwrap();
        for dir in [&native, &lab.place()] {
            fs::set_permissions(dir, PermissionsExt::from_mode(0o777)).unwrap();
            prepare(dir);
            let mut command = Command::new("python3");
            command.args(["-c", script]).current_dir(dir).uid(id.0).gid(id.1);
            said.push(run(&mut command, LIMIT).must("the script").stdout);
        }
        let [.., disk, mount] = &said[..] else { unreachable!() };
        assert_eq!(disk, mount, "{mode:?}");
    }
    said.swap_remove(0)
}

/// SEMANTICS, Calls: "Every call answers as the backing's own file system would". Who gives an ACL to a file whose group he is
/// not in loses its set-group-id bit; the daemon, who sets it for him, would not.
#[test]
fn set_group_id_goes_with_an_acl_as_on_the_disk_beneath() {
    let Some((uid, gid)) = nobody().filter(|_| harness::is_root()) else {
        return skip("ACLs and set-group-id bits", "only root can have two users");
    };
    let script = "import os, struct
def acl(*entries):
    return struct.pack('<I', 2) + b''.join(struct.pack('<HHI', *entry) for entry in entries)
NONE = 0xffffffff
FULL = acl((1, 7, NONE), (2, 4, 1000), (4, 5, NONE), (16, 5, NONE), (32, 5, NONE))
MODE = acl((1, 7, NONE), (4, 5, NONE), (32, 0, NONE))
for name in sorted(os.listdir('.')):
    before = os.stat(name).st_mode
    for what, attribute, value in (('user', 'user.x', b'y'), ('default', 'system.posix_acl_default', FULL),
                                   ('access', 'system.posix_acl_access', MODE if 'plain' in name else FULL)):
        try:
            os.setxattr(name, attribute, value)
            done = ''
        except OSError as error:
            done = error.strerror
        print(name, what, f'{before:o}', f'{os.stat(name).st_mode:o}', done)";
    let said = on_the_disk_and_on_mounts((uid, gid), script, |dir| {
        for (kind, group) in [("others", 2000), ("own", gid)] {
            for (mode, shape) in [(0o2755, "runs"), (0o6755, "both"), (0o2745, "locks"), (0o2755, "plain")] {
                let file = dir.join(format!("{kind}-{shape}-file"));
                fs::write(&file, "x").unwrap();
                let folder = dir.join(format!("{kind}-{shape}-folder"));
                fs::create_dir(&folder).unwrap();
                for path in [file, folder] {
                    chown(&path, Some(uid), Some(group)).unwrap();
                    fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
                }
            }
        }
    });
    assert!(said.contains("others-runs-file access 102755 100755 \n"), "{said}");
    assert!(said.contains("own-runs-file access 102755 102755 \n"), "{said}");
}

/// SEMANTICS, Calls: "set-user-id and set-group-id are cleared by writes and by `chown` as on a local disk." Also by one that
/// leaves owner and group.
#[test]
fn privileges_go_with_a_chown_that_leaves_the_owner() {
    let Some((uid, gid)) = nobody().filter(|_| harness::is_root()) else {
        return skip("set-user-id bits and chown", "only root can have two users");
    };
    let script = "import os
for name in sorted(os.listdir('.')):
    before = os.stat(name).st_mode
    if 'opened' in name:
        opened = os.open(name, os.O_RDONLY)
        os.chown(opened, -1, -1)
        os.close(opened)
    else:
        os.chown(name, -1, -1)
    print(name, f'{before:o}', f'{os.stat(name).st_mode:o}')
    # A change within one tick of the clock may not show.
    changed, tries = os.stat(name).st_ctime_ns, 0
    while os.stat(name).st_ctime_ns == changed and tries < 10000:
        os.chown(name, -1, -1)
        tries += 1
    print(name, 'changed' if tries < 10000 else 'never changed')";
    for id in [(uid, gid), (0, 0)] {
        let said = on_the_disk_and_on_mounts(id, script, |dir| {
            for mode in [0o4755, 0o2755, 0o6777, 0o4644, 0o755] {
                for name in ["named", "opened", "folder"] {
                    let path = dir.join(format!("{name}-{mode:o}"));
                    match name {
                        "folder" => fs::create_dir(&path).unwrap(),
                        _ => fs::write(&path, "x").unwrap(),
                    }
                    chown(&path, Some(uid), Some(gid)).unwrap();
                    fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
                }
            }
        });
        assert!(said.contains("named-6777 106777 100777\n"), "{said}");
    }
}

/// SEMANTICS, Calls: "set-user-id and set-group-id are cleared by writes and by `chown` as on a local disk." Also those that a
/// file gets while somebody has it open to write it.
#[test]
fn privileges_given_to_an_open_file_go_with_the_next_write() {
    let Some((uid, gid)) = nobody().filter(|_| harness::is_root()) else {
        return skip("set-user-id bits of open files", "only root can have two users");
    };
    let script = format!(
        "import os
for mode in (0o4777, 0o2777, 0o6777):
    for written in (False, True):
        with open('f', 'w') as file:
            file.write('content')
        os.chmod('f', 0o777)
        (said, say), (told, tell) = os.pipe(), os.pipe()
        if os.fork() == 0:
            os.setgroups([])
            os.setgid({gid})
            os.setuid({uid})
            opened = os.open('f', os.O_RDWR)
            if written:
                os.write(opened, b'x')
            os.write(say, b'.')
            os.read(told, 1)
            os.write(opened, b'y')
            os._exit(0)
        os.read(said, 1)
        os.chmod('f', mode)
        os.write(tell, b'.')
        os.wait()
        print(written, f'{{mode:o}}', f'{{os.stat(\"f\").st_mode:o}}')
        os.remove('f')"
    );
    let said = on_the_disk_and_on_mounts((0, 0), &script, |_| ());
    assert!(said.contains("True 6777 100777\n"), "{said}");
}

/// SEMANTICS, Restore: "A truncation that is refused changes nothing".
#[test]
fn an_ordinary_user_empties_nothing_that_he_may_not_write() {
    let Some(user) = User::new("ordinary user's refused truncation") else { return };
    user.mount(&["--name", "cold"]);
    user.shell("echo precious > closed; chmod 444 closed; echo open > open").must("writing");
    let version = version_in(&user.verb("flush", &["--wait"]).must("flush").stdout);
    user.verb("unmount", &[]).must("unmount");
    for name in ["closed", "open"] {
        fs::remove_file(user.work().join(name)).unwrap();
    }
    fs::remove_dir_all(user.path("home/.local/state/icecache")).unwrap();

    user.mount(&["--name", "cold", "--no-prefetch"]);
    assert_eq!(user.status()["absent_files"], 2);
    let refused = user.shell(": > closed");
    assert!(!refused.ok() && refused.stderr.contains("Permission denied"), "{}", refused.stderr);
    assert_eq!(user.shell("cat closed").must("reading").stdout, "precious\n");
    assert_eq!(version_in(&user.verb("flush", &["--wait"]).must("flush").stdout), version);
    user.shell(": > open").must("emptying");
    assert_eq!(user.shell("cat open").must("reading").stdout, "");
    let emptied = version_in(&user.verb("flush", &["--wait"]).must("flush").stdout);
    assert_ne!(emptied, version, "the emptied file is not saved");
    user.verb("unmount", &[]).must("unmount");
}

/// SEMANTICS, Attributes: "A restore by an ordinary user makes everything that user's, and what is not here yet he sees as his
/// as well. What he does not change is in the next versions whose it was."
#[test]
fn an_ordinary_user_uses_what_others_have_saved() {
    if !harness::is_root() {
        return skip("files of others", "only root can make them");
    }
    let mut lab = harness::Lab::new(harness::Setup::default());
    let files = [("secret", 0o600, 0), ("text", 0o644, 1001), ("shut", 0o600, 1001), ("left", 0o600, 1001)];
    for dir in ["", "d"] {
        fs::create_dir_all(lab.place().join(dir)).unwrap();
        for (name, mode, owner) in files {
            let file = lab.place().join(dir).join(name);
            fs::write(&file, format!("{name}\n")).unwrap();
            chown(&file, Some(owner), Some(owner)).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        }
    }
    chown(lab.place().join("d"), Some(1001), Some(1001)).unwrap();
    harness::Subject::flush(&mut lab);
    lab.unmount();
    let Some(user) = User::new("ordinary user's files of others") else { return };
    let Some((uid, gid)) = user.id else { return };
    run(Command::new("cp").arg("-r").arg(lab.remote_dir()).arg(user.path("home/remote")), LIMIT).must("cp");
    run(Command::new("chown").arg("-R").arg(format!("{uid}:{gid}")).arg(user.path("home/remote")), LIMIT)
        .must("chown");
    let remote = format!("file://{}", user.path("home/remote").display());
    user.mount(&["--remote", &remote, "--name", "work", "--no-prefetch"]);
    let owners =
        user.shell("find . -mindepth 1 -printf '%U:%G\n' | sort -u; stat -c %u:%g d/left").must("looking");
    assert_eq!(owners.stdout, format!("{uid}:{gid}\n{uid}:{gid}\n"));
    for dir in [".", "d"] {
        let script = format!(
            "cd {dir}; cat secret; echo more >> text; chmod 700 shut; [ -x shut ]; stat -c '%a %u:%g' shut; cat text"
        );
        let said = user.shell(&script).must("using what others have saved").stdout;
        assert_eq!(said, format!("secret\n700 {uid}:{gid}\ntext\nmore\n"), "{dir}");
    }
    assert_eq!(user.status()["absent_files"], 4, "what was read and written is here, and nothing else");
    user.verb("flush", &["--wait"]).must("flush");
    user.verb("unmount", &[]).must("unmount");

    let tree = user.path("tree");
    let mut restore = Command::new(BIN);
    restore.args(["restore", "--remote", &remote, "--name", "work", "--to"]).arg(&tree);
    run(restore.env("HOME", user.path("root")), LIMIT).must("restore");
    for dir in ["", "d"] {
        let of = |name: &str| {
            let found = fs::metadata(tree.join(dir).join(name)).unwrap();
            (found.mode() & 0o7777, found.uid(), found.gid())
        };
        assert_eq!(of("secret"), (0o600, 0, 0), "{dir}: read");
        assert_eq!(of("text"), (0o644, uid, gid), "{dir}: written");
        assert_eq!(of("shut"), (0o700, 1001, 1001), "{dir}: another mode, and never here");
        assert_eq!(of("left"), (0o600, 1001, 1001), "{dir}: never here");
    }
}

/// SEMANTICS, Restore: "device nodes without the right to make them are refused with the entry's name".
#[test]
fn an_ordinary_user_is_told_of_a_device_at_the_mount() {
    if !harness::is_root() {
        return skip("a device in a version", "only root can make one");
    }
    let mut lab = harness::Lab::new(harness::Setup::default());
    let place = lab.place();
    fs::create_dir(place.join("sub")).unwrap();
    use rustix::fs::{FileType, Mode, mknodat};
    let number = rustix::fs::makedev(1, 3);
    let mode = Mode::from_raw_mode(0o666);
    mknodat(rustix::fs::CWD, place.join("sub/null"), FileType::CharacterDevice, mode, number).unwrap();
    harness::Subject::flush(&mut lab);
    lab.unmount();
    let Some(user) = User::new("ordinary user's device") else { return };
    let Some((uid, gid)) = user.id else { return };
    run(Command::new("cp").arg("-r").arg(lab.remote_dir()).arg(user.path("home/remote")), LIMIT).must("cp");
    run(Command::new("chown").arg("-R").arg(format!("{uid}:{gid}")).arg(user.path("home/remote")), LIMIT)
        .must("chown");
    let (work, remote) = (user.work(), format!("file://{}", user.path("home/remote").display()));
    for restore in ["lazy", "eager"] {
        let args = ["mount", work.to_str().unwrap(), "--remote", &remote, "--name", "work"];
        let refused = user.icecache(&[&args[..], &["--restore", restore]].concat());
        assert_eq!(refused.code, 7, "{restore}: {}", refused.stderr);
        assert!(refused.stderr.contains("sub/null"), "{restore}: {}", refused.stderr);
        assert!(!mounted(&work), "{restore}: mounted without it");
    }
}

/// SEMANTICS, Restore: "A directory in which nothing was changed while another machine saved becomes the newer version". One
/// that its owner has made read-only, as Go does with what it fetches, is no obstacle.
#[test]
fn a_newer_version_comes_to_a_directory_that_is_read_only() {
    let Some(user) = User::new("read-only directories") else { return };
    let remote = format!("file://{}", user.path("home/remote").display());
    let mount = |place: &str, state: &str| {
        let (place, state) = (user.path(place).display().to_string(), user.path(state).display().to_string());
        let args = ["mount", &place, "--name", "closed", "--restore", "eager", "--remote", &remote];
        let more = ["--state-dir", &state, "--debounce", NEVER, "--max-delay", NEVER];
        user.icecache(&[&args[..], &more].concat()).must("mount");
    };
    let elsewhere = |script: &str| {
        mount("home/else", "home/second");
        let place = user.path("home/else").display().to_string();
        user.run("sh", &["-euc", &format!("cd '{place}'\n{script}")]).must("elsewhere");
        user.icecache(&["unmount", &place]).must("unmount");
    };
    mount("home/work", "home/first");
    user.shell("mkdir d; echo x > d/x; echo k > d/keep; chmod 555 d").must("writing");
    user.verb("unmount", &[]).must("unmount");
    elsewhere("chmod 755 d; rm d/x; echo y > d/y; chmod 555 d");
    mount("home/work", "home/first");
    assert_eq!(user.shell("ls d; cat d/y; stat -c %a d").must("looking").stdout, "keep\ny\ny\n555\n");
    let saved = user.verb("flush", &["--wait"]).must("flush");
    assert_eq!(version_in(&saved.stdout), "2", "what came is a change");
    user.verb("unmount", &[]).must("unmount");
}

/// SEMANTICS, Restore: "the next mount shows all of it". A directory that its owner has closed, with something in it that
/// is not here yet, had refused every mount but the first.
#[test]
fn a_closed_directory_with_something_absent_in_it_is_no_obstacle() {
    let Some(user) = User::new("closed directories") else { return };
    let remote = format!("file://{}", user.path("home/remote").display());
    let options = |state: &str| -> Vec<String> {
        let state = user.path(state).display().to_string();
        ["--name", "closed", "--no-prefetch", "--remote", &remote, "--state-dir", &state]
            .map(str::to_owned)
            .into()
    };
    let mount = |state: &str| {
        let options = options(state);
        user.mount(&options.iter().map(String::as_str).collect::<Vec<_>>())
    };
    mount("home/first");
    user.shell("mkdir -p closed/sub; echo x > closed/sub/file; echo y > open").must("writing");
    user.verb("flush", &["--wait"]).must("flush");
    user.shell("chmod 0 closed").must("closing");
    user.verb("unmount", &[]).must("unmount");
    user.shell("chmod 700 closed; rm -r closed open").must("removing beneath");
    for _ in 0..2 {
        mount("home/second");
        assert_eq!(user.shell("ls; stat -c %a closed").must("looking").stdout, "closed\nopen\n0\n");
        user.verb("unmount", &[]).must("unmount");
    }
    mount("home/second");
    assert_eq!(
        user.shell("cat open; chmod 700 closed; cat closed/sub/file").must("reading").stdout,
        "y\nx\n"
    );
    user.verb("unmount", &[]).must("unmount");
}
