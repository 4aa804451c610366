//! A mount in a namespace of the command's own: who owns what there.
use super::*;
use std::os::unix::fs::{MetadataExt, chown};

/// `exec` by root who may not mount and lacks `others`.
fn without(lab: &Lab, others: &str, options: &[&str], script: &str) -> Finished {
    let how = format!("exec setpriv --bounding-set=-sys_admin{others} --inh-caps=-sys_admin{others} \"$@\"");
    exec_where(lab, &how, options, script)
}

fn owners(dir: &Path, names: &[&str]) -> Vec<(u32, u32)> {
    let owner = |name: &&str| {
        let there = fs::symlink_metadata(dir.join(name)).unwrap();
        (there.uid(), there.gid())
    };
    names.iter().map(owner).collect()
}

/// FUNCTIONS, Modes: "Root has all users and groups there".
#[test]
fn root_keeps_the_owners_of_all_files_in_a_namespace_of_its_own() {
    if !is_root() {
        return skip("owners", "only root can make files of others");
    }
    let mut lab = Lab::prepare(Setup::default());
    fs::create_dir(lab.place().join("d")).unwrap();
    fs::write(lab.place().join("d/f"), "").unwrap();
    chown(lab.place().join("d"), Some(33), Some(33)).unwrap();
    chown(lab.place().join("d/f"), Some(1000), Some(100)).unwrap();
    // What a program needs that goes on as another user.
    let script = "touch new && chown 7:8 new && setpriv --reuid 33 --regid 33 --groups 33,44 touch d/of33";
    let done = without(&lab, "", &["--mode", "auto"], script);
    if done.stderr.contains("private namespace") {
        return skip("a private namespace", &done.stderr);
    }
    let said = done.must("exec");
    assert!(said.stderr.contains("namespace of the command's own"), "{}", said.said());
    let names = ["d", "d/f", "new", "d/of33"];
    let expected = [(33, 33), (1000, 100), (7, 8), (33, 33)];
    assert_eq!(owners(&lab.restored(None), &names), expected);
    // And elsewhere, where they come from the remote.
    lab.wipe();
    let script = "stat -c %u:%g d d/f new d/of33 > seen";
    without(&lab, "", &["--mode", "mount"], script).must("exec");
    assert_eq!(read(lab.restored(None).join("seen")), "33:33\n1000:100\n7:8\n33:33\n");
}

/// FUNCTIONS, Modes: "Where root would not have them ... owners would be lost: then it is not done."
#[test]
fn where_owners_would_be_lost_there_is_no_namespace() {
    if !is_root() {
        return skip("owners", "only root can make files of others");
    }
    let lab = Lab::prepare(Setup::default());
    fs::write(lab.place().join("f"), "").unwrap();
    chown(lab.place().join("f"), Some(1000), Some(100)).unwrap();
    let fewer = ",-setuid,-setgid";
    let done = without(&lab, fewer, &["--mode", "auto"], "true").must("exec");
    assert!(done.stderr.contains("mode directory") && done.stderr.contains("a place in"), "{}", done.said());
    assert_eq!(owners(&lab.restored(None), &["f"]), [(1000, 100)]);
    let refused = without(&lab, fewer, &["--mode", "mount"], "true");
    assert_eq!(refused.code, 125, "{}", refused.said());
}
