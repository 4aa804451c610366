//! Functions: a directory that is kept between invocations, in a sandbox that we simulate.
#![cfg(feature = "lambda")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

#[path = "support/cloud.rs"]
mod cloud;
#[path = "lambda/extension.rs"]
mod extension;
mod harness;
#[path = "lambda/parallel.rs"]
mod parallel;
#[path = "lambda/sandbox.rs"]
mod sandbox;
#[path = "lambda/snapshot.rs"]
mod snapshot;
mod support;
#[path = "lambda/timeouts.rs"]
mod timeouts;

use cloud::Cloud;
use harness::lab::{program, signal};
use harness::{Dice, LIMIT, Lab, Setup, eventually, run, skip, slice, wait_for};
use rustix::process::Signal;
use sandbox::{Frozen, Refusals, Sandbox};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::s3server::{ACCESS_KEY, Fault, SECRET_KEY};

fn add() -> Value {
    json!({ "op": "add" })
}

/// A Python of this machine, by its absolute path as a managed runtime has it.
fn python() -> String {
    run(Command::new("python3").args(["-c", "import sys; print(sys.executable)"]), LIMIT)
        .must("python3")
        .stdout
        .trim()
        .to_owned()
}

fn script(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lambda").join(name).display().to_string()
}

/// Our own runtime.
fn plain() -> Vec<String> {
    vec![python(), script("runtime.py")]
}

/// AWS's runtime for Python, where there is a Python that has it.
fn real() -> Option<Vec<String>> {
    let python = std::env::var("ICECACHE_TEST_LAMBDA_PYTHON").ok()?;
    Some(["-m", "awslambdaric", "handler.handler"].iter().fold(vec![python], |mut words, word| {
        words.push((*word).to_owned());
        words
    }))
}

/// A process that is killed with its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl Process {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }

    fn children(&self) -> Vec<u32> {
        let text =
            fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.0.id())).unwrap_or_default();
        text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    /// The wrapper and the runtime.
    fn all(&self) -> Vec<u32> {
        let mut all = self.children();
        all.insert(0, self.0.id());
        all
    }

    /// As a sandbox that is torn down: nobody hears of it.
    fn kill(mut self) {
        let children = self.children();
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        for child in children {
            signal(child, Signal::KILL);
        }
    }
}

/// `command` with what a sandbox has in its environment.
fn in_sandbox(command: &mut Command, lab: &Lab, sandbox: &Sandbox, variables: &[(&str, &str)]) {
    command
        .env("AWS_LAMBDA_RUNTIME_API", sandbox.api())
        .env("AWS_LAMBDA_FUNCTION_NAME", &lab.setup.name)
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512")
        .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
        .env("ICECACHE_REMOTE", lab.remote())
        .env("ICECACHE_DIR", lab.place())
        // A function has no place for it.
        .env("ICECACHE_STATE_DIR", icecache::config::place::NO_STATE)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("LAMBDA_TASK_ROOT", script(""))
        .current_dir(script(""));
    for option in lab.setup.remote_options.chunks(1) {
        if let [option] = option {
            match option.as_str() {
                "--s3-path-style" => drop(command.env("ICECACHE_S3_PATH_STYLE", "on")),
                "--s3-endpoint" => {}
                endpoint => drop(command.env("ICECACHE_S3_ENDPOINT", endpoint)),
            }
        }
    }
    command.envs(variables.iter().copied());
}

/// A managed runtime that calls us in place of `runtime`.
fn wrapped(lab: &Lab, sandbox: &Sandbox, runtime: &[String], variables: &[(&str, &str)]) -> Process {
    let mut command = lab.command(runtime);
    command.env("AWS_LAMBDA_EXEC_WRAPPER", program());
    in_sandbox(&mut command, lab, sandbox, variables);
    Process::start(&mut command)
}

fn extension(lab: &Lab, sandbox: &Sandbox, variables: &[(&str, &str)]) -> Process {
    Process::start(&mut extension_command(lab, sandbox, variables))
}

