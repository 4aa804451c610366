//! What no version needs is deleted, and nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/cloud.rs"]
mod cloud;
mod harness;
mod support;

use cloud::Cloud;
use harness::{Finished, KEPT, LIMIT, Lab, Setup, Subject, Tree, eventually};
use s3s::S3ErrorCode;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use support::s3server::Fault;

/// Layers are merged soon, and what is merged is not kept for long.
const SHORT: &[&str] = &["--chain", "4", "--keep", "3"];
/// No grace: nobody else is there.
const AT_ONCE: &[&str] = &["--chain", "4", "--keep", "3", "--delete-after", "0h"];

/// A remote, whatever it is made of.
trait Remote {
    fn lab(&mut self) -> &mut Lab;
    fn get(&self, key: &str) -> Option<Vec<u8>>;
    fn keys(&self) -> Vec<String>;

    fn layers(&self) -> BTreeSet<String> {
        self.keys().into_iter().filter(|key| key.starts_with("layers/")).collect()
    }

    fn document(&self) -> Value {
        serde_json::from_slice(&self.get("work/HEAD").unwrap()).unwrap()
    }
}

impl Remote for Lab {
    fn lab(&mut self) -> &mut Lab {
        self
    }
    fn get(&self, key: &str) -> Option<Vec<u8>> {
        fs::read(self.remote_dir().join(key)).ok()
    }
    fn keys(&self) -> Vec<String> {
        let objects = Lab::objects(self).into_iter();
        let keys = objects
            .map(|(path, _)| path.strip_prefix(self.remote_dir()).unwrap().to_str().unwrap().to_owned());
        keys.filter(|key| !key.starts_with(".icecache")).collect()
    }
}

impl Remote for Cloud {
    fn lab(&mut self) -> &mut Lab {
        &mut self.lab
    }
    fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.server.object(&format!("prefix/{key}")).map(|bytes| bytes.to_vec())
    }
    fn keys(&self) -> Vec<String> {
        let keys = self.server.keys().into_iter();
        keys.filter_map(|key| Some(key.strip_prefix("prefix/")?.to_owned())).collect()
    }
}

/// The keys that a HEAD lists under these names.
fn listed(head: &Value, fields: &[&str]) -> BTreeSet<String> {
    let all = fields.iter().filter_map(|field| head[*field].as_array()).flatten();
    all.map(|layer| layer["key"].as_str().unwrap().to_owned()).collect()
}

/// Something new, something changed, something gone.
fn change(dir: &Path, round: u32) {
    fs::create_dir_all(dir.join("d")).unwrap();
    fs::write(dir.join(format!("d/new{round}")), round.to_string().repeat(500)).unwrap();
    fs::write(dir.join("d/same"), format!("round {round}")).unwrap();
    if let Some(old) = round.checked_sub(3) {
        let _gone = fs::remove_file(dir.join(format!("d/new{old}")));
    }
}

fn saved(lab: &mut Lab, round: u32) -> String {
    change(&lab.dir(), round);
    lab.flush()
}

fn offline(lab: &Lab, verb: &str, options: &[&str]) -> Finished {
    let remote = lab.remote();
    let mut args = vec![verb, "--remote", &remote, "--name", "work"];
    args.extend(lab.setup.remote_options.iter().map(String::as_str));
    args.extend(options);
    lab.call(args)
}

fn json(done: Finished) -> Value {
    serde_json::from_str(&done.must("--json").stdout).unwrap()
}

/// Flushes until nothing is left to delete: the remote has the layers that HEAD needs, and no other.
fn until_pruned(remote: &mut impl Remote) {
    let mut round = 1000;
    eventually("everything unneeded is deleted", LIMIT, || {
        round += 1;
        saved(remote.lab(), round);
        let head = remote.document();
        (listed(&head, &["unneeded"]).is_empty() && remote.layers() == listed(&head, &["layers", "held"]))
            .then_some(())
    });
}

/// Waits until HEAD lists every layer: one that has just been merged is there before it is listed.
fn until_all_are_listed(remote: &impl Remote) {
    eventually("every layer is there and listed", LIMIT, || {
        (remote.layers() == listed(&remote.document(), &["layers", "held", "unneeded"])).then_some(())
    });
}

