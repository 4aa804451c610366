//! However many versions there were, a chain of layers stays short, and every version that is kept comes back.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use harness::{Dice, KEPT, LIMIT, Lab, Mode, Setup, Subject, Tree, eventually, tool};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

fn document(lab: &Lab) -> Value {
    serde_json::from_slice(&fs::read(lab.head()).unwrap()).unwrap()
}

fn count(head: &Value, field: &str) -> usize {
    head[field].as_array().map_or(0, Vec::len)
}

fn bytes(dice: &mut Dice, length: usize) -> Vec<u8> {
    (0..length.div_ceil(8)).flat_map(|_| dice.next().to_le_bytes()).take(length).collect()
}

/// Something a program does.
fn change(dir: &Path, round: u64, dice: &mut Dice) {
    let (at, other) = (dir.join(format!("d{}", dice.below(4))), dir.join(format!("d{}", dice.below(4))));
    match dice.below(8) {
        0 => {
            let _moved = fs::rename(&at, dir.join(format!("moved{round}")));
        }
        1 => {
            let _gone = fs::remove_dir_all(&at);
        }
        2 => {
            let large =
                OpenOptions::new().write(true).create(true).truncate(false).open(dir.join("large")).unwrap();
            let at = dice.below(5 << 20);
            large.write_all_at(&bytes(dice, 3000), at).unwrap();
        }
        3 => {
            let _replaced = fs::remove_dir_all(&at);
            fs::write(&at, bytes(dice, 100)).unwrap();
        }
        4 => {
            let _same = fs::hard_link(dir.join("linked"), dir.join(format!("link{round}")));
        }
        _ => {
            if at.is_file() {
                fs::remove_file(&at).unwrap();
            }
            fs::create_dir_all(&at).unwrap();
            for n in 0..1 + dice.below(6) {
                let size = 1 << (4 + dice.below(14));
                fs::write(at.join(format!("f{n}")), bytes(dice, size as usize)).unwrap();
            }
            let _kept = fs::write(other.join("extra"), bytes(dice, 2000));
        }
    }
    fs::write(dir.join("linked"), bytes(dice, 900)).unwrap();
}

/// SEMANTICS, Log: "A version has at most `--chain` layers"; "each comes back as it was".
#[test]
fn chains_stay_short_and_kept_versions_come_back() {
    let mut dice = Dice::seeded("compaction");
    for mode in [Mode::Passthrough, Mode::Classic] {
        let mut lab = Lab::new(Setup::mode(mode).with(&["--chain", "5", "--keep", "9"]));
        fs::write(lab.dir().join("large"), bytes(&mut dice, 6 << 20)).unwrap();
        fs::write(lab.dir().join("linked"), "first").unwrap();
        let mut trees = BTreeMap::new();
        for round in 0..40 {
            change(&lab.dir(), round, &mut dice);
            let version: u64 = lab.flush().parse().unwrap();
            trees.insert(version, Tree::take(&lab.dir(), KEPT));
            if round == 20 {
                lab.elsewhere(); // with absent files in the chain that is merged
            }
        }
        lab.unmount(); // what is tidied up after the last flush is done then
        let head = document(&lab);
        assert!(count(&head, "layers") <= 5, "{mode:?}: {} layers", count(&head, "layers"));
        assert!(count(&head, "unneeded") > 0, "{mode:?}: nothing was let go");
        let remote = lab.remote();
        let named = ["--remote", &remote, "--name", &lab.setup.name];
        let log = lab.call([&["log"][..], &named, &["--json"]].concat()).must("log");
        let log: Value = serde_json::from_str(&log.stdout).unwrap();
        let versions: Vec<u64> =
            log.as_array().unwrap().iter().map(|v| v["version"].as_str().unwrap().parse().unwrap()).collect();
        let newest = *trees.keys().last().unwrap();
        for back in 0..9 {
            assert!(versions.contains(&(newest - back)), "{mode:?}: version {} is not kept", newest - back);
        }
        for version in versions {
            let restored = lab.restored(Some(&version.to_string()));
            trees[&version]
                .assert_same(&Tree::take(&restored, KEPT), &format!("{mode:?}, version {version}"));
            fs::remove_dir_all(restored).unwrap();
        }
        lab.call([&["verify"][..], &named].concat()).must("verify");
        lab.elsewhere();
        trees[&newest].assert_same(&Tree::take(&lab.dir(), KEPT), &format!("{mode:?}, restored lazily"));
    }
}

