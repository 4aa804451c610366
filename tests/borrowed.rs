//! Content that the remote has already is not sent again: files that changed a little, were moved, copied
//! or only touched.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use harness::{Dice, KEPT, Lab, Mode, Setup, Subject, Tree};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

const MIB: usize = 1 << 20;

fn noise(length: usize, rng: &mut Dice) -> Vec<u8> {
    (0..length.div_ceil(8)).flat_map(|_| rng.next().to_le_bytes()).take(length).collect()
}

/// Bytes of all layers.
fn sent(lab: &Lab) -> u64 {
    lab.objects().iter().filter(|(path, _)| path.to_string_lossy().contains("layers/")).map(|o| o.1).sum()
}

/// What a change of the mounted directory adds to the remote.
fn cost(lab: &mut Lab, change: impl FnOnce(&Path)) -> u64 {
    let before = sent(lab);
    change(&lab.dir());
    lab.flush();
    sent(lab) - before
}

/// The newest version is the tree, however it comes back, and nothing is wrong with it.
fn assert_comes_back(lab: &mut Lab, tree: &Tree, what: &str) {
    let remote = lab.remote();
    lab.call(["verify", "--remote", &remote, "--name", &lab.setup.name]).must("verify");
    tree.assert_same(&Tree::take(&lab.restored(None), KEPT), &format!("{what}, restored whole"));
    lab.elsewhere();
    tree.assert_same(&Tree::take(&lab.dir(), KEPT), &format!("{what}, restored lazily"));
}

/// SEMANTICS, Flush: "of a large file only the chunks of 64 KiB that changed".
#[test]
fn a_large_file_costs_what_changed() {
    let mut rng = Dice::seeded("a large file");
    for mode in [Mode::Passthrough, Mode::Classic] {
        let mut lab = Lab::new(Setup::mode(mode));
        let bytes = noise(24 * MIB, &mut rng);
        fs::write(lab.dir().join("large"), &bytes).unwrap();
        fs::write(lab.dir().join("small"), "beside").unwrap();
        lab.flush();
        for round in 0..4 {
            let added = cost(&mut lab, |dir| {
                let file = OpenOptions::new().write(true).open(dir.join("large")).unwrap();
                file.write_all_at(&noise(100, &mut rng), rng.below(24 * MIB as u64 - 100)).unwrap();
                if round == 2 {
                    file.set_len(20 * MIB as u64 + 5).unwrap();
                }
            });
            assert!(added < 300 << 10, "{mode:?}, round {round}: {added} bytes for a small change");
        }
        let tree = Tree::take(&lab.dir(), KEPT);
        assert_comes_back(&mut lab, &tree, "changed");
        // Elsewhere nothing was ever packed, but what came was seen.
        let added = cost(&mut lab, |dir| {
            let file = OpenOptions::new().write(true).open(dir.join("large")).unwrap();
            file.write_all_at(b"new", 7 * MIB as u64).unwrap();
        });
        assert!(added < 300 << 10, "{mode:?}: {added} bytes for the first change on another machine");
        let tree = Tree::take(&lab.dir(), KEPT);
        assert_comes_back(&mut lab, &tree, "changed elsewhere");
    }
}

/// SEMANTICS, Flush: "of a large file only the chunks of 64 KiB that changed". Also where all of it was restored at the
/// start, and what came then had been put together out of several layers; and where only what was newer came.
#[test]
fn a_large_file_that_was_restored_at_the_start_costs_what_changed() {
    let mut rng = Dice::seeded("restored at the start");
    let mut lab = Lab::new(Setup::default().with(&["--restore", "eager"]));
    for name in ["large", "sparse"] {
        fs::write(lab.dir().join(name), noise(32 * MIB, &mut rng)).unwrap();
    }
    let write = |dir: &Path, name: &str, bytes: &[u8], at: usize| {
        let file = OpenOptions::new().write(true).open(dir.join(name)).unwrap();
        file.write_all_at(bytes, at as u64).unwrap();
    };
    let sparse = OpenOptions::new().write(true).open(lab.dir().join("sparse")).unwrap();
    sparse.set_len(8 * MIB as u64).unwrap();
    sparse.set_len(30 * MIB as u64).unwrap();
    sparse.write_all_at(&noise(5 * MIB, &mut rng), 20 * MIB as u64).unwrap();
    drop(sparse);
    lab.flush();
    for round in 0..3 {
        for name in ["large", "sparse"] {
            write(&lab.dir(), name, &noise(100_000, &mut rng), (round + 1) * MIB);
        }
        lab.flush();
    }
    lab.elsewhere();
    for (name, at) in [("large", 5 * MIB), ("large", 2 * MIB + 7), ("sparse", 22 * MIB), ("sparse", MIB)] {
        let added = cost(&mut lab, |dir| write(dir, name, &noise(4096, &mut rng), at));
        assert!(added < 300 << 10, "{added} bytes for a small change of {name} at {at}");
    }
    let tree = Tree::take(&lab.dir(), KEPT);
    assert_comes_back(&mut lab, &tree, "changed after a restore");

    // Another machine was first: what it made comes at the start, to where the rest is already.
    lab.turn_to(7);
    let newer = noise(12 * MIB, &mut rng);
    fs::write(lab.dir().join("newer"), &newer).unwrap();
    write(&lab.dir(), "large", &newer[..3 * MIB], 9 * MIB);
    lab.flush();
    lab.turn_to(2);
    for (name, at) in [("newer", 5 * MIB), ("large", 10 * MIB), ("large", 20 * MIB)] {
        let added = cost(&mut lab, |dir| write(dir, name, &noise(4096, &mut rng), at));
        assert!(added < 300 << 10, "{added} bytes for a small change of {name} at {at} after catching up");
    }
    let tree = Tree::take(&lab.dir(), KEPT);
    assert_comes_back(&mut lab, &tree, "changed after catching up");
}

