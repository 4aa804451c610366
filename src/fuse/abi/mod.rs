//! The kernel's wire format (FUSE 7.31 and later): numbers, structs and their order in a message.
//!
//! A request is a [`InHeader`], a struct that its operation fixes, and names or data. Over the
//! device all three come in one piece; over a ring the struct has an area of its own. [`Body`] hides
//! that. Source of every number and layout: `include/uapi/linux/fuse.h` of Linux.
pub mod answer;
pub mod init;
pub mod notice;
pub mod request;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Protocol version: the major one that is spoken, the newest minor one whose structs are known, and
/// the oldest that has what a mount needs (Linux 5.4).
pub const MAJOR: u32 = 7;
/// See [`MAJOR`].
pub const MINOR: u32 = 42;
/// See [`MAJOR`].
pub const MINOR_OLDEST: u32 = 31;

/// Body of an INTERRUPT: which request is meant.
#[derive(Debug, Clone, Copy, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct InterruptIn {
    /// Its [`InHeader::unique`].
    pub unique: u64,
}

/// Before every request.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InHeader {
    /// Bytes of the whole request.
    pub len: u32,
    /// See [`Opcode`].
    pub opcode: u32,
    /// Names the request in its reply.
    pub unique: u64,
    /// The inode that it is about.
    pub nodeid: u64,
    /// Who asks.
    pub uid: u32,
    /// Group of who asks.
    pub gid: u32,
    /// Thread that asks, 0 if it is not visible in our pid namespace.
    pub pid: u32,
    /// Length of extensions in units of 8 bytes; none are negotiated.
    pub total_extlen: u16,
    padding: u16,
}

/// Before every reply and every notification.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OutHeader {
    /// Bytes of the whole reply; meaningless over a ring.
    pub len: u32,
    /// 0 or a negated errno; of a notification, its code.
    pub error: i32,
    /// The request's; 0 for a notification.
    pub unique: u64,
}

macro_rules! opcodes {
    ($($name:ident = $number:literal,)*) => {
        /// What a request asks for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u32)]
        #[allow(missing_docs)] // the protocol's own names
        pub enum Opcode { $($name = $number,)* }

        impl Opcode {
            /// `None` for one that is not served.
            pub fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
}

opcodes! {
    Lookup = 1, Forget = 2, Getattr = 3, Setattr = 4, Readlink = 5, Symlink = 6, Mknod = 8, Mkdir = 9,
    Unlink = 10, Rmdir = 11, Rename = 12, Link = 13, Open = 14, Read = 15, Write = 16, Statfs = 17,
    Release = 18, Fsync = 20, Setxattr = 21, Getxattr = 22, Listxattr = 23, Removexattr = 24,
    Init = 26, Readdir = 28, Fsyncdir = 30, Create = 35, Interrupt = 36, Destroy = 38,
    BatchForget = 42, Fallocate = 43, Readdirplus = 44, Rename2 = 45, Lseek = 46, CopyFileRange = 47,
}

/// What follows the header of a request.
#[derive(Debug, Clone, Copy)]
pub struct Body<'a> {
    /// Begins with the operation's struct.
    head: &'a [u8],
    /// What follows the struct; `None`: it follows in `head`.
    tail: Option<&'a [u8]>,
}

impl<'a> Body<'a> {
    /// Of a request that came in one piece.
    pub fn whole(bytes: &'a [u8]) -> Self {
        Self { head: bytes, tail: None }
    }

    /// Of a request that came in two.
    pub fn split(head: &'a [u8], tail: &'a [u8]) -> Self {
        Self { head, tail: Some(tail) }
    }

    /// The operation's struct and what follows it.
    fn fixed<T: FromBytes>(self) -> Option<(T, &'a [u8])> {
        let (fixed, rest) = T::read_from_prefix(self.head).ok()?;
        Some((fixed, self.tail.unwrap_or(rest)))
    }

    /// What there is, of an operation without a struct.
    fn rest(self) -> &'a [u8] {
        self.tail.unwrap_or(self.head)
    }
}
