//! Sandboxes that are resumed from a snapshot.
use super::*;

const SNAPSHOT: (&str, &str) = ("AWS_LAMBDA_INITIALIZATION_TYPE", "snap-start");

/// LAMBDA, SnapStart: "looks for the newest version before its first invocation". A sandbox that stands still while others
/// go on stands for one that is resumed from a snapshot.
fn a_resumed_sandbox_has_what_others_have_saved(runtime: &[String]) {
    let cloud = Cloud::prepare();
    let lab = &cloud.lab;
    let other_dir = lab.root().join("other");
    fs::create_dir(&other_dir).unwrap();
    let others = Sandbox::new(Refusals::default());
    let other = wrapped(lab, &others, &plain(), &[("ICECACHE_DIR", other_dir.to_str().unwrap())]);
    assert_eq!(others.invoke(&add()).count(), 1);
    let sandbox = Sandbox::new(Refusals::default());
    let process = wrapped(lab, &sandbox, runtime, &[SNAPSHOT]);
    sandbox.wait_snapshot();
    let frozen = Frozen::of(process.all());
    for n in 2..=4 {
        assert_eq!(others.invoke(&add()).count(), n);
    }
    other.kill();
    // When it is resumed the remote cannot be reached at first.
    cloud.server.control().set_hook(|request| match request.operation {
        "GetObject" => Fault::FailBefore(s3s::S3ErrorCode::AccessDenied),
        _ => Fault::None,
    });
    drop(frozen);
    sandbox.resume();
    let asked = || cloud.server.control().log().iter().rev().any(|request| request.operation == "GetObject");
    cloud.server.control().clear_log();
    eventually("it looked at the remote", LIMIT, || asked().then_some(()));
    sandbox.wait_idle();
    cloud.server.control().clear_hook();
    for n in 5..=6 {
        assert_eq!(sandbox.invoke(&add()).count(), n);
        assert_eq!(saved(lab), n);
    }
    // Once is enough.
    cloud.server.control().clear_log();
    assert!(!sandbox.invoke(&json!({ "op": "ping" })).failed);
    assert!(cloud.server.control().log().is_empty(), "{:?}", cloud.server.control().log());
    process.kill();
}

#[test]
fn a_sandbox_that_is_resumed_from_a_snapshot_has_what_others_have_saved() {
    a_resumed_sandbox_has_what_others_have_saved(&plain());
}

#[test]
fn a_resumed_sandbox_has_what_others_have_saved_with_the_runtime_of_aws() {
    match real() {
        Some(runtime) => a_resumed_sandbox_has_what_others_have_saved(&runtime),
        None => skip("awslambdaric", "ICECACHE_TEST_LAMBDA_PYTHON is not set"),
    }
}

/// A sandbox that was resumed when the remote did not answer, and that others have gone on without.
fn resumed_too_late() -> (Cloud, Sandbox, Process) {
    let cloud = Cloud::prepare();
    let other_dir = cloud.lab.root().join("other");
    fs::create_dir(&other_dir).unwrap();
    let others = Sandbox::new(Refusals::default());
    let other = wrapped(&cloud.lab, &others, &plain(), &[("ICECACHE_DIR", other_dir.to_str().unwrap())]);
    assert_eq!(others.invoke(&add()).count(), 1);
    let sandbox = Sandbox::new(Refusals::default());
    let process = wrapped(&cloud.lab, &sandbox, &plain(), &[SNAPSHOT]);
    sandbox.wait_snapshot();
    assert_eq!(others.invoke(&add()).count(), 2);
    other.kill();
    cloud.server.control().set_hook(|request| match request.operation {
        "GetObject" => Fault::FailBefore(s3s::S3ErrorCode::AccessDenied),
        _ => Fault::None,
    });
    sandbox.resume();
    sandbox.wait_idle();
    (cloud, sandbox, process)
}

/// LAMBDA, SnapStart: "Half of the time of an invocation is waited for it".
#[test]
fn a_resumed_sandbox_does_not_wait_for_ever_for_what_others_have_saved() {
    let (cloud, sandbox, process) = resumed_too_late();
    let held = std::sync::Arc::new(tokio::sync::Notify::new());
    let hold = held.clone();
    cloud.server.control().set_hook(move |request| match request.operation {
        "GetObject" => Fault::Hold(hold.clone()),
        _ => Fault::None,
    });
    // Nothing was brought, so it works on what the snapshot has.
    let id = sandbox.begin(&json!({ "op": "ping" }), Duration::from_secs(2));
    let answer = sandbox.answer(&id, LIMIT).expect("an answer, although the remote gives none");
    assert!(!answer.failed, "{answer:?}");
    cloud.server.control().clear_hook();
    held.notify_waiters();
    assert_eq!(sandbox.invoke(&add()).count(), 3, "the next one has what others have saved");
    assert_eq!(saved(&cloud.lab), 3);
    process.kill();
}