/// SEMANTICS, Log: "tagged ones always".
#[test]
fn a_tagged_version_outlives_the_others() {
    let mut dice = Dice::seeded("tags");
    let mut lab = Lab::new(Setup::default().with(&["--chain", "4", "--keep", "1"]));
    fs::write(lab.dir().join("linked"), "first").unwrap();
    lab.flush();
    change(&lab.dir(), 0, &mut dice);
    let version = lab.flush();
    let tree = Tree::take(&lab.dir(), KEPT);
    let remote = lab.remote();
    lab.call(["tag", "--remote", &remote, "--name", &lab.setup.name, "good", &version]).must("tag");
    for round in 1..20 {
        change(&lab.dir(), round, &mut dice);
        lab.flush();
    }
    tree.assert_same(&Tree::take(&lab.restored(Some("good")), KEPT), "the tagged version");
    // Of the others only those can be had that a layer ends with, which depends on the sizes of all.
    let ends: BTreeSet<u64> = document(&lab)["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| layer["version"].as_u64().unwrap())
        .collect();
    let others: Vec<u64> = (3..21).filter(|version| !ends.contains(version)).collect();
    assert!(others.len() >= 12, "{ends:?}");
    for version in [others[0].to_string(), others[others.len() - 1].to_string()] {
        let gone = ["restore", "--remote", &remote, "--name", &lab.setup.name, "--to", "nowhere", &version];
        let gone = lab.call(gone);
        assert!(!gone.ok(), "version {version} is not kept: {}", gone.said());
    }
}

/// SEMANTICS, Log: "Of what a restore reads at most some 20 % is of no use to it, as long as getting rid of more
/// costs no more than `--amplification` times what has changed".
#[test]
fn a_base_that_is_mostly_dead_goes_if_that_may_be_paid() {
    let mut dice = Dice::seeded("waste");
    for (amplification, goes) in [("4", true), ("1000", true), ("0", false)] {
        let with = ["--chain", "4", "--keep", "1", "--amplification", amplification];
        let mut lab = Lab::new(Setup::default().with(&with));
        for n in 0..200 {
            fs::write(lab.dir().join(format!("f{n}")), bytes(&mut dice, 50_000)).unwrap();
        }
        lab.flush();
        let base = document(&lab)["layers"][0].clone();
        for n in 40..200 {
            fs::remove_file(lab.dir().join(format!("f{n}"))).unwrap();
        }
        for round in 0..8 {
            fs::write(lab.dir().join(format!("new{round}")), bytes(&mut dice, 200_000)).unwrap();
            lab.flush();
        }
        let tree = Tree::take(&lab.dir(), KEPT);
        lab.unmount(); // what is tidied up after the last flush is done then

        let head = document(&lab);
        let keys = |field: &str| -> Vec<Value> {
            head[field].as_array().into_iter().flatten().map(|layer| layer["key"].clone()).collect()
        };
        let stays = keys("layers").contains(&base["key"]) || keys("held").contains(&base["key"]);
        assert_eq!(stays, !goes, "--amplification {amplification}: {head}");
        let sum: u64 = head["layers"].as_array().unwrap().iter().map(|l| l["bytes"].as_u64().unwrap()).sum();
        assert!(!goes || sum < 5_500_000, "--amplification {amplification}: {sum} bytes of 3,600,000");
        tree.assert_same(&Tree::take(&lab.restored(None), KEPT), "restored");
    }
}

/// The layers of the newest version, and the tags.
fn chain_and_tags(lab: &Lab) -> (usize, BTreeSet<String>) {
    let head = document(lab);
    let tags = head["tags"].as_object().into_iter().flatten().map(|(tag, _)| tag.clone());
    (count(&head, "layers"), tags.collect())
}

/// What a machine that has nothing yet gets.
fn third(lab: &Lab) -> Lab {
    Lab::new(Setup { remote: Some(lab.remote()), ..Setup::default() }.with(&["--restore", "eager"]))
}

/// SEMANTICS, Writers: "the versions of both are merged to as few layers as those of one". However many there were:
/// nobody is taken for another.
#[test]
fn the_chain_of_two_writers_stays_short() {
    for (keep, restore) in [("100", "lazy"), ("100", "eager"), ("2", "lazy"), ("2", "eager")] {
        let what = format!("--keep {keep}, {restore}");
        let options = ["--on-conflict", "merge", "--chain", "6", "--keep", keep, "--restore", restore];
        let first = Lab::new(Setup::default().with(&options));
        for name in ["shared/both", "shared/first", "shared/second"] {
            fs::create_dir_all(first.place().join("shared")).unwrap();
            fs::write(first.place().join(name), "base").unwrap();
        }
        first.verb("flush", &["--wait"]).must("flush");
        let second = Lab::new(Setup { remote: Some(first.remote()), ..Setup::default() }.with(&options));
        let mut union: BTreeMap<String, String> = BTreeMap::new();
        union.insert("shared/both".into(), "base".into());
        for round in 0..30 {
            for (lab, name) in [(&first, "first"), (&second, "second")] {
                let mut write = |path: String, text: String| {
                    fs::create_dir_all(lab.place().join(&path).parent().unwrap()).unwrap();
                    fs::write(lab.place().join(&path), &text).unwrap();
                    union.insert(path, text);
                };
                write(format!("shared/{name}"), format!("{name} {round}"));
                write(format!("{name}/{}/file", round % 4), format!("{round}"));
                write(format!("of both/{name} {}", round % 5), format!("{round}"));
                if round % 6 == 5 {
                    fs::remove_dir_all(lab.place().join(format!("{name}/2"))).unwrap();
                    union.remove(&format!("{name}/2/file"));
                }
                lab.verb("flush", &["--wait"]).must("flush");
                let (layers, tags) = chain_and_tags(&first);
                // Each of the two may be at it.
                assert!(layers <= 7, "{what}: {layers} layers after {round} rounds");
                assert_eq!(tags, BTreeSet::new(), "{what}, round {round}");
            }
        }
        assert_eq!(first.status()["fork"], Value::Null);
        assert_eq!(second.status()["fork"], Value::Null);
        eventually("the chain is short", LIMIT, || (chain_and_tags(&first).0 <= 6).then_some(()));
        let text = |lab: &Lab| {
            let (mut found, mut stack) = (BTreeMap::new(), vec![lab.place()]);
            while let Some(dir) = stack.pop() {
                for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
                    if path.is_dir() {
                        stack.push(path);
                    } else {
                        let name = path.strip_prefix(lab.place()).unwrap().to_str().unwrap().to_owned();
                        found.insert(name, fs::read_to_string(path).unwrap());
                    }
                }
            }
            found
        };
        assert_eq!(text(&third(&first)), union, "{what}");
        first.call(["verify", "--remote", &first.remote(), "--name", &first.setup.name]).must("verify");

        // Both change one file: it is as it is in the later version, and the tag has the other.
        for (lab, name) in [(&first, "first"), (&second, "second")] {
            fs::write(lab.place().join("shared/both"), name).unwrap();
            lab.verb("flush", &["--wait"]).must("flush");
        }
        let tags: Vec<String> = chain_and_tags(&first).1.into_iter().collect();
        let [tag] = &tags[..] else { panic!("{what}: not one tag: {tags:?}") };
        assert!(tag.starts_with("before-merge-"), "{tag}");
        let before = first.restored(Some(tag));
        assert_eq!(fs::read_to_string(before.join("shared/both")).unwrap(), "first", "{what}");
        union.insert("shared/both".into(), "second".into());
        assert_eq!(text(&third(&first)), union, "{what}");

        // Mounted again each has all of it, and nothing to save.
        for lab in [&first, &second] {
            lab.unmount();
            lab.mount();
            assert_eq!(text(lab), union, "{what}, mounted again");
            assert_eq!(lab.status()["dirty_files"], 0);
        }
    }
}