fn extension_command(lab: &Lab, sandbox: &Sandbox, variables: &[(&str, &str)]) -> Command {
    let folder = lab.root().join("extensions");
    fs::create_dir_all(&folder).unwrap();
    let extension = folder.join("icecache");
    if !extension.exists() {
        std::os::unix::fs::symlink(program(), &extension).unwrap();
    }
    let clean = lab.command([""; 0]);
    let mut command = Command::new(&extension);
    for (name, value) in clean.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    in_sandbox(&mut command, lab, sandbox, variables);
    command
}

/// The extension, and when it has registered a runtime beside it.
fn beside(lab: &Lab, sandbox: &Sandbox, variables: &[(&str, &str)]) -> (Process, Process) {
    let extension = extension(lab, sandbox, variables);
    sandbox.wait_registered();
    let mut command = Command::new(python());
    command.arg(script("runtime.py"));
    in_sandbox(&mut command, lab, sandbox, &[]);
    (extension, Process::start(&mut command))
}

/// The counter in the newest version; 0 if it has none.
fn saved(lab: &Lab) -> u64 {
    let head = lab.remote_dir().join(&lab.setup.name).join("HEAD");
    if lab.setup.remote.is_none() && !head.exists() {
        return 0;
    }
    counter(&lab.restored(None))
}

fn counter(dir: &Path) -> u64 {
    let database: PathBuf = dir.join("counter.db");
    if !database.exists() {
        return 0;
    }
    let database = rusqlite::Connection::open(database).unwrap();
    let count: i64 =
        database.query_row("SELECT coalesce(max(n), 0) FROM counter", [], |row| row.get(0)).unwrap();
    count as u64
}

/// LAMBDA, Wrapper: "who gets an answer knows that what the invocation changed is saved".
#[test]
fn before_an_answer_its_state_is_saved() {
    let mut lab = Lab::prepare(Setup::default());
    for round in 0..3 {
        let sandbox = Sandbox::new(Refusals::default());
        let process = wrapped(&lab, &sandbox, &plain(), &[]);
        for n in 1..=2 {
            assert_eq!(sandbox.invoke(&add()).count(), round * 2 + n);
            assert_eq!(saved(&lab), round * 2 + n);
        }
        process.kill();
        lab.wipe();
        assert!(sandbox.init_errors().is_empty());
    }
}

/// LAMBDA, Settings: "made if it is not there", and "an empty variable counts as unset".
#[test]
fn a_directory_that_is_not_there_is_made_and_empty_variables_are_none() {
    let mut lab = Lab::prepare(Setup::default());
    let dir = lab.place().join("not/there");
    let empty = ["MODE", "GRACE", "STRAY", "UNREADABLE", "FLUSH", "ON_CONFLICT", "LOG"];
    let empty = empty.map(|name| format!("ICECACHE_{name}"));
    let variables: Vec<(&str, &str)> = empty
        .iter()
        .map(|name| (name.as_str(), ""))
        .chain([("ICECACHE_DIR", dir.to_str().unwrap())])
        .collect();
    for n in 1..=2 {
        let sandbox = Sandbox::new(Refusals::default());
        let process = wrapped(&lab, &sandbox, &plain(), &variables);
        assert_eq!(sandbox.invoke(&add()).count(), n);
        assert_eq!(saved(&lab), n);
        process.kill();
        lab.wipe();
    }
}

/// LAMBDA, Settings: "Without either nothing starts". A directory of the sandbox would be one, and an answer would tell that
/// all is saved.
#[test]
fn a_function_without_a_remote_does_not_begin() {
    let lab = Lab::prepare(Setup::default());
    let home = lab.root().join("house");
    fs::create_dir(&home).unwrap();
    let variables = [("ICECACHE_REMOTE", ""), ("HOME", home.to_str().unwrap())];
    let sandbox = Sandbox::new(Refusals::default());
    let mut process = wrapped(&lab, &sandbox, &plain(), &variables);
    assert_eq!(wait_for(&mut process.0, LIMIT), Some(125));
    let mut extension = extension(&lab, &sandbox, &variables);
    assert_ne!(wait_for(&mut extension.0, LIMIT), Some(0));
    assert!(!sandbox.is_registered(), "the runtime would have been started");
}

