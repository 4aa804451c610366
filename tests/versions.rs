//! Versions as scripts meet them: looked at, found by time, listed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

#[path = "support/cloud.rs"]
mod cloud;
mod harness;
#[path = "versions/log.rs"]
mod log;
#[path = "versions/remote.rs"]
mod remote;
#[path = "versions/shown.rs"]
mod shown;
mod support;
#[path = "versions/verify.rs"]
mod verify;

use harness::{Finished, Lab, Setup, Subject};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

/// A verb that works on the remote of a lab.
#[track_caller]
fn offline(lab: &Lab, verb: &str, options: &[&str]) -> Finished {
    let remote = lab.remote();
    let mut args = vec![verb, "--remote", &remote, "--name", &lab.setup.name];
    args.extend(lab.setup.remote_options.iter().map(String::as_str));
    args.extend(options);
    lab.call(args)
}

#[track_caller]
fn json(done: &Finished) -> Value {
    serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("no JSON: {e}: {}", done.said()))
}

/// Three versions: `f` says which one it is, `large` came with the first, `gone` left with the second.
fn three_versions() -> Lab {
    let mut lab = Lab::new(Setup::default());
    make_three_versions(&mut lab);
    lab
}

fn make_three_versions(lab: &mut Lab) {
    fs::write(lab.dir().join("f"), "1").unwrap();
    fs::write(lab.dir().join("gone"), "1").unwrap();
    let noise: Vec<u8> = (0..3 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    fs::write(lab.dir().join("large"), noise).unwrap();
    fs::hard_link(lab.dir().join("large"), lab.dir().join("name")).unwrap();
    assert_eq!(lab.flush(), "1");
    fs::write(lab.dir().join("f"), "2").unwrap();
    fs::remove_file(lab.dir().join("gone")).unwrap();
    assert_eq!(lab.flush(), "2");
    fs::write(lab.dir().join("f"), "3").unwrap();
    assert_eq!(lab.flush(), "3");
}

/// The layers in the remote, oldest first, by what HEAD says.
fn layers(lab: &Lab) -> Vec<PathBuf> {
    let head: Value = serde_json::from_slice(&fs::read(lab.head()).unwrap()).unwrap();
    let keys = head["layers"].as_array().unwrap().iter();
    keys.map(|layer| lab.remote_dir().join(layer["key"].as_str().unwrap())).collect()
}
