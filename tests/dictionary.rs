//! Layers of a few small files, compressed with what such files have in common (`--dictionary`).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use harness::{Finished, KEPT, Lab, Setup, Subject, Tree, tool};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Enough to make a dictionary of, and too much for one layer to need it.
const FILES: u32 = 800;

/// What every one of the files says: what a layer of five of them without a dictionary has to say once.
/// How good a dictionary turns out to be varies with the times in its samples; this much of it is in any.
const COMMON: &str = "Whoever receives a copy of this package may read, change, build and pass it on, \
    provided that this paragraph stays with it; nobody promises that it is fit for some purpose, and nobody \
    answers for damage, lost profit or interrupted business that follows from having installed it, however \
    caused and under whatever theory, even if told beforehand. Bugs belong into the tracker, questions onto \
    the mailing list, vulnerabilities into an encrypted letter to the maintainers, who reply within a week. \
    Continuous integration runs lint, typecheck, unit, browser and fuzz stages; releases are tagged, signed, \
    mirrored and announced. Keywords: asynchronous, buffer, cache, directory, engine, filesystem, gzip, hash, \
    iterator, journal, kernel, layer, mount, network, object, parser, queue, registry, snapshot, transport, \
    unicode, validator, watcher, xattr, yield, zstandard. Requires node >= 18.17.0, npm ^10, python 3.11, \
    a C++20 compiler, libuv, openssl 3, zlib and 512 megabytes of memory.";

fn document(n: u32, state: &str) -> String {
    let (a, b) = (n.wrapping_mul(2_654_435_761), n.wrapping_mul(40_503));
    let lines: String = (0..14)
        .map(|line| {
            format!(
                "    \"entry-{line}\": {{ \"hash\": \"{:08x}\", \"size\": {} }},\n",
                a ^ line,
                b % 9973 + line
            )
        })
        .collect();
    format!(
        "{{\n  \"name\": \"package-{n}\",\n  \"state\": \"{state}\",\n  \"license\": \"{COMMON}\",\n  \
         \"repository\": \"https://example.org/package-{a:x}.git\",\n  \"files\": {{\n{lines}  }}\n}}\n"
    )
}

fn place(dir: &Path, n: u32) -> PathBuf {
    dir.join(format!("packages/{}/{n}.json", n % 40))
}

fn write(dir: &Path, n: u32, state: &str) {
    let file = place(dir, n);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, document(n, state)).unwrap();
}

/// A tree with one version of everything, and two of a few files of it.
fn lab(options: &[&str]) -> Lab {
    let mut lab = Lab::new(Setup::default().with(options));
    for n in 0..FILES {
        write(&lab.dir(), n, "new");
    }
    assert_eq!(lab.flush(), "1");
    for (version, state) in [("2", "changed"), ("3", "again")] {
        for n in 0..5 {
            write(&lab.dir(), n * 7, state);
        }
        assert_eq!(lab.flush(), version);
    }
    lab
}

fn head(lab: &Lab) -> Value {
    serde_json::from_slice(&fs::read(lab.head()).unwrap()).unwrap()
}

fn dictionaries(lab: &Lab) -> Vec<PathBuf> {
    let objects = lab.objects().into_iter().map(|(path, _)| path);
    objects.filter(|path| path.extension().is_some_and(|e| e == "dict")).collect()
}

fn layer(lab: &Lab, number: usize) -> PathBuf {
    lab.remote_dir().join(head(lab)["layers"][number]["key"].as_str().unwrap())
}

fn offline(lab: &Lab, verb: &str, options: &[&str]) -> Finished {
    let remote = lab.remote();
    let mut args = vec![verb, "--remote", &remote, "--name", "work"];
    args.extend(options);
    lab.call(args)
}