/// LAMBDA, Settings: "`ICECACHE_UNREADABLE`", for the extension too.
#[test]
fn an_extension_that_must_have_its_state_does_not_begin_without() {
    let cloud = Cloud::prepare();
    cloud.server.control().set_hook(|request| match request.operation {
        "GetObject" => Fault::FailBefore(s3s::S3ErrorCode::AccessDenied),
        _ => Fault::None,
    });
    let sandbox = Sandbox::new(Refusals::default());
    let mut extension = extension(&cloud.lab, &sandbox, &[("ICECACHE_UNREADABLE", "fail")]);
    assert_ne!(wait_for(&mut extension.0, LIMIT), Some(0));
    assert!(!sandbox.is_registered(), "the runtime would have been started");
}

/// Any order of invocations, freezes, crashes, kills and cold starts: the counter never goes back, and no increment that
/// was acknowledged is lost.
fn nothing_acknowledged_is_lost(what: &str, runtime: &[String], invocations: usize) {
    let mut dice = Dice::seeded(what);
    let mut lab = Lab::prepare(Setup::default());
    let mut sandbox = Sandbox::new(Refusals::default());
    let mut process = wrapped(&lab, &sandbox, runtime, &[]);
    let (mut acknowledged, mut cold_starts) = (0, 0);
    for n in 0..invocations {
        match dice.below(8) {
            0 => {
                // Cut off anywhere: in the handler, in the save, or before the answer.
                let _lost = sandbox.begin(&add(), LIMIT);
                std::thread::sleep(Duration::from_micros(dice.below(150_000)));
            }
            1 => {
                let id = sandbox.begin(&json!({ "op": "crash" }), LIMIT);
                assert_eq!(wait_for(&mut process.0, LIMIT), Some(3), "the wrapper ends as its runtime");
                assert!(sandbox.answer(&id, Duration::ZERO).is_none());
            }
            2 => assert!(sandbox.invoke(&json!({ "op": "fail" })).failed),
            _ => {
                let count = sandbox.invoke(&add()).count();
                assert!(count > acknowledged, "{n}: {count} after {acknowledged}");
                acknowledged = count;
                if dice.below(2) == 0 {
                    sandbox.wait_idle();
                    drop(Frozen::of(process.all()));
                }
                if dice.below(4) != 0 {
                    continue;
                }
            }
        }
        cold_starts += 1;
        process.kill();
        lab.wipe();
        sandbox = Sandbox::new(Refusals::default());
        process = wrapped(&lab, &sandbox, runtime, &[]);
    }
    let last = sandbox.invoke(&add()).count();
    assert!(last > acknowledged, "{last} after {acknowledged}");
    eprintln!("{what}: {acknowledged} acknowledged, {cold_starts} cold starts");
}

#[test]
fn no_acknowledged_increment_is_lost() {
    nothing_acknowledged_is_lost("no_acknowledged_increment_is_lost", &plain(), slice(20, 200));
}

/// The same with AWS's own runtime for Python (set `ICECACHE_TEST_LAMBDA_PYTHON` to a Python that has `awslambdaric`).
#[test]
fn no_acknowledged_increment_is_lost_with_the_runtime_of_aws() {
    match real() {
        Some(runtime) => nothing_acknowledged_is_lost("awslambdaric", &runtime, slice(20, 200)),
        None => skip("awslambdaric", "ICECACHE_TEST_LAMBDA_PYTHON is not set"),
    }
}