/// SEMANTICS, Pruning: "Layers that no kept version has needed for `--delete-after` are deleted while the directory is used
/// and flushed as ever"
fn kept_versions_come_back(remote: &mut impl Remote) {
    remote.lab().setup = remote.lab().setup.clone().with(AT_ONCE);
    remote.lab().mount();
    let mut trees = BTreeMap::new();
    for round in 0..16 {
        let version = saved(remote.lab(), round);
        trees.insert(version, Tree::take(&remote.lab().dir(), KEPT));
        if round == 8 {
            // With absent files in layers that are merged. Not killed, which may leave a layer that nobody knows.
            remote.lab().unmount();
            remote.lab().wipe();
            remote.lab().mount();
        }
    }
    let named = trees.keys().map(|version| version.parse::<u64>().unwrap()).max().unwrap().to_string();
    offline(remote.lab(), "tag", &["good", &named]).must("tag");
    until_pruned(remote);
    let lab = remote.lab();
    let now = Tree::take(&lab.dir(), KEPT);
    lab.unmount(); // or it may let go what was just listed
    for line in json(offline(lab, "log", &["--json"])).as_array().unwrap() {
        let version = line["version"].as_str().unwrap();
        let restored = lab.restored(Some(version));
        if let Some(tree) = trees.get(version) {
            tree.assert_same(&Tree::take(&restored, KEPT), &format!("version {version}"));
        }
        fs::remove_dir_all(restored).unwrap();
        offline(lab, "verify", &[version]).must("verify");
    }
    trees[&named].assert_same(&Tree::take(&lab.restored(Some("good")), KEPT), "the tagged version");
    lab.elsewhere();
    now.assert_same(&Tree::take(&lab.dir(), KEPT), "restored lazily");
}

#[test]
fn kept_versions_come_back_from_a_directory() {
    kept_versions_come_back(&mut Lab::prepare(Setup::default()));
}

#[test]
fn kept_versions_come_back_from_s3() {
    kept_versions_come_back(&mut Cloud::prepare());
}

/// SEMANTICS, Pruning: "What the HEAD of any name in the remote lists stays"
#[test]
fn a_fork_keeps_its_layers() {
    let mut lab = Lab::new(Setup::default().with(AT_ONCE));
    saved(&mut lab, 0);
    let (place, state) = (lab.root().join("other"), lab.root().join("other-state"));
    fs::create_dir(&place).unwrap();
    lab.try_mount_at(&place, &state).must("mount");
    saved(&mut lab, 1);
    change(&place, 2);
    let flush = lab.call(["flush", place.to_str().unwrap(), "--wait"]).must("flush");
    let fork = json(lab.call(["status", place.to_str().unwrap(), "--json"]))["fork"].clone();
    let (fork, tree) = (
        fork.as_str().unwrap_or_else(|| panic!("no fork: {}", flush.said())).to_owned(),
        Tree::take(&place, KEPT),
    );
    lab.call(["unmount", place.to_str().unwrap()]).must("unmount");
    let shared =
        listed(&serde_json::from_slice(&lab.get(&format!("{fork}/HEAD")).unwrap()).unwrap(), &["layers"]);
    for round in 3..30 {
        saved(&mut lab, round);
    }
    let unneeded = |lab: &Lab| listed(&lab.document(), &["unneeded"]);
    // What only the fork needs stays listed, and there.
    let mut round = 30;
    eventually("only what the fork needs is left", LIMIT, || {
        round += 1;
        saved(&mut lab, round);
        let left = unneeded(&lab);
        (!left.is_empty() && left.is_subset(&shared)).then_some(())
    });
    let remote = lab.remote();
    let to = lab.root().join("fork");
    lab.call(["restore", "--remote", &remote, "--name", &fork, "--to", to.to_str().unwrap()]).must("restore");
    tree.assert_same(&Tree::take(&to, KEPT), "the fork");
    lab.call(["verify", "--remote", &remote, "--name", &fork]).must("verify");
}

