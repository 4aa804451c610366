//! SIGKILL at every moment of publishing: before and after each call that changes the folder. The next process finds
//! the old version or the new one.
#![allow(clippy::unwrap_used, clippy::print_stderr)] // a test may panic

use super::tests::{Lake, follow};
use super::{HINT, Publication};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// How many moments this process has left to live; 0: all that come.
static LEFT: AtomicU64 = AtomicU64::new(0);

/// What the child is told: where the lake is, which table, into which folder, when it dies.
const TOLD: &str = "ICEBERG_TEST_KILL";

/// One more moment has passed.
pub(super) fn moment() {
    let last = |left: u64| left.checked_sub(1);
    if LEFT.fetch_update(SeqCst, SeqCst, last) == Ok(1) {
        let own = rustix::process::getpid();
        rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
        loop {
            std::thread::park(); // the signal comes
        }
    }
}

/// The newest version of a table and the one before it.
async fn both(lake: &Lake, name: &str, mount: &str) -> (Publication, Publication) {
    let versions = lake.versions(name);
    let [.., old, new] = &versions[..] else { panic!("{name} has two versions") };
    let before = lake.prepare(name, old.clone(), mount).await.unwrap();
    before.publish().await.unwrap();
    let after = lake.prepare(name, new.clone(), mount).await.unwrap();
    assert!(after.number() > before.number());
    (before, after)
}

/// The child: publishes the newest version, and dies on the way.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "what is killed, not a test"]
async fn role() {
    let told = std::env::var(TOLD).unwrap();
    let mut told = told.split('\n');
    let mut next = || told.next().unwrap().to_owned();
    let (lake, name, mount, left) = (Lake::unpacked(PathBuf::from(next())), next(), next(), next());
    let newest = lake.versions(&name).pop().unwrap();
    LEFT.store(left.parse().unwrap(), SeqCst);
    lake.prepare(&name, newest, &mount).await.unwrap().publish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_killed_anywhere_leaves_the_old_version_or_the_new_one() {
    let lake = Lake::new();
    for name in ["pos_file", "dv", "outside"] {
        let mut seen = [false; 2];
        for left in 1.. {
            let mount = format!("{name}-{left}");
            let (before, after) = both(&lake, name, &mount).await;
            let told = format!("{}\n{name}\n{mount}\n{left}", lake.dir.display());
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "publication::kills::role", "--ignored", "--quiet"])
                .env(TOLD, told)
                .output()
                .unwrap();
            let killed = child.status.signal() == Some(9);
            assert!(killed || child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));

            // Whoever looks now: by the hint, and by the number after it.
            let folder = &after.place().folder;
            let hint = || std::fs::read_to_string(folder.join("metadata").join(HINT)).unwrap();
            let current: u64 = hint().parse().unwrap();
            assert!([before.number(), after.number()].contains(&current), "{name}, moment {left}: {current}");
            seen[usize::from(current == after.number())] = true;
            for number in before.number()..=after.number() {
                let metadata = folder.join(format!("metadata/v{number}.metadata.json"));
                assert!(metadata.exists() || number > current, "{name}, moment {left}: {number}");
                if metadata.exists() {
                    let of = if number == before.number() { &before } else { &after };
                    assert!(follow(&lake, of.place(), &metadata, of.metadata().current_snapshot) > 0);
                }
            }

            // A restart goes on, and nothing half-written is left.
            let newest = lake.versions(name).pop().unwrap();
            let again = lake.prepare(name, newest, &mount).await.unwrap();
            assert_eq!(again.number(), after.number(), "{name}, moment {left}");
            again.publish().await.unwrap();
            assert_eq!(hint(), after.number().to_string());
            assert_eq!(std::fs::read_dir(folder.join(".aside")).unwrap().count(), 0);
            std::fs::remove_dir_all(lake.dir.join(&mount)).unwrap();
            if !killed {
                assert!(left > 10, "{name} has {left} moments");
                break;
            }
        }
        assert_eq!(seen, [true, true], "{name}: killed before the flip and after it");
    }
}