/// LAMBDA, What it costs: nothing for an invocation that changes nothing; else two PUTs, the first time after a start
/// one more.
#[test]
fn an_invocation_costs_no_request_or_two() {
    let mut cloud = Cloud::prepare();
    let sandbox = Sandbox::new(Refusals::default());
    let process = wrapped(&cloud.lab, &sandbox, &plain(), &[]);
    sandbox.invoke(&add());
    process.kill();
    cloud.lab.wipe();
    cloud.server.control().clear_log();
    let sandbox = Sandbox::new(Refusals::default());
    let _process = wrapped(&cloud.lab, &sandbox, &plain(), &[]);
    assert!(!sandbox.invoke(&json!({ "op": "ping" })).failed);
    let started = cloud.server.control().counts();
    assert_eq!(started.get("GetObject"), Some(&1), "HEAD, which has the layer in it: {started:?}");
    let asked = || cloud.server.control().log().into_iter().map(|r| r.operation).collect::<Vec<_>>();
    cloud.server.control().clear_log();
    for _ in 0..3 {
        assert!(!sandbox.invoke(&json!({ "op": "ping" })).failed);
    }
    assert!(asked().is_empty(), "{:?}", asked());
    for (count, requests) in [(2, 3), (3, 2), (4, 2)] {
        cloud.server.control().clear_log();
        assert_eq!(sandbox.invoke(&add()).count(), count);
        assert_eq!(asked(), vec!["PutObject"; requests]);
    }
}

/// LAMBDA, Wrapper: "If that fails the caller gets an error", and the next save makes up for it.
#[test]
fn an_answer_whose_state_is_not_saved_is_an_error() {
    let cloud = Cloud::prepare();
    let sandbox = Sandbox::new(Refusals::default());
    let _process = wrapped(&cloud.lab, &sandbox, &plain(), &[]);
    assert_eq!(sandbox.invoke(&add()).count(), 1);
    cloud.server.control().set_hook(|request| match request.operation {
        "PutObject" => Fault::FailBefore(s3s::S3ErrorCode::AccessDenied),
        _ => Fault::None,
    });
    // Larger than what a socket takes: it has to be read although nobody gets it.
    let answer = sandbox.invoke(&json!({ "op": "add", "padding": 5 << 20 }));
    assert!(answer.failed, "{answer:?}");
    assert_eq!(answer.json()["errorType"], "Icecache.NotSaved");
    let streamed = sandbox.invoke(&json!({ "op": "stream", "pieces": 3 }));
    assert_eq!(streamed.body, b"piece 0\npiece 1\npiece 2\n");
    let kind = streamed.trailers.get("lambda-runtime-function-error-type").map(String::as_str);
    assert_eq!(kind, Some("Icecache.NotSaved"));
    // What the handler says of itself goes before.
    let failed = sandbox.invoke(&json!({ "op": "fail" }));
    assert_eq!(failed.json()["errorType"], "RuntimeError");
    cloud.server.control().clear_hook();
    let answer = sandbox.invoke(&json!({ "op": "add", "padding": 5 << 20 }));
    assert_eq!((answer.count(), answer.body.len() > 5 << 20), (5, true));
    assert_eq!(saved(&cloud.lab), 5);
    let streamed = sandbox.invoke(&json!({ "op": "stream", "pieces": 1000 }));
    assert!(!streamed.failed && streamed.trailers.is_empty(), "{:?}", streamed.trailers);
    assert_eq!(saved(&cloud.lab), 6, "an answer that is streamed ends when its state is saved");
}