/// SEMANTICS, Layers: "With `--dictionary` a layer of few small files is compressed with a dictionary that was made of such files, an object beside
/// the layers; plain tar does not read these, an exported version is as ever."
#[test]
fn small_layers_become_smaller_and_are_read_by_everybody_who_has_it() {
    let (mut lab, plain) = (lab(&["--dictionary"]), lab(&[]));
    let [dictionary] = &dictionaries(&lab)[..] else { panic!("{:?}", lab.objects()) };
    assert!(
        dictionaries(&plain).is_empty() && !fs::read_to_string(plain.head()).unwrap().contains("dictionary")
    );
    let digest = blake3::hash(&fs::read(dictionary).unwrap()).to_hex().to_string();
    assert_eq!(dictionary.file_name().unwrap().to_str().unwrap(), format!("{digest}.dict"));
    let document = head(&lab);
    assert_eq!(document["dictionary"], digest.as_str());
    let needs = |n: usize| document["layers"][n]["dictionary"].clone();
    assert_eq!([needs(0), needs(1), needs(2)], [Value::Null, digest.as_str().into(), digest.as_str().into()]);
    for number in [1, 2] {
        let sizes = [&lab, &plain].map(|lab| layer(lab, number).metadata().unwrap().len());
        assert!(sizes[0] * 10 < sizes[1] * 9, "with and without: {sizes:?}");
    }

    // Plain tools: all of the first layer; the others with the dictionary.
    let (first, second) = (layer(&lab, 0), layer(&lab, 1));
    tool("tar", &["--zstd".as_ref(), "-tf".as_ref(), first.as_os_str()]);
    let unzstd = |with: &[&str]| {
        let done = Command::new("zstd").args(["-q", "-dc"]).args(with).arg(&second).output().unwrap();
        (done.status.success(), done.stdout)
    };
    assert!(!unzstd(&[]).0);
    let (read, tar) = unzstd(&["-D", dictionary.to_str().unwrap()]);
    assert!(read && String::from_utf8_lossy(&tar).contains("packages/7/7.json"));

    // Our own: every way to a version.
    let tree = Tree::take(&lab.dir(), KEPT);
    for options in [&[][..], &["--quick"], &["2"]] {
        offline(&lab, "verify", options).must("verify");
    }
    tree.assert_same(&Tree::take(&lab.restored(None), KEPT), "restored");
    let archive = lab.root().join("all.tar.zst");
    lab.archive(&archive);
    tool("tar", &["--zstd".as_ref(), "-tf".as_ref(), archive.as_os_str()]);
    for options in [&["--no-prefetch", "--dictionary"][..], &["--restore", "eager"], &[]] {
        lab.setup.options = options.iter().map(Into::into).collect();
        lab.elsewhere();
        tree.assert_same(&Tree::take(&lab.dir(), KEPT), &format!("elsewhere, {options:?}"));
    }

    // Whoever goes on goes on with the same one, on the same disk or another.
    lab.setup.options = vec!["--dictionary".into()];
    lab.remount();
    write(&lab.dir(), 3, "after a restart");
    lab.flush();
    lab.elsewhere();
    write(&lab.dir(), 4, "elsewhere");
    lab.flush();
    let document = head(&lab);
    assert_eq!(document["layers"][4]["dictionary"], digest.as_str(), "{document}");
    assert_eq!(document["layers"][3]["dictionary"], digest.as_str(), "{document}");
    assert_eq!(dictionaries(&lab).len(), 1);
    // And who does not want one any more writes ordinary layers, and still reads the others.
    lab.setup.options = Vec::new();
    lab.remount();
    write(&lab.dir(), 5, "plain");
    lab.flush();
    assert_eq!(head(&lab)["layers"][5]["dictionary"], Value::Null);
    let tree = Tree::take(&lab.dir(), KEPT);
    lab.elsewhere();
    tree.assert_same(&Tree::take(&lab.dir(), KEPT), "elsewhere");
}