/// SEMANTICS, Pruning: "a machine that shows an older version reads it to the end of that time"
#[test]
fn an_old_mount_reads_on_within_the_grace_time() {
    let mut lab = Lab::new(Setup::default().with(SHORT).with(&["--no-prefetch"]));
    saved(&mut lab, 0);
    saved(&mut lab, 1);
    let tree = Tree::take(&lab.dir(), KEPT);
    let (place, state) = (lab.root().join("other"), lab.root().join("other-state"));
    fs::create_dir(&place).unwrap();
    lab.try_mount_at(&place, &state).must("mount");
    for round in 2..20 {
        saved(&mut lab, round);
    }
    assert!(!listed(&lab.document(), &["unneeded"]).is_empty(), "nothing was let go");
    let kept = offline(&lab, "prune", &[]).must("prune");
    assert!(kept.stdout.lines().all(|line| line.starts_with("waits\t")), "{}", kept.said());
    tree.assert_same(&Tree::take(&place, KEPT), "shown by the other machine");
}

/// SEMANTICS, Pruning: "Who comes back later than that with changes is told so: nothing is overwritten, and after another mount
/// both are there."
#[test]
fn who_comes_back_too_late_is_told() {
    let mut lab = Lab::new(Setup::default().with(AT_ONCE));
    saved(&mut lab, 0);
    let (place, state) = (lab.root().join("other"), lab.root().join("other-state"));
    fs::create_dir(&place).unwrap();
    lab.try_mount_at(&place, &state).must("mount");
    lab.call(["hydrate", place.to_str().unwrap()]).must("hydrate");
    let (first, mut round) = (lab.layers(), 1000);
    eventually("the first layer is deleted", LIMIT, || {
        round += 1;
        saved(&mut lab, round);
        lab.layers().is_disjoint(&first).then_some(())
    });
    fs::write(place.join("mine"), "made there").unwrap();
    let late = lab.call(["flush", place.to_str().unwrap(), "--wait"]);
    assert_eq!(late.code, 8, "{}", late.said());
    assert!(late.stderr.contains("have been deleted since"), "{}", late.said());
    assert!(
        !fs::read_dir(lab.remote_dir()).unwrap().any(|e| e
            .unwrap()
            .file_name()
            .to_string_lossy()
            .contains("fork"))
    );
    let unsaved = lab.call(["unmount", place.to_str().unwrap()]);
    assert_eq!(unsaved.code, 3, "{}", unsaved.said());
    lab.unmount();
    lab.try_mount_at(&place, &state).must("mount again");
    assert_eq!(fs::read_to_string(place.join("mine")).unwrap(), "made there");
    assert!(fs::read_to_string(place.join("d/same")).unwrap().starts_with("round 10"), "the other's");
    lab.call(["flush", place.to_str().unwrap(), "--wait"]).must("flush");
    let tree = Tree::take(&place, KEPT);
    lab.call(["unmount", place.to_str().unwrap()]).must("unmount");
    tree.assert_same(&Tree::take(&lab.restored(None), KEPT), "saved");
}

/// SEMANTICS, Pruning: "a daemon that is killed in between deletes it once more"
#[test]
fn killed_between_the_objects_and_head() {
    let mut cloud = Cloud::prepare();
    cloud.lab.setup = cloud.lab.setup.clone().with(AT_ONCE);
    cloud.lab.mount();
    let (deleted, held_up) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (d, h) = (deleted.clone(), held_up.clone());
    cloud.server.control().set_hook(move |request| match request.operation {
        "DeleteObject" => {
            d.fetch_add(1, Ordering::SeqCst);
            Fault::None
        }
        "PutObject" if request.key.ends_with("/HEAD") && d.load(Ordering::SeqCst) > 0 => {
            h.fetch_add(1, Ordering::SeqCst);
            Fault::Delay(LIMIT * 60)
        }
        _ => Fault::None,
    });
    let mut round = 0;
    // Until one is deleted flushes end; the one after that need not.
    eventually("HEAD waits after a deletion", LIMIT, || {
        if deleted.load(Ordering::SeqCst) == 0 {
            round += 1;
            change(&cloud.lab.dir(), round);
            cloud.lab.verb("flush", &[]).must("flush");
        }
        (held_up.load(Ordering::SeqCst) > 0).then_some(())
    });
    cloud.lab.kill();
    cloud.server.control().clear_hook();
    let head = cloud.document();
    let gone: Vec<String> = listed(&head, &["unneeded"]).difference(&cloud.layers()).cloned().collect();
    assert!(!gone.is_empty(), "nothing is listed that is gone: {head}");
    assert!(listed(&head, &["layers", "held"]).is_subset(&cloud.layers()), "something needed is gone");
    offline(&cloud.lab, "verify", &[]).must("verify");
    cloud.lab.mount();
    let unneeded = listed(&head, &["unneeded"]);
    eventually("what was unneeded then is gone and listed no longer", LIMIT, || {
        round += 1;
        saved(&mut cloud.lab, round);
        let there = cloud.layers().into_iter().chain(listed(&cloud.document(), &["unneeded"]));
        there.collect::<BTreeSet<_>>().is_disjoint(&unneeded).then_some(())
    });
    cloud.lab.unmount(); // or it may let go what is being verified: there is no grace time
    offline(&cloud.lab, "verify", &[]).must("verify");
}

