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
pub enum Links {
    /// It has none, or none that was seen.
    #[default]
    None,
    /// It has this one.
    One(Link),
    /// It has several, oldest first.
    #[allow(clippy::box_collection)] // a pointer for those that have one
    Several(Box<Vec<Link>>),
}

impl Links {
    /// The one seen last.
    pub fn last(&self) -> Option<&Link> {
        self.all().last()
    }

    /// Whether there is one besides this.
    pub fn has_other(&self, parent: u64, name: &CStr) -> bool {
        self.all().iter().any(|link| !link.is(parent, name))
    }

    /// Adds one, unless it is there.
    pub fn add(&mut self, parent: &Arc<Inode>, name: &CStr) {
        if self.all().iter().any(|link| link.is(parent.id, name)) {
            return;
        }
        let link = Link { parent: parent.clone(), name: name.into() };
        *self = match std::mem::take(self) {
            Self::None => Self::One(link),
            Self::One(before) => Self::Several(Box::new(vec![before, link])),
            Self::Several(mut links) => {
                links.push(link);
                Self::Several(links)
            }
        };
    }

    /// Removes one, if it is there.
    pub fn remove(&mut self, parent: u64, name: &CStr) {
        match self {
            Self::None => {}
            Self::One(link) if link.is(parent, name) => *self = Self::None,
            Self::One(_) => {}
            Self::Several(links) => {
                links.retain(|link| !link.is(parent, name));
                if links.len() < 2 {
                    *self = links.pop().map_or(Self::None, Self::One);
                }
            }
        }
    }

    fn all(&self) -> &[Link] {
        match self {
            Self::None => &[],
            Self::One(link) => std::slice::from_ref(link),
            Self::Several(links) => links,
        }
    }
}