/// SEMANTICS, Layers: "Who does not find it is told which one is missing; layers that do not need it are read all the same."
#[test]
fn a_dictionary_that_is_missing_or_damaged_is_named() {
    let mut lab = lab(&["--dictionary", "--no-prefetch"]);
    let [dictionary] = &dictionaries(&lab)[..] else { panic!("{:?}", lab.objects()) };
    let (good, key) = (fs::read(dictionary).unwrap(), dictionary.strip_prefix(lab.remote_dir()).unwrap());
    let key = key.to_str().unwrap();
    for what in ["missing", "damaged"] {
        match what {
            "missing" => fs::remove_file(dictionary).unwrap(),
            _ => fs::write(dictionary, [&good[..good.len() - 1], b"x"].concat()).unwrap(),
        }
        let found = offline(&lab, "verify", &[]);
        assert_eq!(found.code, 9, "{what}: {}", found.said());
        assert!(found.stdout.contains(key) && found.stdout.contains("2 of 3 layers"), "{}", found.said());
        let quick = offline(&lab, "verify", &["--quick"]);
        assert_eq!(quick.code, 9, "{what}: {}", quick.said());
        assert!(quick.stdout.contains(key) && quick.stdout.contains("2 of 3 layers"), "{}", quick.said());
        offline(&lab, "verify", &["1"]).must("verify of the version before");
        let to = lab.root().join(what);
        let refused = offline(&lab, "restore", &["--to", to.to_str().unwrap()]);
        assert_eq!(refused.code, 9, "{what}: {}", refused.said());
        assert!(refused.stderr.contains(key), "{what}: {}", refused.said());
        // Of a lazy restore it is what is in the other layers.
        lab.elsewhere();
        let read = |n: u32| fs::read_to_string(place(&lab.dir(), n));
        assert_eq!(read(1).unwrap(), document(1, "new"));
        assert_eq!(read(7).unwrap_err().raw_os_error(), Some(libc::EIO));
        let told = lab.status();
        assert!(told["lost_error"].as_str().is_some_and(|error| error.contains(key)), "{what}: {told}");
        let brought = lab.verb("hydrate", &[]);
        assert!(brought.code == 9 && brought.stderr.contains(key), "{what}: {}", brought.said());
        assert_eq!(lab.status()["lost_files"], lab.status()["absent_files"], "{what}");
        fs::write(dictionary, &good).unwrap();
        assert_eq!(read(7).unwrap(), document(7, "again"), "back again");
        lab.verb("hydrate", &[]).must("hydrate");
        assert!(lab.status()["lost_error"].is_null(), "{what}");
    }

    // A writer that cannot read it goes on without.
    fs::remove_file(dictionary).unwrap();
    lab.elsewhere();
    write(&lab.dir(), 8, "without");
    lab.flush();
    let layers = head(&lab)["layers"].clone();
    assert_eq!(layers[3]["dictionary"], Value::Null, "{layers}");
    assert!(lab.status()["last_error"].is_null());
}

/// SEMANTICS, Log: "A version has at most `--chain` layers". Layers with a dictionary are merged like others.
#[test]
fn layers_with_a_dictionary_are_merged() {
    let mut lab = lab(&["--dictionary", "--chain", "4"]);
    for round in 0..8 {
        for n in 0..4 {
            write(&lab.dir(), n * 11 + round, "later");
        }
        let sparse = fs::File::create(lab.dir().join("sparse")).unwrap();
        sparse.set_len(1 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 900_000 + u64::from(round)).unwrap();
        lab.flush();
    }
    let tree = Tree::take(&lab.dir(), KEPT);
    lab.unmount();
    assert!(head(&lab)["layers"].as_array().unwrap().len() <= 4);
    tree.assert_same(&Tree::take(&lab.restored(None), KEPT), "restored whole");
    offline(&lab, "verify", &[]).must("verify");
    lab.elsewhere();
    tree.assert_same(&Tree::take(&lab.dir(), KEPT), "restored lazily");
}
