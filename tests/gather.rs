//! What is read first after every mount comes to stand side by side.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use harness::lab::NEVER;
use harness::{KEPT, Lab, Setup, Subject, Tree, tool};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

const FILES: u32 = 800;
const BYTES: u32 = 16 << 10;
/// Every so manieth is read.
const EVERY: u32 = 40;
/// A background that makes one step and then, for longer than any test, no second one.
const ONE_STEP: [&str; 2] = ["--prefetch-rate", "1"];

fn place(dir: &Path, n: u32) -> PathBuf {
    dir.join(format!("many/{:02}/{n:04}", n / 100))
}

fn content(n: u32) -> Vec<u8> {
    (0..BYTES).map(|at| ((at ^ n << 16).wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn hot() -> impl Iterator<Item = u32> {
    (0..FILES).step_by(EVERY as usize)
}

fn read_hot(dir: &Path) {
    for n in hot() {
        assert!(fs::read(place(dir, n)).unwrap() == content(n), "{n}");
    }
}

fn layers(lab: &Lab) -> Vec<Value> {
    let head: Value = serde_json::from_slice(&fs::read(lab.head()).unwrap()).unwrap();
    head["layers"].as_array().unwrap().clone()
}

/// A name with one version, that another machine has read from.
fn read_once() -> (Lab, Tree) {
    let mut lab = Lab::new(Setup::default().with(&ONE_STEP));
    for n in 0..FILES {
        let path = place(&lab.dir(), n);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content(n)).unwrap();
    }
    let tree = Tree::take(&lab.dir(), KEPT);
    lab.flush();
    lab.elsewhere();
    read_hot(&lab.dir());
    lab.unmount();
    (lab, tree)
}

/// SEMANTICS, Restore: "Small files that two mounts have read first are put side by side".
#[test]
fn what_two_mounts_have_read_first_comes_in_one_piece() {
    let (mut lab, tree) = read_once();
    // Until then they are in the way of each other: one step does not bring them.
    lab.elsewhere();
    lab.await_status("a first step", |status| status["absent_files"].as_u64().unwrap() < u64::from(FILES));
    assert!(lab.status_number("absent_files") > u64::from(FILES) - 100, "it brought more than a step");
    read_hot(&lab.dir());
    // A flush that is waited for carries what changed, and nothing else.
    fs::write(lab.dir().join("first"), "1").unwrap();
    assert_eq!(lab.flush(), "2");
    assert!(layers(&lab)[1]["raw_bytes"].as_u64().unwrap() < 64 << 10, "{:?}", layers(&lab)[1]);
    // The others have time. One file that is different by then goes as it is.
    lab.setup = lab.setup.clone().flushing("50ms", "200ms");
    lab.remount();
    fs::write(lab.dir().join("second"), "2").unwrap();
    lab.await_status("a flush after a warm start", |status| status["version"] == "3");
    assert!(layers(&lab)[2]["raw_bytes"].as_u64().unwrap() < 64 << 10, "nothing is learned of a warm start");
    lab.elsewhere();
    read_hot(&lab.dir());
    fs::write(place(&lab.dir(), EVERY), "another").unwrap();
    let version = lab
        .await_status("a flush with time", |status| status["dirty_files"] == 0 && status["version"] != "3");
    let gathered = layers(&lab)[3].clone();
    assert!(
        gathered["raw_bytes"].as_u64().unwrap() > u64::from(BYTES) * (hot().count() as u64 - 2),
        "{gathered} {version}"
    );
    assert!(gathered["changed"].as_u64().unwrap() <= 2, "they did not change: {gathered}");
    let object = lab.remote_dir().join(gathered["key"].as_str().unwrap());
    let listed = tool("tar", &["--zstd".as_ref(), "-tf".as_ref(), object.as_os_str()]).stdout;
    for n in hot() {
        let path = place(Path::new(""), n);
        assert!(listed.contains(path.to_str().unwrap()), "{n}: {listed}");
    }
    // Once a mount.
    fs::write(lab.dir().join("third"), "3").unwrap();
    lab.await_status("another", |status| status["dirty_files"] == 0 && status["version"] == "5");
    assert!(layers(&lab)[4]["raw_bytes"].as_u64().unwrap() < 64 << 10, "{:?}", layers(&lab)[4]);

    // The version is what it was, by every way to it.
    lab.setup = lab.setup.clone().flushing(NEVER, NEVER);
    let now = Tree::take(&lab.dir(), KEPT);
    let changed = format!("many/00/{EVERY:04}");
    let other = |line: &&String| line.contains("many/") && !line.contains(&changed);
    assert_eq!(tree.diff(&now).iter().filter(other).collect::<Vec<_>>(), Vec::<&String>::new());
    now.assert_same(&Tree::take(&lab.restored(None), KEPT), "restored");
    lab.call(["verify", "--remote", &lab.remote(), "--name", "work"]).must("verify");
    // And now one step brings all that is hot.
    lab.elsewhere();
    let left = u64::from(FILES) + 3 - hot().count() as u64;
    lab.await_status("all of it in one step", |status| status["absent_files"].as_u64().unwrap() <= left);
    assert!(lab.stats()["prefetched_bytes"].as_u64().unwrap() < 1 << 20, "{}", lab.stats());
    now.assert_same(&Tree::take(&lab.dir(), KEPT), "elsewhere");
}
