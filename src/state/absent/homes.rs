//! [`Homes`]: the directories that have left their places, and where they are.
use super::tree::Node;
use crate::layer::extract::Dirs;
use crate::sync::Mutex;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// So many directories are kept open below each: there may be many of those.
const OPEN_MAX: usize = 4;

/// Where a moved directory is.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) dirs: Mutex<Dirs>,
    pub(super) ino: u64,
    /// Nothing in it is absent any more.
    pub(super) complete: AtomicBool,
    /// Nor is anything that no version can have there unless it is here.
    pub(super) made: AtomicBool,
}

impl Home {
    fn new(ino: u64, fd: OwnedFd) -> Self {
        let dirs = Mutex::new(Dirs::keeping(fd, OPEN_MAX));
        Self { dirs, ino, complete: AtomicBool::new(false), made: AtomicBool::new(false) }
    }
}

/// Those of all moved directories, by node and by inode number.
#[derive(Debug, Default)]
pub(super) struct Homes {
    of: HashMap<Node, Arc<Home>>,
    at: HashMap<u64, Node>,
}

impl Homes {
    pub(super) fn get(&self, node: Node) -> Option<&Arc<Home>> {
        self.of.get(&node)
    }

    /// Whose directory has this number. One that is gone may have had it before.
    pub(super) fn at(&self, ino: u64) -> Option<Node> {
        self.at.get(&ino).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.of.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Node, &Arc<Home>)> {
        self.of.iter().map(|(node, home)| (*node, home))
    }

    /// From now on what is below a node is in this directory.
    pub(super) fn put(&mut self, node: Node, ino: u64, fd: OwnedFd) {
        self.remove(node);
        self.of.insert(node, Arc::new(Home::new(ino, fd)));
        self.at.insert(ino, node);
    }

    pub(super) fn remove(&mut self, node: Node) {
        let Some(home) = self.of.remove(&node) else { return };
        if self.at(home.ino) == Some(node) {
            self.at.remove(&home.ino);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_came_last_to_a_number_has_it() {
        let dir = || std::fs::File::open("/").map(OwnedFd::from).expect("opens");
        let mut homes = Homes::default();
        homes.put(1, 7, dir());
        homes.put(2, 7, dir());
        assert_eq!((homes.at(7), homes.len()), (Some(2), 2));
        homes.remove(1);
        assert_eq!(homes.at(7), Some(2), "that was another one's by then");
        homes.put(2, 8, dir());
        assert_eq!((homes.at(7), homes.at(8), homes.len()), (None, Some(2), 1));
        homes.remove(2);
        assert!(homes.at(8).is_none() && homes.get(2).is_none() && homes.iter().next().is_none());
    }
}
