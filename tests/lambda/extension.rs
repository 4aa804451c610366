//! An extension beside a runtime.
use super::*;

/// LAMBDA, Extension: "saved when telemetry says that an invocation is over, and before the sandbox is frozen".
#[test]
fn an_extension_saves_when_an_invocation_is_over() {
    let mut lab = Lab::prepare(Setup::default());
    for round in 0..2 {
        let sandbox = Sandbox::new(Refusals::default());
        let (mut extension, runtime) = beside(&lab, &sandbox, &[]);
        assert_eq!(sandbox.wait_registered(), ["INVOKE", "SHUTDOWN"]);
        eventually("telemetry", LIMIT, || sandbox.has_telemetry().then_some(()));
        for n in 1..=3 {
            assert_eq!(sandbox.invoke(&add()).count(), round * 3 + n);
            sandbox.wait_idle();
            let _frozen = Frozen::of(vec![extension.0.id(), runtime.0.id()]);
            assert_eq!(saved(&lab), round * 3 + n);
        }
        drop(runtime);
        sandbox.shut_down("spindown");
        assert_eq!(wait_for(&mut extension.0, LIMIT), Some(0));
        lab.wipe();
    }
}

/// LAMBDA, Extension: "Where telemetry is refused, when the next one begins, or at the end".
#[test]
fn without_telemetry_the_next_invocation_says_it() {
    let lab = Lab::prepare(Setup::default());
    let sandbox = Sandbox::new(Refusals { telemetry: true, ..Refusals::default() });
    let (mut extension, _runtime) = beside(&lab, &sandbox, &[]);
    for n in 1..=3 {
        assert_eq!(sandbox.invoke(&add()).count(), n);
        sandbox.wait_idle();
        assert!(saved(&lab) >= n - 1);
    }
    assert!(!sandbox.has_telemetry());
    sandbox.shut_down("spindown");
    assert_eq!(wait_for(&mut extension.0, LIMIT), Some(0));
    assert_eq!(saved(&lab), 3);
}

/// LAMBDA, Extension: "On managed instances the extension saves when no invocation is under way".
#[test]
fn where_invocations_run_in_parallel_quiet_is_the_time_to_save() {
    let lab = Lab::prepare(Setup::default());
    let sandbox = Sandbox::new(Refusals { invoke: true, ..Refusals::default() });
    let (mut extension, _runtime) = beside(&lab, &sandbox, &[]);
    assert_eq!(sandbox.wait_registered(), ["SHUTDOWN"]);
    eventually("telemetry", LIMIT, || sandbox.has_telemetry().then_some(()));
    assert_eq!(sandbox.invoke(&add()).count(), 1);
    eventually("it is saved", LIMIT, || (saved(&lab) == 1).then_some(()));
    sandbox.shut_down("spindown");
    assert_eq!(wait_for(&mut extension.0, LIMIT), Some(0));
}

/// LAMBDA, Extension: the end is heard while a save hangs that has no deadline, as where invocations run in parallel.
#[test]
fn an_extension_hears_of_the_end_while_a_save_hangs() {
    let cloud = Cloud::prepare();
    let sandbox = Sandbox::new(Refusals { invoke: true, ..Refusals::default() });
    let (mut extension, _runtime) = beside(&cloud.lab, &sandbox, &[]);
    eventually("telemetry", LIMIT, || sandbox.has_telemetry().then_some(()));
    assert!(!sandbox.invoke(&json!({ "op": "ping" })).failed);
    let held = std::sync::Arc::new(tokio::sync::Notify::new());
    cloud.server.control().set_hook(move |request| match request.operation {
        "PutObject" => Fault::Hold(held.clone()),
        _ => Fault::None,
    });
    cloud.server.control().clear_log();
    assert_eq!(sandbox.invoke(&add()).count(), 1);
    eventually("a save is held", LIMIT, || (!cloud.server.control().log().is_empty()).then_some(()));
    let asked = std::time::Instant::now();
    sandbox.shut_down("spindown");
    assert_eq!(wait_for(&mut extension.0, LIMIT), Some(0));
    // One request alone may take thirty seconds.
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
}