/// SEMANTICS, Pruning: "Where that is not permitted, or not possible, they stay and stay listed"; "`status` says why"
#[test]
fn what_may_not_be_deleted_stays_listed() {
    for operation in ["DeleteObject", "ListObjectsV2"] {
        let mut cloud = Cloud::prepare();
        cloud.lab.setup = cloud.lab.setup.clone().with(AT_ONCE);
        cloud.lab.mount();
        cloud.server.control().set_hook(move |request| {
            if request.operation == operation {
                Fault::FailBefore(S3ErrorCode::AccessDenied)
            } else {
                Fault::None
            }
        });
        for round in 0..10 {
            saved(&mut cloud.lab, round);
        }
        let status = cloud.lab.await_status("the refusal", |status| status["unneeded_error"].is_string());
        assert!(status["unneeded_error"].as_str().unwrap().contains("denied"), "{status}");
        assert!(
            status["unneeded_layers"].as_u64().unwrap() > 0 && status["last_error"].is_null(),
            "{status}"
        );
        for round in 10..20 {
            saved(&mut cloud.lab, round);
        }
        until_all_are_listed(&cloud);
        let layers = cloud.layers();
        let refused = offline(&cloud.lab, "prune", &["--older-than", "0h"]);
        assert_eq!(refused.code, 7, "{}", refused.said());
        if operation == "DeleteObject" {
            let asked = cloud.server.control().counts()[operation];
            assert!(asked <= 8, "{asked} times, where each is refused");
            assert!(refused.stdout.lines().all(|line| line.starts_with("left\t")), "{}", refused.said());
        }
        // The mount may still be merging: what comes meanwhile is another matter.
        assert!(layers.is_subset(&cloud.layers()), "{operation}");
        cloud.server.control().clear_hook();
        let unneeded = listed(&cloud.document(), &["unneeded"]);
        offline(&cloud.lab, "prune", &["--older-than", "0h"]).must("prune");
        assert!(!unneeded.is_empty() && unneeded.is_disjoint(&cloud.layers()), "{operation}");
        assert!(unneeded.is_disjoint(&listed(&cloud.document(), &["unneeded"])), "{operation}");
        until_all_are_listed(&cloud);
        // The mount goes on with the HEAD that was written meanwhile.
        saved(&mut cloud.lab, 20);
        assert!(cloud.lab.status()["fork"].is_null());
    }
}

/// SEMANTICS, Pruning: "one that cannot be read may list anything, and nothing is deleted"
#[test]
fn a_head_that_cannot_be_read_stops_it() {
    let mut lab = Lab::prepare(Setup::default().with(AT_ONCE));
    let other = lab.remote_dir().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("HEAD"), "{ half").unwrap();
    lab.mount();
    for round in 0..12 {
        saved(&mut lab, round);
    }
    let status = lab.await_status("the reason", |status| status["unneeded_error"].is_string());
    assert!(status["unneeded_error"].as_str().unwrap().contains("other/HEAD"), "{status}");
    let refused = offline(&lab, "prune", &["--older-than", "0h"]);
    assert!(!refused.ok() && refused.stderr.contains("other/HEAD"), "{}", refused.said());
    until_all_are_listed(&lab);
    fs::remove_file(other.join("HEAD")).unwrap();
    until_pruned(&mut lab);
}

