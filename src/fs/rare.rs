//! [`Rare`]: a part of an inode that few inodes have, so that the others do not pay for it.
use std::ops::{Deref, DerefMut};

/// A value that is in memory only while it differs from the empty one.
#[derive(Debug)]
pub struct Rare<T>(Option<Box<T>>);

/// What a [`Rare`] value is for those that have none.
pub trait Empty: Default + 'static {
    /// The one all of these share.
    fn empty() -> &'static Self;
    /// Whether this one is like it.
    fn is_empty(&self) -> bool;
}

impl<T> Default for Rare<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Empty> Rare<T> {
    /// Gives the memory back if it is empty again.
    pub fn tidy(&mut self) {
        if self.0.as_ref().is_some_and(|value| value.is_empty()) {
            self.0 = None;
        }
    }
}

impl<T: Empty> Deref for Rare<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or_else(|| T::empty())
    }
}

impl<T: Empty> DerefMut for Rare<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }
}