/// SEMANTICS, Flush: "of what was moved, copied or touched nothing".
#[test]
fn what_is_moved_copied_or_touched_is_not_sent_again() {
    let mut rng = Dice::seeded("moves");
    let mut lab = Lab::new(Setup::default());
    fs::create_dir_all(lab.dir().join("tree/deep")).unwrap();
    let mut total = 0;
    for n in 0..150 {
        let bytes = noise(2000 + 400 * n, &mut rng);
        total += bytes.len() as u64;
        fs::write(lab.dir().join(format!("tree/{}{n}", if n % 3 == 0 { "deep/" } else { "" })), bytes)
            .unwrap();
    }
    lab.flush();
    let run = |program: &str, args: &[&str], dir: &Path| {
        assert!(
            Command::new(program).args(args).current_dir(dir).status().unwrap().success(),
            "{program} {args:?}"
        );
    };
    let moved = cost(&mut lab, |dir| fs::rename(dir.join("tree"), dir.join("moved")).unwrap());
    let copied = cost(&mut lab, |dir| run("cp", &["-a", "moved", "copy"], dir));
    let touched =
        cost(&mut lab, |dir| run("find", &["copy", "-type", "f", "-exec", "touch", "{}", "+"], dir));
    let rewritten = cost(&mut lab, |dir| run("cp", &["--remove-destination", "moved/1", "copy/2"], dir));
    for (what, added) in
        [("moved", moved), ("copied", copied), ("touched", touched), ("rewritten", rewritten)]
    {
        assert!(added < total / 20, "{what}: {added} bytes sent for {total} that were there");
    }
    // Twins that are new are sent once.
    let twins = noise(5 * MIB, &mut rng);
    let added = cost(&mut lab, |dir| {
        fs::write(dir.join("twin"), &twins).unwrap();
        fs::write(dir.join("twin too"), &twins).unwrap();
    });
    assert!(added < 6 * MIB as u64, "{added} bytes for twins of 5 MiB");
    let tree = Tree::take(&lab.dir(), KEPT);
    assert_comes_back(&mut lab, &tree, "moved");
}

#[test]
fn holes_stay_holes_among_what_is_referred_to() {
    let mut rng = Dice::seeded("holes");
    let mut lab = Lab::new(Setup::default());
    let file = File::create(lab.dir().join("sparse")).unwrap();
    for n in 0..6 {
        file.write_all_at(&noise(256 << 10, &mut rng), n * (8 << 20)).unwrap();
    }
    file.set_len(64 << 20).unwrap();
    lab.flush();
    file.write_all_at(&noise(10, &mut rng), (8 << 20) + 70_000).unwrap();
    file.write_all_at(&noise(1 << 20, &mut rng), 60 << 20).unwrap();
    drop(file);
    lab.flush();
    let before = fs::metadata(lab.dir().join("sparse")).unwrap().blocks();
    let tree = Tree::take(&lab.dir(), KEPT);
    assert_comes_back(&mut lab, &tree, "sparse");
    let after = fs::metadata(lab.dir().join("sparse")).unwrap().blocks();
    assert!(after <= before + 64, "{before} blocks became {after}");
}

/// SEMANTICS, Flush: "A first version refers to nothing, so that plain tar unpacks its layer whole."
#[test]
fn a_first_layer_needs_no_other() {
    let mut rng = Dice::seeded("first");
    let mut lab = Lab::new(Setup::default());
    let twins = noise(MIB, &mut rng);
    fs::write(lab.dir().join("twin"), &twins).unwrap();
    fs::write(lab.dir().join("twin too"), &twins).unwrap();
    lab.flush();
    let layers: Vec<_> =
        lab.objects().into_iter().filter(|(path, _)| path.to_string_lossy().ends_with(".tar.zst")).collect();
    let [(layer, _)] = &layers[..] else { panic!("{layers:?}") };
    let to = lab.root().join("plain");
    fs::create_dir(&to).unwrap();
    let tar = Command::new("tar").arg("--zstd").arg("-xf").arg(layer).arg("-C").arg(&to).status().unwrap();
    assert!(tar.success());
    assert!(fs::read(to.join("twin")).unwrap() == twins && fs::read(to.join("twin too")).unwrap() == twins);
}
