//! [`Links`]: the names of one inode. Almost every inode has one.
use super::inode::Inode;
use super::name::Name;
use std::ffi::CStr;
use std::sync::Arc;

/// One name of a file: the directory that holds it and the name in it.
#[derive(Debug, Clone)]
pub struct Link {
    /// The directory.
    pub parent: Arc<Inode>,
    /// The name, without slash or NUL.
    pub name: Name,
}

impl Link {
    fn is(&self, parent: u64, name: &CStr) -> bool {
        self.parent.id == parent && self.name.as_c_str() == name
    }
}

/// Names that were seen and not removed since, each once.
#[derive(Debug, Default)]
pub struct Links {
    last: Option<Link>,
    /// Those before it, oldest first.
    #[allow(clippy::box_collection)] // a pointer for those that have none
    earlier: Option<Box<Vec<Link>>>,
}

impl Links {
    /// The one seen last.
    pub fn last(&self) -> Option<&Link> {
        self.last.as_ref()
    }

    /// Whether there is one besides this.
    pub fn has_other(&self, parent: u64, name: &CStr) -> bool {
        self.all().any(|link| !link.is(parent, name))
    }

    /// Adds one, unless it is there.
    pub fn add(&mut self, parent: &Arc<Inode>, name: &CStr) {
        if !self.all().any(|link| link.is(parent.id, name)) {
            let link = Link { parent: parent.clone(), name: name.into() };
            if let Some(before) = self.last.replace(link) {
                self.earlier.get_or_insert_default().push(before);
            }
        }
    }

    /// Removes one, if it is there.
    pub fn remove(&mut self, parent: u64, name: &CStr) {
        if let Some(earlier) = &mut self.earlier {
            earlier.retain(|link| !link.is(parent, name));
        }
        if self.last.as_ref().is_some_and(|link| link.is(parent, name)) {
            self.last = self.earlier.as_mut().and_then(|earlier| earlier.pop());
        }
        if self.earlier.as_ref().is_some_and(|earlier| earlier.is_empty()) {
            self.earlier = None;
        }
    }

    fn all(&self) -> impl Iterator<Item = &Link> {
        self.earlier.iter().flat_map(|earlier| earlier.iter()).chain(&self.last)
    }
}
