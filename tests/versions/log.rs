//! What there was, when, and by which names.
use crate::harness::{Lab, Subject};
use crate::{json, layers, offline, three_versions};
use serde_json::Value;
use std::fs;

/// SEMANTICS, Log: "`restore --at` takes the newest version whose time is not after the one given"
#[test]
fn a_version_is_found_by_its_time() {
    let lab = three_versions();
    let log = json(&offline(&lab, "log", &["--json"]));
    let time = |version: usize| log[3 - version]["time"].as_str().unwrap().to_owned();
    let mut restores = 0;
    let mut at = |time: &str| {
        restores += 1;
        let to = lab.root().join(format!("at{restores}"));
        let done = offline(&lab, "restore", &["--to", to.to_str().unwrap(), "--at", time]);
        (done, to)
    };
    for (when, text) in [(time(1), "1"), (time(2), "2"), (time(3), "3"), ("0s".to_owned(), "3")] {
        let (done, to) = at(&when);
        let done = done.must("restore --at");
        assert_eq!(fs::read_to_string(to.join("f")).unwrap(), text, "{when}");
        assert_eq!(done.stdout.trim(), text, "{}", done.said());
    }
    let (early, _) = at("1h");
    assert_eq!(early.code, 5, "{}", early.said());
    assert!(early.stderr.contains("the oldest is version 1 of"), "{}", early.said());
    assert!(early.stderr.contains(&time(1)), "{}", early.said());
}

/// SEMANTICS, Log: "`log` tells of each version when and by whom it was written, its bytes, and how many paths it set and
/// removed."
#[test]
fn the_log_says_what_each_version_did() {
    let lab = three_versions();
    let writer = {
        let head: Value = serde_json::from_slice(&fs::read(lab.head()).unwrap()).unwrap();
        head["writer"].as_str().unwrap().to_owned()
    };
    let sizes: Vec<u64> = layers(&lab).iter().map(|layer| layer.metadata().unwrap().len()).collect();
    let mounted = json(&lab.verb("log", &["--json"]).must("log"));
    let remote = json(&offline(&lab, "log", &["--json"]).must("log"));
    assert_eq!(mounted, remote);
    let lines = mounted.as_array().unwrap();
    assert_eq!(lines.len(), 3);
    for (line, version) in lines.iter().rev().zip(1u64..) {
        assert_eq!(line["version"], version.to_string());
        assert_eq!(line["writer"], writer.as_str());
        assert_eq!(line["bytes"], sizes[version as usize - 1]);
        assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
        assert!(line["changed"].as_u64().unwrap() >= 1, "{line}");
        assert_eq!(line["removed"], u64::from(version == 2), "{line}");
    }
    let table = lab.verb("log", &[]).must("log").stdout;
    let head: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(head[..7], ["VERSION", "TIME", "WRITER", "ENTRIES", "CHANGED", "REMOVED", "SIZE"]);
    assert!(table.lines().nth(2).unwrap().contains(&writer), "{table}");
}

/// SEMANTICS, Log: "A tag names a version until it is moved or deleted, whatever versions are made meanwhile; `restore` and
/// `verify` take it like a number, and `log` shows it"
#[test]
fn a_tag_names_its_version_until_it_is_moved_or_deleted() {
    let mut lab = three_versions();
    let done = offline(&lab, "tag", &["release-1.0", "2", "--json"]).must("tag");
    assert_eq!(done.stdout, "{\"tag\":\"release-1.0\",\"version\":2,\"before\":null}\n");
    fs::write(lab.dir().join("f"), "4").unwrap();
    assert_eq!(lab.flush(), "4");
    assert_eq!(fs::read_to_string(lab.restored(Some("release-1.0")).join("f")).unwrap(), "2");
    let verified = json(&offline(&lab, "verify", &["release-1.0", "--json"]).must("verify"));
    assert_eq!(verified["version"], "2");
    let shown = |lab: &Lab| -> Vec<(String, String)> {
        let log = json(&offline(lab, "log", &["--json"]).must("log"));
        let mut tags = Vec::new();
        for line in log.as_array().unwrap() {
            let version = line["version"].as_str().unwrap();
            let names = line["tags"].as_array().unwrap().iter().map(|t| t.as_str().unwrap());
            tags.extend(names.map(|tag| (version.to_owned(), tag.to_owned())));
        }
        tags
    };
    let tagged = |version: &str, tag: &str| (version.to_owned(), tag.to_owned());
    assert_eq!(shown(&lab), [tagged("2", "release-1.0")]);
    assert!(offline(&lab, "log", &[]).stdout.contains("release-1.0"));

    let moved = offline(&lab, "tag", &["release-1.0"]).must("tag the newest");
    assert!(moved.stdout.trim() == "4" && moved.stderr.contains("before it was 2"), "{}", moved.said());
    offline(&lab, "tag", &["copy", "release-1.0"]).must("tag by a tag");
    let objects = lab.objects();
    offline(&lab, "tag", &["copy", "4"]).must("tag as it is");
    assert_eq!(lab.objects(), objects, "what is so already was written");
    assert_eq!(shown(&lab), [tagged("4", "copy"), tagged("4", "release-1.0")]);
    offline(&lab, "tag", &["release-1.0", "--delete"]).must("delete");
    assert_eq!(shown(&lab), [tagged("4", "copy")]);

    assert_eq!(offline(&lab, "tag", &["release-1.0", "--delete"]).code, 5);
    assert_eq!(offline(&lab, "tag", &["other", "9"]).code, 5);
    assert_eq!(offline(&lab, "verify", &["release-1.0"]).code, 5);
    for wrong in ["17", "a b", "a/b", ""] {
        assert_eq!(offline(&lab, "tag", &[wrong]).code, 2, "{wrong:?}");
    }
}

/// SEMANTICS, Log: "Setting a tag is not another writer: a mount whose newest version was tagged goes on as before, and its
/// next version keeps the tag."
#[test]
fn a_mount_goes_on_after_its_version_was_tagged() {
    let mut lab = three_versions();
    offline(&lab, "tag", &["while-mounted"]).must("tag");
    fs::write(lab.dir().join("f"), "4").unwrap();
    assert_eq!(lab.flush(), "4");
    assert_eq!(lab.status()["fork"], Value::Null);
    let log = json(&lab.verb("log", &["--json"]).must("log"));
    assert_eq!(log[1]["tags"], serde_json::json!(["while-mounted"]), "{log}");

    // Between two daemons, the second of which has unsaved changes to find.
    lab.unmount();
    offline(&lab, "tag", &["unmounted"]).must("tag");
    lab.mount();
    fs::write(lab.dir().join("f"), "5").unwrap();
    assert_eq!(lab.flush(), "5");

    // On a machine that only restored the version, killed with something unsaved.
    lab.elsewhere();
    fs::write(lab.dir().join("f"), "6").unwrap();
    lab.kill();
    offline(&lab, "tag", &["elsewhere"]).must("tag");
    lab.mount();
    assert_eq!(fs::read_to_string(lab.dir().join("f")).unwrap(), "6");
    assert_eq!(lab.flush(), "6");
    assert_eq!(lab.status()["fork"], Value::Null);
    let names: Vec<_> = fs::read_dir(lab.remote_dir()).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(!names.iter().any(|n| n.to_string_lossy().contains("fork")), "{names:?}");
    let head: Value = serde_json::from_slice(&fs::read(lab.head()).unwrap()).unwrap();
    assert_eq!(head["tags"], serde_json::json!({"elsewhere": 5, "unmounted": 4, "while-mounted": 3}));
}