/// LAMBDA, Wrapper and extension: "only one of them keeps the directory".
#[test]
fn an_extension_beside_a_wrapper_waits_for_the_end() {
    let lab = Lab::prepare(Setup::default());
    let sandbox = Sandbox::new(Refusals::default());
    let (mut extension, runtime) = beside(&lab, &sandbox, &[("AWS_LAMBDA_EXEC_WRAPPER", "/opt/icecache")]);
    assert_eq!(sandbox.wait_registered(), ["SHUTDOWN"]);
    drop(runtime);
    let _wrapper = wrapped(&lab, &sandbox, &plain(), &[]);
    assert_eq!(sandbox.invoke(&add()).count(), 1);
    assert_eq!(saved(&lab), 1);
    sandbox.shut_down("spindown");
    assert_eq!(wait_for(&mut extension.0, LIMIT), Some(0));
}

/// LAMBDA, Mode: "Where it is set and nobody calls `exec`, nothing is kept: the extension says so".
#[test]
fn an_extension_says_that_no_wrapper_has_come() {
    let lab = Lab::prepare(Setup::default());
    let log = lab.root().join("log");
    for comes in [false, true] {
        let sandbox = Sandbox::new(Refusals::default());
        let mut command = extension_command(&lab, &sandbox, &[("AWS_LAMBDA_EXEC_WRAPPER", "/opt/icecache")]);
        let mut extension = Process::start(command.stderr(fs::File::create(&log).unwrap()));
        assert_eq!(sandbox.wait_registered(), ["SHUTDOWN"]);
        let wrapper = comes.then(|| {
            let wrapper = wrapped(&lab, &sandbox, &plain(), &[]);
            assert_eq!(sandbox.invoke(&add()).count(), 1);
            wrapper
        });
        // The sandbox ends the runtime first.
        wrapper.into_iter().for_each(Process::kill);
        sandbox.shut_down("spindown");
        assert_eq!(wait_for(&mut extension.0, LIMIT), Some(0));
        let said = fs::read_to_string(&log).unwrap();
        assert_eq!(said.contains("nothing is kept"), !comes, "{said}");
    }
}

/// What starts the runtime calls `exec` by itself: the bootstrap of `provided.*`, or a user's own wrapper.
fn booted(lab: &Lab, sandbox: &Sandbox, variables: &[(&str, &str)]) -> Process {
    let mut command = lab.command(["exec", "--"]);
    command.args(plain());
    in_sandbox(&mut command, lab, sandbox, variables);
    Process::start(&mut command)
}

/// LAMBDA, Mode: "With both in one layer, wrapper and extension, only one of them keeps the directory", also where no
/// variable says that there is a wrapper, and whoever is first.
#[test]
fn an_extension_gives_way_to_an_exec_that_starts_the_runtime() {
    let mut lab = Lab::prepare(Setup::default());
    let mut count = 0;
    for round in 0..6 {
        let variables = [("AWS_LAMBDA_EXEC_WRAPPER", "/opt/my-wrapper")];
        let variables = &variables[..round / 3];
        let sandbox = Sandbox::new(Refusals::default());
        let (mut extension, process) = match round % 3 {
            // As AWS does it.
            0 => {
                let extension = extension(&lab, &sandbox, variables);
                assert_eq!(sandbox.wait_registered(), ["INVOKE", "SHUTDOWN"]);
                (extension, booted(&lab, &sandbox, variables))
            }
            1 => {
                let process = booted(&lab, &sandbox, variables);
                assert!(!sandbox.invoke(&json!({ "op": "ping" })).failed);
                let extension = extension(&lab, &sandbox, variables);
                assert_eq!(sandbox.wait_registered(), ["SHUTDOWN"]);
                (extension, process)
            }
            _ => {
                let extension = extension(&lab, &sandbox, variables);
                let process = booted(&lab, &sandbox, variables);
                sandbox.wait_registered();
                (extension, process)
            }
        };
        for _ in 0..3 {
            count += 1;
            assert_eq!(sandbox.invoke(&add()).count(), count, "round {round}");
            assert_eq!(saved(&lab), count, "round {round}");
        }
        sandbox.wait_idle();
        sandbox.shut_down("spindown");
        assert_eq!(wait_for(&mut extension.0, LIMIT), Some(0), "round {round}");
        process.kill();
        lab.wipe();
    }
}
