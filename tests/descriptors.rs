//! Trees of more directories than a process may have descriptors.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use harness::{KEPT, LIMIT, Lab, Setup, Subject, Tree, is_root, run, skip};
use std::fs;
use std::path::Path;
use std::process::Command;

/// How many descriptors the daemon may have. Each of the tree's directories would take one.
const DESCRIPTORS: usize = 512;
const TOPS: usize = 10;
const BELOW: usize = 40;

fn populate(dir: &Path) {
    for top in 0..TOPS {
        for below in 0..BELOW {
            let dir = dir.join(format!("{top}/{below}/deep"));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("f"), format!("{top} {below}")).unwrap();
        }
    }
}

/// Mounts with a limit that the daemon cannot raise.
fn mount(lab: &Lab) {
    let inner = lab.mount_command(&lab.place(), &lab.state());
    let mut outer = Command::new("setpriv");
    if is_root() {
        outer.args(["--bounding-set=-sys_resource", "--inh-caps=-sys_resource"]);
    }
    outer.args(["sh", "-ec", &format!("ulimit -n {DESCRIPTORS}; exec \"$@\""), "sh"]);
    outer.arg(inner.get_program()).args(inner.get_args()).env_clear();
    outer.envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
    outer.env("PATH", std::env::var_os("PATH").unwrap());
    run(&mut outer, LIMIT).must("mount with few descriptors");
    assert!(lab.mounted());
    let limits = fs::read_to_string(format!("/proc/{}/limits", lab.pid())).unwrap();
    let limit = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert!(limit.split_whitespace().any(|word| word == DESCRIPTORS.to_string()), "{limit}");
}

/// SEMANTICS, Names: "A tree may have more directories than the daemon may have descriptors."
#[test]
fn all_of_a_large_tree_is_there_and_is_saved() {
    if Command::new("setpriv").arg("--version").output().is_err() {
        return skip("descriptors", "setpriv (util-linux) is not here");
    }
    for eager in [false, true] {
        let setup = if eager { Setup::default().with(&["--restore", "eager"]) } else { Setup::default() };
        let mut lab = Lab::new(setup);
        populate(&lab.dir());
        let tree = Tree::take(&lab.dir(), KEPT);
        lab.flush();
        lab.unmount();
        lab.wipe();
        mount(&lab);
        let place = lab.dir();
        Tree::take(&place, KEPT)
            .assert_same(&tree, "all of it, nearly twice as many directories as descriptors");

        // Below directories that have another name by now.
        for top in 0..TOPS {
            fs::rename(place.join(format!("{top}")), place.join(format!("t{top}"))).unwrap();
        }
        for top in 0..TOPS {
            for below in 0..BELOW {
                let dir = place.join(format!("t{top}/{below}"));
                assert_eq!(fs::read_to_string(dir.join("deep/f")).unwrap(), format!("{top} {below}"));
                fs::create_dir(dir.join("new")).unwrap();
                fs::rename(dir.join("deep/f"), dir.join("new/f")).unwrap();
                fs::remove_dir(dir.join("deep")).unwrap();
            }
        }
        lab.flush();
        let now = Tree::take(&place, KEPT);
        lab.unmount();
        Tree::take(&lab.restored(None), KEPT).assert_same(&now, "what was saved");
    }
}

/// Who is in a directory that was removed may still ask for it.
#[test]
fn a_removed_directory_stays_open_for_who_is_in_it() {
    let lab = Lab::prepare(Setup::default());
    mount(&lab);
    populate(&lab.dir());
    let script = "mkdir gone && cd gone && rmdir ../gone && find .. -type d | wc -l && stat -c %h . && ls -A . && ! touch f";
    let done =
        run(Command::new("sh").args(["-ec", script]).current_dir(lab.dir()), LIMIT).must("in no directory");
    let said: Vec<&str> = done.stdout.split_whitespace().collect();
    assert_eq!(said, [(TOPS * (1 + 2 * BELOW) + 1).to_string().as_str(), "0"], "{}", done.said());
}