/// SEMANTICS, Pruning: "`prune` does the same without a mount"; "`--dry-run` changes nothing"
#[test]
fn by_hand() {
    let mut lab = Lab::new(Setup::default());
    let mut trees = BTreeMap::new();
    for round in 0..6 {
        let version = saved(&mut lab, round);
        trees.insert(version, Tree::take(&lab.dir(), KEPT));
    }
    lab.unmount();
    let (head, layers) = (lab.get("work/HEAD"), lab.layers());
    let nothing = json(offline(&lab, "prune", &["--older-than", "0h", "--json"]));
    assert_eq!((&nothing["let_go"], &nothing["deleted"]), (&0.into(), &Value::Array(vec![])));
    // Layers that one version needs are part of it, so that only merged ones can go.
    lab.setup = Setup::default().with(&["--chain", "4"]);
    lab.mount();
    for round in 6..12 {
        let version = saved(&mut lab, round);
        trees.insert(version, Tree::take(&lab.dir(), KEPT));
    }
    lab.unmount();
    assert_ne!((lab.get("work/HEAD"), lab.layers()), (head, layers));
    let (head, layers) = (lab.get("work/HEAD"), lab.layers());
    let dry = json(offline(&lab, "prune", &["--keep", "2", "--older-than", "0h", "--dry-run", "--json"]));
    assert_eq!((lab.get("work/HEAD"), lab.layers()), (head, layers.clone()), "a dry run");
    let wanted = dry["deleted"].as_array().unwrap().len();
    assert!(wanted > 0, "{dry}");
    // Within the grace time only HEAD changes.
    let early = offline(&lab, "prune", &["--keep", "2"]).must("prune");
    assert_eq!(
        early.stdout.lines().filter(|line| line.starts_with("waits\t")).count(),
        wanted,
        "{}",
        early.said()
    );
    assert_eq!(lab.layers(), layers);
    let done = json(offline(&lab, "prune", &["--older-than", "0h", "--json"]));
    assert_eq!(done["deleted"].as_array().unwrap().len(), wanted);
    assert_eq!(lab.layers(), listed(&lab.document(), &["layers", "held"]));
    assert!(listed(&lab.document(), &["unneeded"]).is_empty());
    let log = json(offline(&lab, "log", &["--json"]));
    assert!(log.as_array().unwrap().len() >= 2, "{log}");
    for line in log.as_array().unwrap() {
        let version = line["version"].as_str().unwrap();
        trees[version].assert_same(&Tree::take(&lab.restored(Some(version)), KEPT), version);
    }
    lab.mount();
    saved(&mut lab, 12);
    assert!(lab.status()["fork"].is_null());
}

/// SEMANTICS, Pruning: "a mount that goes on meanwhile saves as ever"
#[test]
fn a_mount_goes_on_after_a_prune_by_hand() {
    let mut lab = Lab::new(Setup::default().with(&["--chain", "4"]));
    let noise = |from: u64, to: u64| -> Vec<u8> {
        (from..to).flat_map(|n| *blake3::hash(&n.to_le_bytes()).as_bytes()).collect()
    };
    let (large, larger) = (noise(0, 1 << 16), noise(1 << 16, 1 << 18)); // 2 and 6 MiB
    fs::write(lab.dir().join("large"), &large).unwrap();
    lab.flush();
    let first = lab.layers();
    fs::remove_file(lab.dir().join("large")).unwrap();
    fs::write(lab.dir().join("larger"), &larger).unwrap(); // a layer is merged with what is not smaller
    for round in 0..8 {
        saved(&mut lab, round);
    }
    eventually("the first layer is only held", LIMIT, || {
        first.is_subset(&listed(&lab.document(), &["held"])).then_some(())
    });
    offline(&lab, "prune", &["--keep", "1", "--older-than", "0h"]).must("prune");
    assert!(lab.layers().is_disjoint(&first), "the first layer is still there");
    // For all that the daemon knows it stands there, and need not be sent again.
    fs::write(lab.dir().join("again"), &large).unwrap();
    lab.flush();
    assert!(lab.status()["fork"].is_null());
    offline(&lab, "verify", &[]).must("verify");
    assert!(fs::read(lab.restored(None).join("again")).unwrap() == large);
}

