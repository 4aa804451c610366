//! Invocations whose time is over.
use super::*;

/// LAMBDA, Time-outs: "given up 100 ms before the deadline". The sandbox does not end it here, so that the answer is seen.
#[test]
fn a_save_that_would_outlast_its_invocation_is_given_up() {
    let cloud = Cloud::prepare();
    let sandbox = Sandbox::new(Refusals::default());
    let process = wrapped(&cloud.lab, &sandbox, &plain(), &[]);
    assert_eq!(sandbox.invoke(&add()).count(), 1);
    let held = std::sync::Arc::new(tokio::sync::Notify::new());
    let hold = held.clone();
    cloud.server.control().set_hook(move |request| match request.operation {
        "PutObject" => Fault::Hold(hold.clone()),
        _ => Fault::None,
    });
    let id = sandbox.begin(&add(), Duration::from_secs(2));
    let answer = sandbox.answer(&id, LIMIT).expect("an answer, although no save ends");
    assert_eq!(answer.json()["errorType"], "Icecache.NotSaved");
    cloud.server.control().clear_hook();
    held.notify_waiters();
    assert_eq!(sandbox.invoke(&add()).count(), 3);
    assert_eq!(saved(&cloud.lab), 3, "the next save has it");
    process.kill();
}

/// LAMBDA, Time-outs: the sandbox ends a runtime that takes too long, and starts anew with the same `/tmp`. Ended by the
/// test, as AWS does it: the runtime by SIGKILL at the deadline.
#[test]
fn an_invocation_that_timed_out_takes_nothing_back() {
    let lab = Lab::prepare(Setup::default());
    let mut acknowledged = 0;
    for round in 0..3 {
        let sandbox = Sandbox::new(Refusals::default());
        let process = wrapped(&lab, &sandbox, &plain(), &[]);
        let count = sandbox.invoke(&add()).count();
        assert!(count > acknowledged, "round {round}: {count} after {acknowledged}");
        acknowledged = count;
        let id = sandbox.begin(&json!({ "op": "slow", "seconds": 3600 }), LIMIT);
        // The handler has written, and will never answer.
        eventually("the handler has begun", LIMIT, || (counter(&lab.place()) > count).then_some(()));
        process.kill();
        assert!(sandbox.answer(&id, Duration::ZERO).is_none());
        assert_eq!(saved(&lab), acknowledged, "round {round}");
        // Another sandbox goes on before this one starts anew.
        let elsewhere = lab.root().join(format!("other{round}"));
        fs::create_dir(&elsewhere).unwrap();
        let others = Sandbox::new(Refusals::default());
        let other = wrapped(&lab, &others, &plain(), &[("ICECACHE_DIR", elsewhere.to_str().unwrap())]);
        for _ in 0..=round {
            acknowledged = others.invoke(&add()).count();
        }
        other.kill();
    }
}

/// LAMBDA, Time-outs: the extension outlives the runtime, and has two seconds to save what that had written.
#[test]
fn an_extension_saves_what_was_written_before_a_time_out() {
    let lab = Lab::prepare(Setup::default());
    let sandbox = Sandbox::new(Refusals::default());
    let (mut extension, runtime) = beside(&lab, &sandbox, &[]);
    eventually("telemetry", LIMIT, || sandbox.has_telemetry().then_some(()));
    assert_eq!(sandbox.invoke(&add()).count(), 1);
    sandbox.wait_idle();
    let _never_answered =
        sandbox.begin(&json!({ "op": "slow", "seconds": 3600 }), Duration::from_millis(500));
    eventually("the handler has begun", LIMIT, || (counter(&lab.place()) == 2).then_some(()));
    drop(runtime);
    sandbox.shut_down("timeout");
    assert_eq!(wait_for(&mut extension.0, LIMIT), Some(0));
    assert_eq!(saved(&lab), 2);
}

/// LAMBDA, Settings: "`ICECACHE_GRACE`": what is not saved yet is, before the sandbox kills the wrapper, also where its
/// runtime does not end by itself.
#[test]
fn a_runtime_that_does_not_end_is_ended_in_time() {
    let lab = Lab::prepare(Setup::default());
    let sandbox = Sandbox::new(Refusals::default());
    let variables = [("ICECACHE_FLUSH", "1h"), ("TEST_IGNORES_TERM", "1")];
    let mut process = wrapped(&lab, &sandbox, &plain(), &variables);
    assert_eq!(sandbox.invoke(&add()).count(), 1);
    sandbox.wait_idle();
    let asked = std::time::Instant::now();
    signal(process.0.id(), Signal::TERM);
    assert_eq!(wait_for(&mut process.0, LIMIT), Some(137));
    // Half of the ten seconds of elsewhere.
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    assert_eq!(saved(&lab), 1);
}