/// LAMBDA, Start: "nothing is saved over a state that could not be read".
#[test]
fn a_state_that_cannot_be_read_is_not_overwritten() {
    let cloud = Cloud::prepare();
    let mut lab = cloud.lab;
    let sandbox = Sandbox::new(Refusals::default());
    let process = wrapped(&lab, &sandbox, &plain(), &[]);
    assert_eq!(sandbox.invoke(&add()).count(), 1);
    process.kill();
    lab.wipe();
    cloud.server.control().set_hook(|request| match request.operation {
        "GetObject" => Fault::FailBefore(s3s::S3ErrorCode::AccessDenied),
        _ => Fault::None,
    });
    let sandbox = Sandbox::new(Refusals::default());
    let process = wrapped(&lab, &sandbox, &plain(), &[]);
    assert_eq!(sandbox.invoke(&add()).json()["errorType"], "Icecache.NotSaved");
    cloud.server.control().clear_hook();
    assert_eq!(sandbox.invoke(&add()).json()["errorType"], "Icecache.NotSaved", "it is another state");
    assert_eq!(saved(&lab), 1);
    process.kill();
}

/// LAMBDA: "If it has a state after all ... nobody works on a part of it", whenever it is saved.
#[test]
fn nobody_works_on_a_part_of_a_state_that_could_not_be_read_at_the_start() {
    for when in ["before-response", "after-response"] {
        let cloud = Cloud::prepare();
        let mut lab = cloud.lab;
        let mut dice = Dice::seeded(when);
        // Too large for a place in HEAD.
        let text: String = (0..20_000).map(|_| format!("{:016x}", dice.next())).collect();
        let write = json!({ "op": "write", "file": "large", "text": text });
        let sandbox = Sandbox::new(Refusals::default());
        let process = wrapped(&lab, &sandbox, &plain(), &[]);
        assert!(!sandbox.invoke(&write).failed);
        assert_eq!(sandbox.invoke(&add()).count(), 1);
        process.kill();
        lab.wipe();
        cloud.server.control().set_hook(|request| match request.operation {
            "GetObject" => Fault::FailBefore(s3s::S3ErrorCode::AccessDenied),
            _ => Fault::None,
        });
        let sandbox = Sandbox::new(Refusals::default());
        let mut process = wrapped(&lab, &sandbox, &plain(), &[("ICECACHE_FLUSH", when)]);
        sandbox.wait_idle();
        let held = std::sync::Arc::new(tokio::sync::Notify::new());
        let hold = held.clone();
        cloud.server.control().set_hook(move |request| match request.operation {
            "GetObject" if request.key.contains("layers/") => Fault::Hold(hold.clone()),
            _ => Fault::None,
        });
        let id = sandbox.begin(&add(), Duration::from_secs(2));
        let answer = sandbox.answer(&id, LIMIT).expect("an answer, although the remote gives none");
        assert_eq!(answer.json()["errorType"], "Icecache.NotRestored", "{when}");
        assert_eq!(wait_for(&mut process.0, LIMIT), Some(125), "{when}: the sandbox does not go on");
        cloud.server.control().clear_hook();
        held.notify_waiters();
        assert_eq!(saved(&lab), 1, "{when}");
        // Where it stood, the next start completes it.
        let sandbox = Sandbox::new(Refusals::default());
        let process = wrapped(&lab, &sandbox, &plain(), &[]);
        assert_eq!(sandbox.invoke(&add()).count(), 2, "{when}");
        assert_eq!(fs::read_to_string(lab.place().join("large")).unwrap(), text, "{when}");
        process.kill();
    }
}

