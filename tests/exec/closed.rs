//! What cannot be read: by the user of an `exec`, or on a machine that lacks something.
use super::*;

/// `exec` by a root who is asked for permission like anybody else.
fn exec_as_anybody(lab: &Lab, mode: &[&str], script: &str) -> Finished {
    let rights = "-dac_override,-dac_read_search";
    let how = format!("exec setpriv --bounding-set={rights} --inh-caps={rights} \"$@\"");
    exec_where(lab, &how, mode, script)
}

/// FUNCTIONS, Directory: "what cannot be read is listed, and the exit code is 125", by each save until it can be read.
#[test]
fn what_cannot_be_read_is_told_by_each_end() {
    if !is_root() {
        return skip("closed directories", "only root can take rights away");
    }
    let lab = Lab::prepare(Setup::default());
    let told = |what: &str, script: &str, closed: &[&str]| {
        let done = exec_as_anybody(&lab, MODES[1], script);
        assert_eq!(done.code, if closed.is_empty() { 0 } else { 125 }, "{what}: {}", done.said());
        for path in closed {
            assert!(
                done.stderr.contains(&format!("not saved: {path}: Permission denied")),
                "{what}: {}",
                done.said()
            );
        }
        assert_eq!(done.stderr.matches("not saved:").count(), closed.len(), "{what}: {}", done.said());
    };
    // A file that nobody else can read, and that is as the version has it, is no loss.
    exec(&lab, MODES[1], "echo 1 > shut; chmod 0 shut").must("exec");
    told("new", "mkdir new old; echo 1 > new/f; echo 1 > old/f; chmod 0 new", &["new"]);
    told("nothing done", "true", &["new"]);
    told("another file", "echo 1 > g", &["new"]);
    told("recorded before", "echo 2 > old/f; echo 2 > old/late; chmod 0 old", &["new", "old"]);
    told("nothing done again", "true", &["new", "old"]);
    assert_eq!(read(lab.restored(None).join("g")), "1\n");
    told("one is open", "chmod 700 old", &["new"]);
    told("names alone", "chmod 600 old", &["new", "old"]);
    told("all is open", "chmod 700 new old", &[]);
    told("all is saved", "true", &[]);
    let restored = lab.restored(None);
    let found = ["new/f", "old/f", "old/late"].map(|path| read(restored.join(path)));
    assert_eq!(found, ["1\n", "2\n", "2\n"]);
    told("of the file system", "mkdir lost+found; chmod 0 lost+found; echo 3 > h", &[]);
    told("nothing done there", "true", &[]);
}

/// The same of a mount, which must not forget what the one before it has told.
#[test]
fn what_cannot_be_read_is_told_by_each_mount() {
    if !is_root() {
        return skip("closed directories", "only root can take rights away");
    }
    let lab = Lab::prepare(Setup::default());
    for script in ["mkdir new; echo 1 > new/f; chmod 0 new", "true", "echo 1 > g"] {
        let done = exec_as_anybody(&lab, MODES[0], script);
        assert_eq!(done.code, 125, "{script}: {}", done.said());
        assert!(done.stderr.contains("not saved: new"), "{script}: {}", done.said());
    }
    for script in ["chmod 700 new", "true"] {
        exec_as_anybody(&lab, MODES[0], script).must(script);
    }
    let restored = lab.restored(None);
    assert_eq!((read(restored.join("new/f")), read(restored.join("g"))), ("1\n".into(), "1\n".into()));
}

/// Without /proc nothing could be saved afterwards, and that is known before.
#[test]
fn where_nothing_can_be_saved_the_command_does_not_run() {
    if !is_root() {
        return skip("no /proc", "only root can take it away");
    }
    for mode in MODES {
        let lab = Lab::prepare(Setup::default());
        let done = exec_where(&lab, "umount -l /proc; exec \"$@\"", mode, "echo ran > ran");
        assert_eq!(done.code, 125, "{mode:?}: {}", done.said());
        assert!(done.stderr.contains("/proc is not mounted"), "{mode:?}: {}", done.said());
        assert!(!lab.place().join("ran").exists(), "{mode:?}: {}", done.said());
    }
}