/// SEMANTICS, Pruning: "With `--orphans` also layers and dictionaries that no name knows of, left by a crash, if they are at
/// least an hour old."
#[test]
fn orphans_are_found_by_hand() {
    let mut lab = Lab::new(Setup::default());
    saved(&mut lab, 0);
    lab.unmount();
    let layers = lab.layers();
    let dictionary = format!("layers/{}.dict", "ab".repeat(32));
    let names = ["layers/01234567-89ab-7def-8123-456789abcdef.tar.zst", &dictionary, "layers/notes.txt"];
    for name in names {
        fs::write(lab.remote_dir().join(name), "left behind").unwrap();
    }
    let prune = |lab: &Lab, options: &[&str]| {
        json(offline(lab, "prune", &[options, &["--json"]].concat()))["deleted"].as_array().unwrap().len()
    };
    assert_eq!(prune(&lab, &["--orphans", "--older-than", "0h"]), 0, "they may be on their way into a HEAD");
    for name in names.iter().copied().chain(layers.iter().map(String::as_str)) {
        let file = File::options().write(true).open(lab.remote_dir().join(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(2 * 3600)).unwrap();
    }
    assert_eq!(prune(&lab, &["--older-than", "0h"]), 0, "only when asked to");
    assert_eq!(prune(&lab, &["--orphans"]), 0, "not older than a day");
    assert_eq!(prune(&lab, &["--orphans", "--older-than", "0h"]), 2);
    let left: BTreeSet<String> = layers.iter().cloned().chain(["layers/notes.txt".to_owned()]).collect();
    assert_eq!(lab.layers(), left);
    offline(&lab, "verify", &[]).must("verify");
}

/// Every object but the HEADs, with its bytes.
fn archive(remote: &impl Remote) -> BTreeMap<String, Vec<u8>> {
    let objects = remote.keys().into_iter().filter(|key| !key.ends_with("/HEAD"));
    objects.map(|key| (key.clone(), remote.get(&key).unwrap())).collect()
}

/// SEMANTICS, Archive log: "With `--layout log` no object is ever deleted or replaced but HEAD"; "a mount in another layout is
/// refused, as is `prune`, and `prune --orphans` of any other name in the same remote."
fn nothing_is_ever_deleted(remote: &mut impl Remote) {
    remote.lab().setup = remote.lab().setup.clone().with(AT_ONCE);
    remote.lab().mount();
    saved(remote.lab(), 0); // a name of the other layout becomes one of this
    remote.lab().unmount();
    remote.lab().setup.options.extend(["--layout".into(), "log".into()]);
    remote.lab().mount();
    let mut before = archive(remote);
    let mut look = |remote: &mut dyn FnMut() -> BTreeMap<String, Vec<u8>>, what: &str| {
        let now = remote();
        for (key, bytes) in &before {
            assert!(now.get(key) == Some(bytes), "{what}: {key} is not what it was");
        }
        before = now;
    };
    for round in 1..16 {
        saved(remote.lab(), round);
        look(&mut || archive(remote), "a flush");
        if round % 6 == 5 {
            offline(remote.lab(), "tag", &["good"]).must("tag");
            look(&mut || archive(remote), "a tag");
            remote.lab().elsewhere();
            fs::read(remote.lab().dir().join("d/same")).unwrap();
            remote.lab().unmount(); // which saves what was learned, if anything is
            look(&mut || archive(remote), "another machine");
            remote.lab().mount();
        }
    }
    let head = remote.document();
    assert!(head["log"] == true && listed(&head, &["unneeded"]).is_empty(), "{head}");
    assert!(listed(&head, &["layers"]).len() <= 4 && remote.layers().len() > 16, "layers were merged");
    let lab = remote.lab();
    lab.unmount();
    let refused = offline(lab, "prune", &["--keep", "1", "--older-than", "0h"]);
    assert!(!refused.ok() && refused.stderr.contains("layout log"), "{}", refused.said());
    lab.setup.options.truncate(lab.setup.options.len() - 2);
    let other = lab.try_mount();
    assert!(!other.ok() && other.stderr.contains("--layout log"), "{}", other.said());
    lab.setup.name = "other".into();
    lab.wipe();
    lab.mount();
    saved(lab, 0);
    lab.unmount();
    let (url, mut args) = (lab.remote(), vec!["prune", "--orphans", "--name", "other", "--remote"]);
    args.push(&url);
    args.extend(lab.setup.remote_options.iter().map(String::as_str));
    let refused = lab.call(args);
    assert!(!refused.ok() && refused.stderr.contains("layout log"), "{}", refused.said());
    look(&mut || archive(remote), "what was refused");
}

#[test]
fn the_archive_log_keeps_everything_in_a_directory() {
    nothing_is_ever_deleted(&mut Lab::prepare(Setup::default()));
}

#[test]
fn the_archive_log_keeps_everything_in_s3() {
    nothing_is_ever_deleted(&mut Cloud::prepare());
}
