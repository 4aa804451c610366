//! Any edits of a tree, planned and applied to the older version, give the newer version.
use super::*;
use proptest::prelude::*;
use std::collections::HashMap as Map;

/// One entry of a restored tree; `class` is equal for names of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    what: String,
    mode: u32,
    mtime: (i64, i64),
    class: u64,
}

type Model = BTreeMap<RelPath, Node>;

#[derive(Debug, Clone)]
enum Edit {
    Write(usize, u8),
    MakeDir(usize),
    Remove(usize),
    Rename(usize, usize),
    Exchange(usize, usize),
    Link(usize, usize),
    Symlink(usize),
    Chmod(usize, bool),
    Capture,
    Flush,
    Scan,
}

const PATHS: [&str; 14] =
    ["a", "b", "c", "a/a", "a/b", "a-b", "b/a", "b/c", "c/a", "a/a/a", "a/b/c", "b/a/a", "b/a/b", "c/a/a"];

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let p = || 0..PATHS.len();
    let edit = prop_oneof![
        4 => (p(), any::<u8>()).prop_map(|(a, b)| Edit::Write(a, b)),
        4 => p().prop_map(Edit::MakeDir),
        3 => p().prop_map(Edit::Remove),
        4 => (p(), p()).prop_map(|(a, b)| Edit::Rename(a, b)),
        1 => (p(), p()).prop_map(|(a, b)| Edit::Exchange(a, b)),
        4 => (p(), p()).prop_map(|(a, b)| Edit::Link(a, b)),
        1 => p().prop_map(Edit::Symlink),
        1 => (p(), any::<bool>()).prop_map(|(a, b)| Edit::Chmod(a, b)),
        2 => Just(Edit::Capture),
        2 => Just(Edit::Flush),
        1 => Just(Edit::Scan),
    ];
    proptest::collection::vec(edit, 1..60)
}

struct Run {
    world: World,
    marks: Marks,
    plan: Option<Plan>,
    model: Model,
    classes: u64,
}

impl Run {
    fn mark(&mut self, p: &str, extent: Extent) {
        let slot = self.marks.entry(path(p)).or_insert(extent);
        *slot = (*slot).max(extent);
    }

    /// Does what an edit says as far as the file system allows, and marks as the mount would.
    fn edit(&mut self, edit: &Edit) {
        match *edit {
            Edit::Write(p, byte) => {
                if fs::symlink_metadata(self.world.at(PATHS[p])).is_ok_and(|m| m.is_symlink()) {
                    return;
                }
                if fs::write(self.world.at(PATHS[p]), vec![byte; usize::from(byte) + 1]).is_ok() {
                    self.mark(PATHS[p], E);
                }
            }
            Edit::MakeDir(p) => {
                if fs::create_dir(self.world.at(PATHS[p])).is_ok() {
                    self.mark(PATHS[p], E);
                }
            }
            Edit::Remove(p) => self.remove(PATHS[p]),
            Edit::Rename(a, b) | Edit::Exchange(a, b) => {
                let flags = if matches!(edit, Edit::Exchange(..)) {
                    rustix::fs::RenameFlags::EXCHANGE
                } else {
                    rustix::fs::RenameFlags::empty()
                };
                let (old, new) = (self.world.at(PATHS[a]), self.world.at(PATHS[b]));
                let cwd = rustix::fs::CWD;
                // As `fs::ops::rename` does: a directory is marked whole at both ends, since another may
                // soon stand at the old one.
                let is_dir = |p: &std::path::Path| fs::symlink_metadata(p).is_ok_and(|m| m.is_dir());
                let moved = is_dir(&old) || (flags == rustix::fs::RenameFlags::EXCHANGE && is_dir(&new));
                if rustix::fs::renameat_with(cwd, &old, cwd, &new, flags).is_ok() {
                    for p in [PATHS[a], PATHS[b]] {
                        self.mark(p, if moved { S } else { E });
                    }
                }
            }
            Edit::Link(a, b) => {
                if fs::hard_link(self.world.at(PATHS[a]), self.world.at(PATHS[b])).is_ok() {
                    self.mark(PATHS[a], E);
                    self.mark(PATHS[b], E);
                }
            }
            Edit::Symlink(p) => {
                if symlink("nowhere", self.world.at(PATHS[p])).is_ok() {
                    self.mark(PATHS[p], E);
                }
            }
            Edit::Chmod(p, x) => {
                let at = self.world.at(PATHS[p]);
                if fs::symlink_metadata(&at).is_ok_and(|m| !m.is_symlink()) {
                    let mode = if x { 0o755 } else { 0o700 };
                    fs::set_permissions(at, fs::Permissions::from_mode(mode)).expect("chmod");
                    self.mark(PATHS[p], E);
                }
            }
            Edit::Capture => self.capture(),
            Edit::Flush => self.flush(),
            Edit::Scan => {
                // A crash: marks and plan are lost.
                self.plan = None;
                self.marks = self.world.scan().marks;
                self.flush();
            }
        }
    }

