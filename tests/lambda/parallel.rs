//! Invocations that run in parallel behind the wrapper, as on managed instances.
use super::*;
use std::sync::Arc;
use tokio::sync::Notify;

const WORKERS: (&str, &str) = ("TEST_WORKERS", "2");

fn write(file: &str) -> Value {
    json!({ "op": "write", "file": file, "text": "something" })
}

/// Holds every request of an operation on a key with `part` in it, until it is let go of.
fn hold(cloud: &Cloud, operation: &'static str, part: &'static str) -> Arc<Notify> {
    let held = Arc::new(Notify::new());
    let hold = held.clone();
    cloud.server.control().clear_log();
    cloud.server.control().set_hook(move |request| match request.operation {
        _ if request.operation == operation && request.key.contains(part) => Fault::Hold(hold.clone()),
        _ => Fault::None,
    });
    held
}

fn wait_held(cloud: &Cloud, operation: &'static str, part: &str) {
    eventually("a request is held", LIMIT, || {
        let log = cloud.server.control().log();
        log.iter().any(|request| request.operation == operation && request.key.contains(part)).then_some(())
    });
}

/// Lets requests go until `what` comes of it: one that was logged may not wait yet.
fn let_go<T>(cloud: &Cloud, held: &Notify, mut what: impl FnMut() -> Option<T>) -> T {
    cloud.server.control().clear_hook();
    eventually("requests go on", LIMIT, || {
        held.notify_waiters();
        what()
    })
}

/// LAMBDA, Parallel: "waits for the save of another until 100 ms before its own deadline".
#[test]
fn an_answer_comes_by_its_own_deadline_while_the_save_of_another_hangs() {
    let cloud = Cloud::prepare();
    let sandbox = Sandbox::new(Refusals::default());
    let process = wrapped(&cloud.lab, &sandbox, &plain(), &[WORKERS]);
    assert!(!sandbox.invoke(&write("first")).failed);
    let held = hold(&cloud, "PutObject", "");
    let has_time = sandbox.begin(&write("one"), LIMIT);
    wait_held(&cloud, "PutObject", "");
    let has_none = sandbox.begin(&write("other"), Duration::from_secs(1));
    let answer = sandbox.answer(&has_none, LIMIT).expect("an answer, although no save ends");
    assert_eq!(answer.json()["errorType"], "Icecache.NotSaved");
    // The worker that has given this answer goes on.
    assert!(sandbox.answer(&has_time, Duration::ZERO).is_none());
    assert!(!let_go(&cloud, &held, || sandbox.answer(&has_time, Duration::ZERO)).failed);
    assert!(!sandbox.invoke(&json!({ "op": "ping" })).failed);
    assert!(cloud.lab.restored(None).join("other").exists(), "the next save has it");
    process.kill();
}

/// LAMBDA, Parallel: "one worker of the runtime is not given the next invocation ... the others are".
#[test]
fn idle_workers_take_invocations_while_a_save_hangs() {
    let cloud = Cloud::prepare();
    let sandbox = Sandbox::new(Refusals::default());
    let process = wrapped(&cloud.lab, &sandbox, &plain(), &[WORKERS, ("ICECACHE_FLUSH", "after-response")]);
    assert!(!sandbox.invoke(&write("first")).failed);
    sandbox.wait_idle();
    let held = hold(&cloud, "PutObject", "");
    // Its save has more time than the others are waited for.
    let one = sandbox.begin(&write("one"), 10 * LIMIT);
    assert!(!sandbox.answer(&one, LIMIT).expect("an answer").failed);
    wait_held(&cloud, "PutObject", "");
    for n in 0..4 {
        assert!(!sandbox.invoke(&write(&format!("other {n}"))).failed);
    }
    let_go(&cloud, &held, || cloud.lab.restored(None).join("other 3").exists().then_some(()));
    process.kill();
}

/// LAMBDA, Parallel: "Merging layers is given up when somebody has waited".
#[test]
fn who_saves_does_not_wait_until_layers_are_merged() {
    let cloud = Cloud::prepare();
    let mut dice = Dice::seeded("who_saves_does_not_wait_until_layers_are_merged");
    let sandbox = Sandbox::new(Refusals::default());
    let process = wrapped(&cloud.lab, &sandbox, &plain(), &[WORKERS, ("ICECACHE_CHAIN", "4")]);
    // Too large for a place in HEAD, so that there are layers to read.
    let mut large = |n: usize| {
        let text: String = (0..20_000).map(|_| format!("{:016x}", dice.next())).collect();
        assert!(
            !sandbox.invoke(&json!({ "op": "write", "file": format!("large {n}"), "text": text })).failed
        );
    };
    large(0);
    let held = hold(&cloud, "GetObject", "layers/");
    (1..6).for_each(&mut large);
    wait_held(&cloud, "GetObject", "layers/");
    let id = sandbox.begin(&write("other"), Duration::from_secs(4));
    let answer = sandbox.answer(&id, LIMIT).expect("an answer, although nothing is merged");
    assert!(!answer.failed, "{answer:?}");
    cloud.server.control().clear_hook();
    held.notify_waiters();
    process.kill();
}