/// LAMBDA, SnapStart: "a part of the newer version is there and the rest is not".
#[test]
fn nobody_works_on_a_directory_between_two_versions() {
    let (cloud, sandbox, mut process) = resumed_too_late();
    let held = std::sync::Arc::new(tokio::sync::Notify::new());
    let hold = held.clone();
    cloud.server.control().set_hook(move |request| match request.operation {
        "GetObject" if request.key.contains("layers/") => Fault::Hold(hold.clone()),
        _ => Fault::None,
    });
    let id = sandbox.begin(&add(), Duration::from_secs(2));
    let answer = sandbox.answer(&id, LIMIT).expect("an answer, although the remote gives none");
    assert_eq!(answer.json()["errorType"], "Icecache.NotRestored");
    assert_eq!(wait_for(&mut process.0, LIMIT), Some(125), "the sandbox does not go on");
    cloud.server.control().clear_hook();
    held.notify_waiters();
    assert_eq!(saved(&cloud.lab), 2);
    // Where it stood, the next start completes it.
    let sandbox = Sandbox::new(Refusals::default());
    let process = wrapped(&cloud.lab, &sandbox, &plain(), &[]);
    assert_eq!(sandbox.invoke(&add()).count(), 3);
    assert_eq!(saved(&cloud.lab), 3);
    process.kill();
}

/// LAMBDA, SnapStart: "Nothing takes the place of files that are open". The connection was made before the snapshot.
#[test]
fn a_newer_version_does_not_come_beneath_a_connection_that_was_open_in_the_snapshot() {
    let cloud = Cloud::prepare();
    let mut lab = cloud.lab;
    let other_dir = lab.root().join("other");
    fs::create_dir(&other_dir).unwrap();
    let others = Sandbox::new(Refusals::default());
    let other = wrapped(&lab, &others, &plain(), &[("ICECACHE_DIR", other_dir.to_str().unwrap())]);
    assert_eq!(others.invoke(&add()).count(), 1);
    let snapshot = |lab: &Lab| {
        let sandbox = Sandbox::new(Refusals::default());
        let process = wrapped(lab, &sandbox, &plain(), &[SNAPSHOT, ("TEST_CONNECTS", "1")]);
        sandbox.wait_snapshot();
        (sandbox, process)
    };
    // As long as nobody else goes on it is no matter.
    let (sandbox, process) = snapshot(&lab);
    sandbox.resume();
    assert_eq!(sandbox.invoke(&json!({ "op": "count" })).count(), 1);
    process.kill();
    lab.wipe();
    let (sandbox, mut process) = snapshot(&lab);
    assert_eq!(others.invoke(&add()).count(), 2);
    other.kill();
    sandbox.resume();
    assert_ne!(wait_for(&mut process.0, LIMIT), Some(0), "the sandbox does not go on");
    assert_eq!(saved(&lab), 2);
    let sandbox = Sandbox::new(Refusals::default());
    let process = wrapped(&lab, &sandbox, &plain(), &[("TEST_CONNECTS", "1")]);
    assert_eq!(sandbox.invoke(&add()).count(), 3);
    assert_eq!(saved(&lab), 3);
    process.kill();
}

/// The same where the first renewal failed, and an invocation has opened a file since.
#[test]
fn a_newer_version_does_not_come_beneath_what_an_invocation_has_left_open() {
    let (cloud, sandbox, mut process) = resumed_too_late();
    assert!(!sandbox.invoke(&json!({ "op": "hold" })).failed);
    cloud.server.control().clear_hook();
    let answer = sandbox.invoke(&add()).json();
    assert_eq!(answer["errorType"], "Icecache.NotRestored");
    assert!(answer["errorMessage"].as_str().unwrap().contains("counter.db (process "), "{answer}");
    assert_ne!(wait_for(&mut process.0, LIMIT), Some(0), "the sandbox does not go on");
    assert_eq!(saved(&cloud.lab), 2);
}
