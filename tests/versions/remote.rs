//! The same against a real S3: what is asked of it, what is damaged there, and what is merely out of reach.
use super::cloud::Cloud;
use super::harness::{Dice, Finished, Subject};
use super::shown::Shown;
use super::support::s3server::{Fault, Request};
use super::{json, make_three_versions, offline};
use s3s::S3ErrorCode;
use std::fs;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const HEAD: &str = "prefix/work/HEAD";

/// Three versions in an S3; see [`three_versions`](super::three_versions).
fn cloud() -> Cloud {
    let mut cloud = Cloud::prepare();
    cloud.lab.mount();
    make_three_versions(&mut cloud.lab);
    cloud
}

impl Cloud {
    fn verify(&self, options: &[&str]) -> Finished {
        offline(&self.lab, "verify", options)
    }

    /// The layers' keys as HEAD has them, oldest first.
    fn layers(&self) -> Vec<String> {
        let head: serde_json::Value = serde_json::from_slice(&self.server.object(HEAD).unwrap()).unwrap();
        head["layers"].as_array().unwrap().iter().map(|l| l["key"].as_str().unwrap().to_owned()).collect()
    }

    /// Strikes the first request that `hits`.
    fn once(&self, hits: impl Fn(&Request) -> bool + Send + Sync + 'static, fault: Fault) -> Arc<AtomicU64> {
        let struck = Arc::new(AtomicU64::new(0));
        let count = struck.clone();
        self.server.control().set_hook(move |request| {
            let first = hits(request) && count.fetch_add(1, Ordering::Relaxed) == 0;
            if first { fault.clone() } else { Fault::None }
        });
        struck
    }
}

fn is_write(request: &Request) -> bool {
    !["GetObject", "HeadObject", "ListObjectsV2"].contains(&request.operation)
}

fn is_layer(request: &Request) -> bool {
    request.key.starts_with("prefix/layers/")
}

/// SEMANTICS, Verify: "`verify --quick` reads the ends of the layers only, one request each"; "A verification writes
/// nothing"
#[test]
fn a_look_costs_a_request_for_each_layer() {
    let cloud = cloud();
    for (options, layers) in [(&["--quick"][..], 3), (&["--quick", "2"], 2), (&[], 6), (&["1"], 2)] {
        cloud.server.control().clear_log();
        cloud.verify(options).must("verify");
        let log = cloud.server.control().log();
        assert!(!log.iter().any(is_write), "verify {options:?} wrote: {log:?}");
        let asked = log.iter().filter(|r| is_layer(r)).count();
        assert_eq!(asked, layers, "verify {options:?}: {log:?}");
    }
}

/// SEMANTICS, Verify: "Damage is told with the key of its layer, and the exit code is 9."
#[test]
fn every_kind_of_damage_is_told() {
    let cloud = cloud();
    let mut dice = Dice::seeded("damage");
    let layers = cloud.layers();
    for (number, layer) in layers.iter().enumerate() {
        let key = format!("prefix/{layer}");
        let good = cloud.server.object(&key).unwrap();
        let tail = {
            let head: serde_json::Value =
                serde_json::from_slice(&cloud.server.object(HEAD).unwrap()).unwrap();
            head["layers"][number]["table"]["bytes"].as_u64().unwrap() as usize
        };
        let flipped = |at: usize| {
            let mut bytes = good.to_vec();
            bytes[at] ^= 1 << 3;
            bytes
        };
        let body = dice.below((good.len() - tail) as u64) as usize;
        let table = good.len() - tail + dice.below(tail as u64) as usize;
        let cut = dice.below(good.len() as u64 - 1) as usize + 1;
        // What was put in its place; whether the quick look sees it.
        let damages: [(&str, Vec<u8>, bool); 7] = [
            ("a flipped bit in the content", flipped(body), false),
            ("a flipped bit in the table", flipped(table), true),
            ("an object that is too short", good[..cut].to_vec(), true),
            ("one that lacks its last byte", good[..good.len() - 1].to_vec(), true),
            ("an empty object", Vec::new(), true),
            ("one that is too long", [&good[..], b"x"].concat(), true),
            ("another object", vec![0; good.len()], true),
        ];
        for (what, bytes, quick) in damages {
            cloud.server.put(&key, bytes);
            let found = cloud.verify(&["--json"]);
            let report = json(&found);
            assert_eq!((found.code, &report["ok"]), (9, &false.into()), "{what}: {}", found.said());
            assert_eq!(report["damaged"].as_array().unwrap().len(), 1, "{what}: {report}");
            assert_eq!(report["damaged"][0]["layer"], layer.as_str(), "{what}");
            assert_eq!(report["damaged"][0]["version"], (number + 1).to_string(), "{what}");
            let looked = cloud.verify(&["--quick"]);
            assert_eq!(looked.code, if quick { 9 } else { 0 }, "{what}, --quick: {}", looked.said());
            // A version of before it is sound.
            if number > 0 {
                cloud.verify(&[&number.to_string()]).must("verify of the version before");
            }
        }
        cloud.server.remove(&key);
        for options in [&[][..], &["--quick"]] {
            let found = cloud.verify(options);
            assert_eq!(found.code, 9, "{}", found.said());
            assert!(found.stdout.contains(&format!("{layer}: it is not there")), "{}", found.said());
        }
        // Back again, under the same key.
        cloud.server.put(&key, good);
        cloud.verify(&[]).must("verify of what was repaired");
    }
}

