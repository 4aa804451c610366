//! Damage: found, named, and told from what cannot be read.
use crate::{json, layers, offline, three_versions};
use serde_json::Value;
use std::fs;
use std::path::Path;

fn flip(layer: &Path, at: impl FnOnce(usize) -> usize) {
    let mut bytes = fs::read(layer).unwrap();
    let at = at(bytes.len());
    bytes[at] ^= 0x40;
    fs::write(layer, bytes).unwrap();
}

/// SEMANTICS, Verify: "`verify` ends with 0 only if every byte of every layer of the version is what was written"
#[test]
fn a_sound_version_is_called_sound() {
    let lab = three_versions();
    let before = lab.objects();
    for options in [&[][..], &["--quick"], &["2"], &["--quick", "1"]] {
        let done = offline(&lab, "verify", options).must("verify");
        assert!(done.stdout.contains("well") && done.stdout.lines().count() == 1, "{}", done.said());
        let done = offline(&lab, "verify", &[options, &["--json"]].concat()).must("verify --json");
        let report = json(&done);
        assert_eq!((&report["ok"], &report["tree"]), (&true.into(), &true.into()), "{report}");
        assert!(
            report["entries"].as_u64().unwrap() >= 4 && report["bytes"].as_u64().unwrap() > 0,
            "{report}"
        );
        assert_eq!(report["damaged"], Value::Array(Vec::new()));
    }
    let whole = json(&offline(&lab, "verify", &["--json"]));
    let layers: u64 = layers(&lab).iter().map(|layer| layer.metadata().unwrap().len()).sum();
    assert!(
        (layers..layers + 10_000).contains(&whole["bytes"].as_u64().unwrap()),
        "{whole}, layers: {layers}"
    );
    assert!(json(&offline(&lab, "verify", &["--quick", "--json"]))["bytes"].as_u64().unwrap() < 10_000);
    assert_eq!(lab.objects(), before, "verify wrote something");
}

/// SEMANTICS, Verify: "Damage is told with the key of its layer, and the exit code is 9."
#[test]
fn a_damaged_layer_is_named() {
    let lab = three_versions();
    let [first, second, _] = &layers(&lab)[..] else { panic!("not three layers") };
    let key = |layer: &Path| format!("layers/{}", layer.file_name().unwrap().to_str().unwrap());
    let good = fs::read(first).unwrap();

    // In the content: the quick look does not see it.
    flip(first, |length| length / 2);
    let found = offline(&lab, "verify", &[]);
    assert_eq!(found.code, 9, "{}", found.said());
    assert!(found.stdout.starts_with(&key(first)), "{}", found.said());
    assert!(found.stdout.contains("1 of 3 layers damaged"), "{}", found.said());
    let found = offline(&lab, "verify", &["--json"]);
    let report = json(&found);
    assert_eq!((found.code, &report["ok"], &report["tree"]), (9, &false.into(), &true.into()), "{report}");
    assert_eq!(report["damaged"][0]["layer"], key(first));
    assert_eq!((&report["damaged"][0]["version"], &report["version"]), (&"1".into(), &"3".into()));
    offline(&lab, "verify", &["--quick"]).must("a quick look");

    // In the table, and both at once; versions before the damage are sound.
    fs::write(first, &good).unwrap();
    flip(second, |length| length - 100);
    for options in [&[][..], &["--quick"]] {
        let found = offline(&lab, "verify", options);
        assert_eq!(found.code, 9, "{}", found.said());
        assert!(found.stdout.starts_with(&key(second)), "{}", found.said());
    }
    offline(&lab, "verify", &["1"]).must("the version before");
    fs::remove_file(first).unwrap();
    let found = offline(&lab, "verify", &[]);
    assert_eq!((found.code, found.stdout.lines().count()), (9, 3), "{}", found.said());
    assert!(found.stdout.contains("not there"), "{}", found.said());
}

/// SEMANTICS, Verify: "Damage is told with the key of its layer, and the exit code is 9." It is for other verbs, too.
#[test]
fn who_meets_damage_is_told_what_can_be_done() {
    let lab = three_versions();
    let to = lab.root().join("new/place");
    let restore =
        |options: &[&str]| offline(&lab, "restore", &[options, &["--to", to.to_str().unwrap()]].concat());
    // Nothing was wrong but the question: nothing is left of it.
    for (options, code) in [(&["7"][..], 5), (&["--at", "2d"], 5), (&["--at", "8w"], 5)] {
        let refused = restore(options);
        assert_eq!(refused.code, code, "{options:?}: {}", refused.said());
        assert!(!lab.root().join("new").exists(), "{options:?}: an empty directory stayed");
    }
    // A layer is gone: what is of another one may be there by then.
    let first = &layers(&lab)[0];
    let good = fs::read(first).unwrap();
    fs::remove_file(first).unwrap();
    let lost = restore(&[]);
    assert_eq!(lost.code, 9, "{}", lost.said());
    assert!(lost.stderr.contains("icecache verify"), "{}", lost.said());
    assert_eq!(lost.stderr.contains("incomplete, remove it"), to.exists(), "{}", lost.said());
    fs::write(first, good).unwrap();
    // It is damaged at its end: what is in it is there by then.
    flip(first, |length| length / 2);
    let torn = offline(&lab, "restore", &["1", "--to", lab.root().join("torn").to_str().unwrap()]);
    assert_eq!(torn.code, 9, "{}", torn.said());
    assert_eq!(
        torn.stderr.contains("incomplete, remove it"),
        lab.root().join("torn").exists(),
        "{}",
        torn.said()
    );
    // Without HEAD nothing can be listed.
    let head = fs::read_to_string(lab.head()).unwrap();
    for wrong in
        [head.replace("\"layers\"", "\"lawyers\""), head[..head.len() / 2].to_owned(), "{}".to_owned()]
    {
        fs::write(lab.head(), wrong).unwrap();
        let found = offline(&lab, "verify", &[]);
        assert_eq!(found.code, 9, "{}", found.said());
        assert!(
            found.stderr.contains("earlier HEAD") && !found.stderr.contains("icecache log"),
            "{}",
            found.said()
        );
    }
}

/// The advice is of the error that was made.
#[test]
fn advice_is_of_use() {
    let lab = three_versions();
    let full = offline(&lab, "restore", &["--to", lab.remote_dir().to_str().unwrap()]);
    assert!(full.code == 2 && full.stderr.contains("an empty directory"), "{}", full.said());
    let tag = offline(&lab, "tag", &["17"]);
    assert!(tag.code == 2 && !tag.stderr.contains("icecache config"), "{}", tag.said());
    let wrong = offline(&lab, "restore", &["--json"]);
    let error: Value =
        serde_json::from_str(&wrong.stderr).unwrap_or_else(|e| panic!("{e}: {}", wrong.said()));
    assert_eq!((wrong.code, &error["error"]["kind"]), (2, &"invalid".into()));
    assert!(error["error"]["message"].as_str().unwrap().contains("--to"), "{error}");
}

/// SEMANTICS, Verify: "a remote that cannot be read is no damage and has its own code"
#[test]
fn what_cannot_be_read_is_not_called_damaged() {
    let lab = three_versions();
    assert_eq!(offline(&lab, "verify", &["7"]).code, 5);
    let remote = lab.remote();
    let other = lab.call(["verify", "--remote", &remote, "--name", "other"]);
    assert_eq!(other.code, 5, "{}", other.said());
    let single = offline(&lab, "verify", &["--layout", "single"]);
    assert!(single.code == 1 && single.stderr.contains("zstd -t"), "{}", single.said());
}
