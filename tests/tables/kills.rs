//! SIGKILL of the daemon in the middle of turning a table over. (That of the publisher at every moment: the crate's own
//! tests.)
use crate::harness::command::wait_pid;
use crate::harness::process::{is_ours, signal};
use crate::harness::{LIMIT, eventually, wait_for};
use crate::lake::{Lake, files};
use crate::support::s3server::Fault;
use crate::verbs::{commit, table_as_of};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// What stands there by the hint: the version, and the files of its data with the bytes of the store.
fn version(lake: &Lake) -> u64 {
    let table = lake.table("v1");
    let hint: u64 = fs::read_to_string(table.join("metadata/version-hint.text")).unwrap().parse().unwrap();
    let metadata = fs::read(table.join(format!("metadata/v{hint}.metadata.json"))).unwrap();
    let metadata: Value = serde_json::from_slice(&metadata).unwrap();
    for snapshot in metadata["snapshots"].as_array().unwrap() {
        let list = snapshot["manifest-list"].as_str().unwrap().strip_prefix("file://").unwrap();
        assert!(fs::metadata(list).unwrap().len() > 0, "{list}");
    }
    let data = table.join("data");
    for file in files(&data) {
        let key = format!("wh/db/v1/data/{}", file.strip_prefix(&data).unwrap().display());
        assert_eq!(&fs::read(&file).unwrap(), &lake.objects[&key], "{key}");
    }
    hint
}

/// The daemon is killed when it asks for the first thing that it needs for a new version, the second, and so on until
/// it needs no more. Whoever mounts again finds a version whole, and the new one at last.
#[test]
fn whoever_mounts_after_a_kill_finds_the_old_version_or_the_new_one() {
    for last in 1.. {
        let (lake, keys) = table_as_of("v1", 3, 4);
        lake.mount();
        assert_eq!(version(&lake), 3);
        let (pid, asked) = (lake.pid(), Arc::<AtomicU64>::default());
        assert!(is_ours(pid));
        let counted = asked.clone();
        lake.cloud.server.control().set_hook(move |request| {
            let of_table = request.key.starts_with("wh/db/v1/metadata/") && request.operation == "GetObject";
            if of_table && counted.fetch_add(1, SeqCst) + 1 == last {
                signal(pid, Signal::KILL);
                return Fault::CutBefore;
            }
            Fault::None
        });
        commit(&lake, &keys);
        let args = ["tables".as_ref(), "refresh".as_ref(), lake.dir.as_os_str()];
        let mut refresh = lake.cloud.lab.command(args);
        let mut refresh = refresh.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        assert!(wait_for(&mut refresh, LIMIT).is_some(), "it ends with its daemon");
        let killed = asked.load(SeqCst) >= last;
        lake.cloud.server.control().clear_hook();
        if !killed {
            assert_eq!(version(&lake), 4);
            assert!(last > 3, "it asked for {last} things");
            lake.unmount();
            return;
        }
        assert!(wait_pid(pid, LIMIT), "killed daemon does not end: {pid}");
        // The last of its threads may outlive its first; with it the kernel ends the mount.
        eventually("the mount dies with its daemon", LIMIT, || {
            rustix::fs::statfs(&lake.dir).is_err().then_some(())
        });
        lake.mount();
        assert!([3, 4].contains(&version(&lake)), "killed at request {last}");
        lake.tables("refresh", &[]).must("refresh");
        assert_eq!(version(&lake), 4, "killed at request {last}");
        lake.unmount();
    }
}