/// Content that rots where it lies, so that what the store says of the object is of better days, is damage,
/// too, and no connection to be tried again.
#[test]
fn what_rots_is_damaged() {
    let cloud = cloud();
    let [first, ..] = &cloud.layers()[..] else { panic!("no layers") };
    let key = format!("prefix/{first}");
    let mut bytes = cloud.server.object(&key).unwrap().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    cloud.server.rot(&key, bytes);
    let found = cloud.verify(&[]);
    assert!(found.code == 9 && found.stdout.starts_with(first), "{}", found.said());
}

/// SEMANTICS, Verify: "a remote that cannot be read is no damage and has its own code"
#[test]
fn what_the_store_fails_to_say_is_not_called_damaged() {
    let cloud = cloud();
    // Bodies that break off are taken up again...
    let struck = cloud.once(is_layer, Fault::ShortBody(100));
    cloud.verify(&[]).must("verify over a connection that breaks");
    assert!(struck.load(Ordering::Relaxed) > 1, "nothing was struck: the check is void");
    // ...and one that never comes to an end, or a refusal, is not the layer's fault.
    for (fault, code) in [
        (Fault::ShortBody(0), 6),
        (Fault::FailBefore(S3ErrorCode::AccessDenied), 7),
        (Fault::FailBefore(S3ErrorCode::NoSuchBucket), 5),
    ] {
        let shown = format!("{fault:?}");
        cloud.server.control().set_hook(move |r| if is_layer(r) { fault.clone() } else { Fault::None });
        for options in [&[][..], &["--quick"]] {
            let failed = cloud.verify(options);
            assert_eq!(failed.code, code, "{shown} {options:?}: {}", failed.said());
            assert!(!failed.said().contains("damaged"), "{shown}: {}", failed.said());
        }
    }
    cloud.server.control().clear_hook();
    cloud.verify(&[]).must("verify after the outage");
}

/// SEMANTICS, Log: "`restore --at` takes the newest version whose time is not after the one given."
#[test]
fn versions_are_found_by_number_tag_and_time() {
    let cloud = cloud();
    offline(&cloud.lab, "tag", &["second", "2"]).must("tag");
    let log = json(&offline(&cloud.lab, "log", &["--json"]).must("log"));
    assert_eq!(log[1]["tags"], serde_json::json!(["second"]), "{log}");
    let time = |version: usize| log[3 - version]["time"].as_str().unwrap().to_owned();
    let to = cloud.lab.root().join("to");
    for (choice, text) in [
        (vec!["1".to_owned()], "1"),
        (vec!["second".to_owned()], "2"),
        (vec!["--at".to_owned(), time(1)], "1"),
        (vec!["--at".to_owned(), time(2)], "2"),
        (vec!["--at".to_owned(), "0s".to_owned()], "3"),
    ] {
        let mut options = vec!["--to", to.to_str().unwrap()];
        options.extend(choice.iter().map(String::as_str));
        let done = offline(&cloud.lab, "restore", &options).must("restore");
        assert_eq!(done.stdout.trim(), text, "{choice:?}");
        assert_eq!(fs::read_to_string(to.join("f")).unwrap(), text, "{choice:?}");
        fs::remove_dir_all(&to).unwrap();
    }
    assert_eq!(offline(&cloud.lab, "restore", &["--to", to.to_str().unwrap(), "--at", "1h"]).code, 5);
}