/// An archive lists what is in it in any order, and may have a file twice.
#[test]
fn what_was_imported_in_another_order_is_merged_as_well() {
    let mut lab = Lab::prepare(Setup::default().with(&["--chain", "4", "--keep", "2"]));
    let from = lab.root().join("from");
    for dir in ["z", "a", "m"] {
        fs::create_dir_all(from.join(dir)).unwrap();
        for n in 0..5 {
            fs::write(from.join(dir).join(n.to_string()), format!("{dir}{n}")).unwrap();
        }
    }
    fs::hard_link(from.join("z/1"), from.join("a/name")).unwrap();
    let archive = lab.root().join("archive.tar");
    let members =
        ["z", "z/4", "z/1", "m/3", "m", "z/0", "m/0", "a/name", "a", "a/2", "a/1", "z/2", "z/4", "z/1"];
    let mut args: Vec<&OsStr> = vec!["--no-recursion".as_ref(), "-C".as_ref(), from.as_os_str()];
    args.extend(["-cf".as_ref(), archive.as_os_str()]);
    args.extend(members.iter().map(AsRef::<OsStr>::as_ref));
    tool("tar", &args).must("tar");
    let remote = lab.remote();
    let file = archive.to_str().unwrap();
    lab.call(["import", file, "--remote", &remote, "--name", &lab.setup.name]).must("import");
    lab.mount();
    assert_eq!(fs::read_to_string(lab.dir().join("a/name")).unwrap(), "z1");
    for round in 0..9 {
        fs::write(lab.dir().join("m/3"), format!("{round}")).unwrap();
        fs::write(lab.dir().join(format!("new{round}")), "new").unwrap();
        lab.flush();
    }
    let tree = Tree::take(&lab.dir(), KEPT);
    lab.unmount();
    let head = document(&lab);
    assert!(count(&head, "layers") <= 4, "{} layers", count(&head, "layers"));
    assert!(head["layers"][0]["version"].as_u64() > Some(1), "the imported layer stays apart");
    tree.assert_same(&Tree::take(&lab.restored(None), KEPT), "restored");
    lab.call(["verify", "--remote", &remote, "--name", &lab.setup.name]).must("verify");
}