/// LAMBDA: "Nothing takes the place of files that are open": what a runtime has made at its start, without the state, it
/// goes on with.
#[test]
fn a_state_that_could_not_be_read_does_not_come_beneath_an_open_connection() {
    let cloud = Cloud::prepare();
    let mut lab = cloud.lab;
    let connects = [("TEST_CONNECTS", "1")];
    let sandbox = Sandbox::new(Refusals::default());
    let process = wrapped(&lab, &sandbox, &plain(), &connects);
    assert_eq!(sandbox.invoke(&add()).count(), 1);
    process.kill();
    lab.wipe();
    cloud.server.control().set_hook(|request| match request.operation {
        "GetObject" => Fault::FailBefore(s3s::S3ErrorCode::AccessDenied),
        _ => Fault::None,
    });
    let sandbox = Sandbox::new(Refusals::default());
    let mut process = wrapped(&lab, &sandbox, &plain(), &connects);
    sandbox.wait_idle();
    cloud.server.control().clear_hook();
    assert_eq!(sandbox.invoke(&add()).json()["errorType"], "Icecache.NotRestored");
    assert_eq!(wait_for(&mut process.0, LIMIT), Some(125), "the sandbox does not go on");
    assert_eq!(saved(&lab), 1);
    lab.wipe();
    let sandbox = Sandbox::new(Refusals::default());
    let process = wrapped(&lab, &sandbox, &plain(), &connects);
    assert_eq!(sandbox.invoke(&add()).count(), 2);
    assert_eq!(saved(&lab), 2);
    process.kill();
}

/// LAMBDA: "A start waits at most six seconds for the remote". Nobody takes the connections here, and the kernel holds
/// them.
#[test]
fn a_remote_that_says_nothing_holds_no_start_up() {
    let mut cloud = Cloud::prepare();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    *cloud.lab.setup.remote_options.last_mut().unwrap() = endpoint;
    let sandbox = Sandbox::new(Refusals::default());
    let process = wrapped(&cloud.lab, &sandbox, &plain(), &[]);
    sandbox.wait_idle(); // one request alone could take longer than that is waited
    assert!(sandbox.init_errors().is_empty());
    process.kill();
    let sandbox = Sandbox::new(Refusals::default());
    let extension = extension(&cloud.lab, &sandbox, &[]);
    sandbox.wait_registered();
    extension.kill();
    let sandbox = Sandbox::new(Refusals::default());
    let mut process = wrapped(&cloud.lab, &sandbox, &plain(), &[("ICECACHE_UNREADABLE", "fail")]);
    assert_eq!(wait_for(&mut process.0, LIMIT), Some(125));
}

/// A program that is asked for credentials is a child of ours, and none of the command's: whoever asked waits for it.
#[test]
fn credentials_that_a_program_gives_are_renewed_while_the_runtime_runs() {
    let cloud = Cloud::prepare();
    let root = cloud.lab.root();
    let (helper, config) = (root.join("helper"), root.join("config"));
    // Over already, so that each request asks anew.
    let text = format!(
        "#!/bin/sh\necho asked >> '{}/asked'\necho '{{\"Version\":1,\"AccessKeyId\":\"{ACCESS_KEY}\",\"SecretAccessKey\":\"{SECRET_KEY}\",\
         \"Expiration\":\"2020-01-01T00:00:00Z\"}}'\n",
        root.display()
    );
    fs::write(&helper, text).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let profile = format!("[default]\nregion=us-east-1\ncredential_process={}\n", helper.display());
    fs::write(&config, profile).unwrap();
    let variables = [
        ("AWS_ACCESS_KEY_ID", ""),
        ("AWS_SECRET_ACCESS_KEY", ""),
        ("AWS_CONFIG_FILE", config.to_str().unwrap()),
    ];
    let sandbox = Sandbox::new(Refusals::default());
    let process = wrapped(&cloud.lab, &sandbox, &plain(), &variables);
    assert!(!sandbox.invoke(&json!({ "op": "ping" })).failed);
    let asked = || fs::read_to_string(root.join("asked")).unwrap().lines().count();
    let at_first = asked();
    for n in 1..=20 {
        assert_eq!(sandbox.invoke(&add()).count(), n);
    }
    assert!(asked() >= at_first + 20, "nobody was asked: {} after {at_first}", asked());
    process.kill();
}

