//! How often each operation was asked for since the mount.
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! ops {
    ($($variant:ident = $name:literal,)*) => {
        /// An operation of the FUSE protocol, or a call of ours that costs like one.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Op { $(#[doc = concat!("`", $name, "`")] $variant,)* }

        /// Their names, in the order of [`Op`].
        const NAMES: &[&str] = &[$($name),*];
    };
}

ops! {
    Lookup = "lookup", Forget = "forget", Getattr = "getattr", Setattr = "setattr", Readlink = "readlink",
    Mknod = "mknod", Mkdir = "mkdir", Unlink = "unlink", Rmdir = "rmdir", Symlink = "symlink",
    Rename = "rename", Link = "link", Open = "open", Read = "read", Write = "write", Flush = "flush",
    Release = "release", Fsync = "fsync", Opendir = "opendir", Readdir = "readdir",
    Readdirplus = "readdirplus", Fsyncdir = "fsyncdir", Statfs = "statfs", Setxattr = "setxattr",
    Getxattr = "getxattr", Listxattr = "listxattr", Removexattr = "removexattr", Access = "access",
    Create = "create", Fallocate = "fallocate", Lseek = "lseek", CopyFileRange = "copy_file_range",
    BackingOpen = "backing_open", ForgetListing = "forget_listing",
}

/// One counter per [`Op`].
#[derive(Debug)]
pub struct Counters([AtomicU64; NAMES.len()]);

impl Default for Counters {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; NAMES.len()])
    }
}

impl Counters {
    /// Counts one.
    pub fn add(&self, op: Op) {
        if let Some(counter) = self.0.get(op as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Every counter, by name.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        NAMES.iter().zip(&self.0).map(|(name, count)| (*name, count.load(Ordering::Relaxed)))
    }

    /// Every counter that is not zero, by name.
    pub fn snapshot(&self) -> BTreeMap<&'static str, u64> {
        self.all().filter(|(_, count)| *count > 0).collect()
    }
}
