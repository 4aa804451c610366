//! [`Nodes`]: the numbers that the kernel knows paths by.
use super::handles::Passed;
use super::listing::Listings;
use crate::sync::Mutex;
use crate::tables::{Found, Known as Columns};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// The number of the mount itself, without what all numbers have.
pub const ROOT: u64 = 1;

/// Something that the kernel has a number for.
#[derive(Debug)]
pub struct Node {
    /// The number.
    pub id: u64,
    /// Its path below the mount.
    pub path: Arc<str>,
    /// What stands there; that never becomes anything else under this number.
    pub found: Found,
    /// Whether the answers about it may change.
    pub changes: bool,
    /// The names of a folder.
    pub names: Listings,
    /// How it is open: the kernel serves a file in one way at a time.
    pub opened: Mutex<Opened>,
    /// Whether the kernel may have listed it.
    listed: AtomicBool,
    /// The tag of the object, or the version of the file, whose bytes the kernel may have of it.
    version: OnceLock<String>,
}

/// How a file is open: in one of the two ways.
#[derive(Debug, Default)]
pub struct Opened {
    /// What the kernel serves it from: one for all who have it open.
    pub passed: Weak<Passed>,
    /// How often we serve it.
    pub classic: u32,
    /// What is known of its columns, by who has it open.
    pub columns: Weak<Columns>,
}

/// See the module. Owner of its lock.
#[derive(Debug)]
pub struct Nodes(Mutex<Table>);

#[derive(Debug)]
struct Table {
    by_id: HashMap<u64, (Arc<Node>, u64)>,
    by_path: HashMap<Arc<str>, u64>,
    root: u64,
    next: u64,
}

impl Nodes {
    /// The mount itself, and nothing else. All numbers have the bits of `all`.
    pub fn new(all: u64) -> Self {
        let id = all | ROOT;
        let root = Arc::new(Node::new(id, "".into(), Found::Folder, false));
        let by_path = HashMap::from([(root.path.clone(), id)]);
        Self(Mutex::new(Table { by_id: HashMap::from([(id, (root, 1))]), by_path, root: id, next: id + 1 }))
    }

    /// The node of a number.
    pub fn get(&self, id: u64) -> Option<Arc<Node>> {
        self.0.lock().by_id.get(&id).map(|(node, _)| node.clone())
    }

    /// The node of a path, if the kernel knows it.
    pub fn at(&self, path: &str) -> Option<Arc<Node>> {
        let table = self.0.lock();
        table.by_path.get(path).and_then(|id| table.by_id.get(id)).map(|(node, _)| node.clone())
    }

    /// The node of what stands at a path; counts one reference of the kernel. What became something else gets
    /// another number.
    pub fn intern(&self, path: &str, found: Found, changes: bool) -> Arc<Node> {
        let mut table = self.0.lock();
        let known = table.by_path.get(path).copied();
        if let Some((node, references)) = known.and_then(|id| table.by_id.get_mut(&id))
            && node.found == found
        {
            *references += 1;
            return node.clone();
        }
        let id = table.next;
        table.next += 1;
        let node = Arc::new(Node::new(id, path.into(), found, changes));
        table.by_path.insert(node.path.clone(), id);
        table.by_id.insert(id, (node.clone(), 1));
        node
    }

    /// Whether nothing else stands at the path of a node by now, as far as somebody has looked.
    pub fn is_current(&self, node: &Node) -> bool {
        self.0.lock().by_path.get(&node.path) == Some(&node.id)
    }

    /// Something else stands there by now: whoever looks next gets another number for it.
    pub fn retire(&self, node: &Node) {
        let mut table = self.0.lock();
        if table.by_path.get(&node.path) == Some(&node.id) {
            table.by_path.remove(&node.path);
        }
    }

    /// The kernel gives back references.
    pub fn forget(&self, id: u64, count: u64) {
        let mut table = self.0.lock();
        let root = table.root;
        let Some((node, references)) = table.by_id.get_mut(&id).filter(|_| id != root) else { return };
        *references = references.saturating_sub(count);
        if *references == 0 {
            let path = node.path.clone();
            table.by_id.remove(&id);
            if table.by_path.get(&path) == Some(&id) {
                table.by_path.remove(&path);
            }
        }
    }

    /// The numbers of a path and of all that lie below it, as far as the kernel has them.
    pub fn within(&self, path: &str) -> Vec<Arc<Node>> {
        let table = self.0.lock();
        let nodes = table.by_id.values().map(|(node, _)| node);
        let within = nodes.filter(|node| {
            node.path.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        within.cloned().collect()
    }
}

impl Node {
    fn new(id: u64, path: Arc<str>, found: Found, changes: bool) -> Self {
        Self {
            id,
            path,
            found,
            changes,
            names: Listings::default(),
            opened: Mutex::default(),
            listed: AtomicBool::new(false),
            version: OnceLock::new(),
        }
    }

    /// Whether an object is the one that was opened here before, if any was.
    pub fn is_still(&self, tag: &str) -> bool {
        self.version.get_or_init(|| tag.to_owned()) == tag
    }

    /// The path of a name in this folder.
    pub fn child(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}/{name}", self.path) }
    }

    /// The kernel has a listing, and may keep it. Whether it had none yet.
    pub fn lists(&self) -> bool {
        !self.listed.swap(true, Ordering::Relaxed)
    }

    /// The kernel is to ask again. Whether it may have a listing.
    pub fn is_listed_no_more(&self) -> bool {
        self.listed.swap(false, Ordering::Relaxed)
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;

    #[test]
    fn a_path_keeps_its_number_until_the_kernel_forgets_it() {
        let nodes = Nodes::new(0);
        let text = |text: &'static str| Found::Text(text.into());
        let a = nodes.intern("t/a", Found::Folder, false);
        assert_eq!(nodes.intern("t/a", Found::Folder, false).id, a.id);
        assert_eq!(a.child("b"), "t/a/b");
        assert_eq!(nodes.get(ROOT).expect("the root").child("t"), "t");
        let (one, two) = (nodes.intern("t/e", text("x"), true), nodes.intern("t/e", text("y"), true));
        assert_ne!(one.id, two.id);
        assert_eq!(nodes.at("t/e").expect("there").id, two.id);
        assert_eq!(nodes.within("t").len(), 3);
        assert_eq!(nodes.within("t/").len(), 0);
        nodes.forget(a.id, 1);
        assert!(nodes.at("t/a").is_some());
        assert!(two.is_still("x") && two.is_still("x") && !two.is_still("y"));
        nodes.retire(&one); // it is not the newest there
        assert_eq!(nodes.at("t/e").expect("there").id, two.id);
        assert!(nodes.is_current(&two) && !nodes.is_current(&one));
        nodes.retire(&two);
        assert!(!nodes.is_current(&two));
        assert!(nodes.at("t/e").is_none() && nodes.get(two.id).is_some());
        let three = nodes.intern("t/e", text("y"), true);
        assert!(three.id != two.id && three.is_still("y"));
        nodes.forget(two.id, 1);
        nodes.forget(a.id, 1);
        nodes.forget(one.id, 1);
        nodes.forget(ROOT, 5);
        assert!(nodes.at("t/a").is_none() && nodes.at("t/e").is_some() && nodes.get(ROOT).is_some());
    }
}