/// LAMBDA, Wrapper: the other times to save.
#[test]
fn after_an_answer_or_now_and_then_it_is_saved_before_the_sandbox_rests() {
    for (when, saved_at) in [("after-response", [1, 2, 3, 4]), ("2", [0, 2, 2, 4]), ("1h", [0, 0, 0, 0])] {
        let lab = Lab::prepare(Setup::default());
        let sandbox = Sandbox::new(Refusals::default());
        let mut process = wrapped(&lab, &sandbox, &plain(), &[("ICECACHE_FLUSH", when)]);
        for (n, expected) in (1..).zip(saved_at) {
            assert_eq!(sandbox.invoke(&add()).count(), n, "{when}");
            sandbox.wait_idle();
            let _frozen = Frozen::of(process.all());
            assert_eq!(saved(&lab), expected, "{when}: invocation {n}");
        }
        // The end of the sandbox, where it says so.
        signal(process.0.id(), Signal::TERM);
        assert_eq!(wait_for(&mut process.0, LIMIT), Some(143), "{when}");
        assert_eq!(saved(&lab), 4, "{when}");
    }
    let lab = Lab::prepare(Setup::default());
    let sandbox = Sandbox::new(Refusals::default());
    let mut process = wrapped(&lab, &sandbox, &plain(), &[("ICECACHE_FLUSH", "sometimes")]);
    assert_eq!(wait_for(&mut process.0, LIMIT), Some(125), "a time that is none");
}

/// LAMBDA, Guarantees: "Instances that run at once".
#[test]
fn instances_at_once_lose_nothing_silently() {
    let lab = Lab::prepare(Setup::default());
    let folders = ["one", "other"].map(|name| lab.root().join(name));
    let sandboxes = folders.each_ref().map(|_| Sandbox::new(Refusals::default()));
    let instances: Vec<Process> = folders
        .iter()
        .zip(&sandboxes)
        .map(|(folder, sandbox)| {
            fs::create_dir(folder).unwrap();
            let process = wrapped(&lab, sandbox, &plain(), &[("ICECACHE_DIR", folder.to_str().unwrap())]);
            assert!(!sandbox.invoke(&json!({ "op": "ping" })).failed); // both have started
            process
        })
        .collect();
    let write = |n: usize, file: &str, text: &str| {
        assert!(!sandboxes[n].invoke(&json!({ "op": "write", "file": file, "text": text })).failed);
    };
    for round in ["1", "2"] {
        write(0, "of one", round);
        write(1, "of the other", round);
    }
    write(0, "both", "one");
    write(1, "both", "other");
    let read = |dir: &Path, file: &str| fs::read_to_string(dir.join(file)).unwrap();
    let restored = lab.restored(None);
    let found = ["of one", "of the other", "both"].map(|file| read(&restored, file));
    assert_eq!(found, ["2", "2", "other"]);
    let tags = || -> Vec<String> {
        let head: Value = serde_json::from_slice(&fs::read(lab.head()).unwrap()).unwrap();
        head["tags"].as_object().unwrap().keys().cloned().collect()
    };
    let before = tags().into_iter().find(|tag| tag.starts_with("before-merge-")).expect("a tag");
    assert_eq!(read(&lab.restored(Some(&before)), "both"), "one");
    // The files of a database are one thing: no version may have some of one instance and some of another.
    for _ in 0..3 {
        assert!(!sandboxes[0].invoke(&add()).failed);
        assert!(!sandboxes[1].invoke(&add()).failed);
    }
    drop(instances);
    let names = fs::read_dir(lab.remote_dir()).unwrap().map(|entry| entry.unwrap());
    for name in names.filter(|entry| entry.path().join("HEAD").exists()) {
        let (to, name) = (lab.root().join("check").join(name.file_name()), name.file_name());
        let remote = lab.remote();
        let arguments = ["restore", "--remote", &remote, "--name", name.to_str().unwrap(), "--to"];
        run(lab.command(arguments).arg(&to), LIMIT).must("restore");
        let database = rusqlite::Connection::open(to.join("counter.db")).unwrap();
        let verdict: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!((verdict.as_str(), counter(&to)), ("ok", 3), "{}", name.display());
    }
}