    /// As `rm -r`: every entry is removed, and marked, one by one.
    fn remove(&mut self, p: &str) {
        let at = self.world.at(p);
        let Ok(meta) = fs::symlink_metadata(&at) else { return };
        if meta.is_dir() {
            for entry in fs::read_dir(&at).expect("lists") {
                let name = entry.expect("entry").file_name();
                self.remove(&format!("{p}/{}", name.to_str().expect("ascii")));
            }
            fs::remove_dir(&at).expect("removes");
        } else {
            fs::remove_file(&at).expect("removes");
        }
        self.mark(p, E);
    }

    fn capture(&mut self) {
        let marks = std::mem::take(&mut self.marks);
        match &mut self.plan {
            Some(plan) => self.world.refresh(plan, &marks),
            None => self.plan = Some(self.world.capture(&marks)),
        }
    }

    fn flush(&mut self) {
        self.capture();
        let plan = self.plan.take().expect("captured");
        assert!(plan.unreadable().is_empty(), "{:?}", plan.unreadable());
        self.apply(&plan);
        self.world.promote(&plan);
        let now = self.tree();
        assert_eq!(plain(&self.model), plain(&now));
        assert_eq!(partition(&self.model), partition(&now));
        let left = self.world.scan().marks;
        assert!(left.is_empty(), "records differ from the tree: {left:?}");
    }

    /// What a restore does with a layer.
    fn apply(&mut self, plan: &Plan) {
        for p in plan.removals() {
            let had = self.model.keys().any(|k| k.starts_with(p));
            assert!(had, "a whiteout for what never was: {p}");
            self.model.retain(|k, _| !k.starts_with(p));
        }
        for (p, captured) in plan.puts() {
            if let Some(parent) = p.parent() {
                assert!(self.model.get(&parent).is_some_and(|n| n.what == "dir"), "no directory for {p}");
            }
            let class = match &captured.link {
                Some(target) => self.model[target].class,
                None => {
                    self.classes += 1;
                    self.classes
                }
            };
            if captured.kind != Kind::Directory {
                self.model.retain(|k, _| k == p || !k.starts_with(p));
            }
            let at = self.world.dir.path().join(p.as_path());
            let node = read(&at, class);
            assert_eq!((node.mode, node.mtime.0), (captured.meta.mode, captured.meta.mtime.sec));
            self.model.insert(p.clone(), node);
        }
    }

    fn tree(&self) -> Model {
        let mut model = Model::new();
        let mut todo = vec![RelPath::root()];
        while let Some(p) = todo.pop() {
            let at = self.world.dir.path().join(p.as_path());
            let meta = fs::symlink_metadata(&at).expect("stat");
            if meta.is_dir() {
                for entry in fs::read_dir(&at).expect("lists") {
                    use std::os::unix::ffi::OsStrExt;
                    todo.push(p.join(entry.expect("entry").file_name().as_bytes()));
                }
            }
            model.insert(p, read(&at, meta.ino()));
        }
        model
    }
}

fn read(at: &std::path::Path, class: u64) -> Node {
    let meta = fs::symlink_metadata(at).expect("stat");
    let what = if meta.is_dir() {
        "dir".to_owned()
    } else if meta.is_symlink() {
        "link".to_owned()
    } else {
        format!("{:?}", fs::read(at).expect("reads"))
    };
    Node { what, mode: meta.mode() & 0o7777, mtime: (meta.mtime(), meta.mtime_nsec()), class }
}

fn plain(model: &Model) -> BTreeMap<&RelPath, (&str, u32, (i64, i64))> {
    model.iter().map(|(p, n)| (p, (n.what.as_str(), n.mode, n.mtime))).collect()
}

/// Which names are one file, whatever the classes are called.
fn partition(model: &Model) -> BTreeSet<Vec<&RelPath>> {
    let mut groups: Map<u64, Vec<&RelPath>> = Map::new();
    for (p, node) in model {
        groups.entry(node.class).or_default().push(p);
    }
    groups.into_values().collect()
}

fn run(edits: &[Edit]) {
    let mut run =
        Run { world: World::new(), marks: marks_of(&[("", S)]), plan: None, model: Model::new(), classes: 0 };
    run.flush();
    for edit in edits {
        run.edit(edit);
    }
    run.flush();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_edits_planned_and_applied_give_the_tree(edits in edits()) {
        run(&edits);
    }
}