/// SEMANTICS, Log: "A tag names a version until it is moved or deleted, whatever versions are made meanwhile"
#[test]
fn a_tag_is_set_whatever_becomes_of_its_requests() {
    let mut cloud = cloud();
    let is_head = |r: &Request| r.operation == "PutObject" && r.key == HEAD;
    let faults = [
        // Nothing of it was applied, or all of it.
        Fault::FailBefore(S3ErrorCode::InternalError),
        Fault::CutBefore,
        Fault::FailAfter(S3ErrorCode::InternalError),
        Fault::CutAfter,
        // Somebody else seemed to be quicker.
        Fault::FailBefore(S3ErrorCode::PreconditionFailed),
        Fault::FailBefore(S3ErrorCode::ConditionalRequestConflict),
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        let what = format!("{fault:?}");
        let struck = cloud.once(is_head, fault);
        let tag = format!("tag-{number}");
        let done = offline(&cloud.lab, "tag", &[&tag, "2", "--json"]).must(&what);
        assert_eq!(json(&done)["version"], 2, "{what}");
        assert!(struck.load(Ordering::Relaxed) > 0, "{what}: nothing was struck: the check is void");
        cloud.server.control().clear_hook();
        assert_eq!(json(&cloud.verify(&[&tag, "--json"]))["version"], "2", "{what}");
    }
    // A version that the mount makes between the look at HEAD and the PUT of the tag is not lost.
    let mut number = 3;
    for _ in 0..3 {
        let place = cloud.lab.dir().join("f");
        let struck = cloud.once(is_head, Fault::Delay(std::time::Duration::from_millis(300)));
        number += 1;
        let text = number.to_string();
        let mut tagging = {
            let remote = cloud.lab.remote();
            let mut args = vec!["tag", "--remote", &remote, "--name", "work"];
            args.extend(cloud.lab.setup.remote_options.iter().map(String::as_str));
            args.extend(["moving", "1"]);
            let mut command = cloud.lab.command(args);
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        };
        super::harness::eventually("the PUT of the tag", super::harness::LIMIT, || {
            (struck.load(Ordering::Relaxed) > 0 || tagging.try_wait().unwrap().is_some()).then_some(())
        });
        fs::write(&place, &text).unwrap();
        assert_eq!(cloud.lab.flush(), text);
        assert_eq!(super::harness::wait_for(&mut tagging, super::harness::LIMIT), Some(0));
        cloud.server.control().clear_hook();
        let log = json(&offline(&cloud.lab, "log", &["--json"]));
        assert_eq!(log[0]["version"], text.as_str(), "the version was lost: {log}");
        assert_eq!(json(&cloud.verify(&["moving", "--json"]))["version"], "1");
        offline(&cloud.lab, "tag", &["moving", "--delete"]).must("delete");
        assert_eq!(cloud.lab.status()["fork"], serde_json::Value::Null, "a tag was taken for another writer");
    }
}

/// SEMANTICS, Versions in a mount: "There are no flushes and no requests that write; another writer does not notice it."
/// "It is usable when the tables are read, and only what is touched is brought"
#[test]
fn a_shown_version_asks_for_what_it_shows() {
    let cloud = cloud();
    cloud.server.control().clear_log();
    let shown = Shown::prepare(&cloud.lab, "shown").mount(&["--version", "2"]);
    let asked = |log: &[Request]| log.iter().map(|r| (r.operation, r.key.clone())).collect::<Vec<_>>();
    let log = cloud.server.control().log();
    let layers = cloud.layers();
    let mut expected = vec![("GetObject", HEAD.to_owned())];
    expected.extend(layers[..2].iter().map(|key| ("GetObject", format!("prefix/{key}"))));
    let mut found = asked(&log);
    found[1..].sort();
    assert_eq!(found, expected);

    cloud.server.control().clear_log();
    assert_eq!(fs::read_dir(&shown.dir).unwrap().count(), 3);
    assert_eq!(asked(&cloud.server.control().log()), [], "a listing asked for something");
    assert_eq!(shown.read("f"), "2");
    let log = asked(&cloud.server.control().log());
    assert_eq!(log, [("GetObject", format!("prefix/{}", layers[1]))], "the first byte of a file");

    // What is missing is not invented, and what was there stays readable.
    cloud.server.remove(&format!("prefix/{}", layers[0]));
    let failed = fs::read(shown.dir.join("large")).unwrap_err();
    assert_eq!(failed.raw_os_error(), Some(libc::EIO));
    assert_eq!(shown.read("f"), "2");
    let listed = json(&shown.verb("log", &["--json"]).must("log"));
    assert_eq!(listed.as_array().unwrap().len(), 3);
    shown.verb("unmount", &[]).must("unmount");
    let missing = Shown::prepare(&cloud.lab, "shown").try_mount(&["--version", "1"]);
    assert!(!missing.ok() && missing.stderr.contains(&layers[0]), "{}", missing.said());
}
