//! Replies, written: one type for each shape that a reply can have.
use crate::fs::attr::Attr;
use crate::fs::inode::number_shown;
use std::time::Duration;
use zerocopy::{Immutable, IntoBytes};

/// How long the kernel may keep what it is told: nobody changes the tree but through us.
const TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// Bytes of the longest reply of fixed length: an entry and an opened file.
const FIXED_MAX: usize = size_of::<EntryOut>() + size_of::<OpenOut>();

/// What follows the header of a reply.
#[derive(Debug)]
pub enum Payload {
    /// A few structs.
    Fixed {
        /// The first `len` bytes count.
        bytes: [u8; FIXED_MAX],
        /// See `bytes`.
        len: usize,
    },
    /// Anything longer.
    Owned(Vec<u8>),
    /// So many bytes, which stand in the request's own buffer already.
    InPlace(usize),
}

impl Payload {
    /// Nothing: the reply is its header.
    pub const EMPTY: Self = Self::Fixed { bytes: [0; FIXED_MAX], len: 0 };

    fn of(parts: &[&[u8]]) -> Self {
        let (mut bytes, mut len) = ([0; FIXED_MAX], 0);
        for part in parts {
            bytes[len..len + part.len()].copy_from_slice(part);
            len += part.len();
        }
        Self::Fixed { bytes, len }
    }

    /// The bytes, unless they are in place.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Fixed { bytes, len } => &bytes[..*len],
            Self::Owned(bytes) => bytes,
            Self::InPlace(_) => &[],
        }
    }
}

/// What a successful reply carries.
pub trait Answer {
    /// Its bytes.
    fn payload(self) -> Payload;
}

impl Answer for () {
    fn payload(self) -> Payload {
        Payload::EMPTY
    }
}

/// Data: of a file, a listing, a link's target, an extended attribute.
impl Answer for Vec<u8> {
    fn payload(self) -> Payload {
        Payload::Owned(self)
    }
}

/// Attributes of the inode that was asked about.
#[derive(Debug)]
pub struct Attributes(pub u64, pub Attr);

impl Answer for Attributes {
    fn payload(self) -> Payload {
        let out =
            AttrOut { valid: TTL.as_secs(), valid_nsec: 0, dummy: 0, attr: AttrWire::new(self.0, &self.1) };
        Payload::of(&[out.as_bytes()])
    }
}

/// What stands behind a name: an inode, or nothing, and the kernel may remember either.
#[derive(Debug)]
pub struct Entry(pub Option<(u64, Attr)>);

impl Answer for Entry {
    fn payload(self) -> Payload {
        Payload::of(&[EntryOut::new(self.0.as_ref().map(|(id, attr)| (*id, attr))).as_bytes()])
    }
}

/// The same as [`Entry`], and how long the kernel may keep it.
#[derive(Debug)]
pub struct Brief(pub Option<(u64, Attr)>, pub Duration);

impl Answer for Brief {
    fn payload(self) -> Payload {
        let mut out = EntryOut::new(self.0.as_ref().map(|(id, attr)| (*id, attr)));
        out.last(self.1);
        Payload::of(&[out.as_bytes()])
    }
}

/// The same as [`Attributes`], and how long the kernel may keep them.
#[derive(Debug)]
pub struct BriefAttributes(pub u64, pub Attr, pub Duration);

impl Answer for BriefAttributes {
    fn payload(self) -> Payload {
        let (valid, valid_nsec) = (self.2.as_secs(), self.2.subsec_nanos());
        let out = AttrOut { valid, valid_nsec, dummy: 0, attr: AttrWire::new(self.0, &self.1) };
        Payload::of(&[out.as_bytes()])
    }
}

/// An opened file.
#[derive(Debug, Clone, Copy)]
pub enum Opened {
    /// Served by us, and never from what the kernel has cached.
    Fresh(u64),
    /// Served by us.
    Handle(u64),
    /// Served by the kernel from the file registered under this number.
    Backing {
        /// What RELEASE and FSYNC will name.
        handle: u64,
        /// See [`Backing`](crate::fuse::connection::Backing).
        id: u32,
    },
}

/// Bits of `OpenOut::open_flags`.
const DIRECT_IO: u32 = 1;
const KEEP_CACHE: u32 = 1 << 1;
const NO_FLUSH: u32 = 1 << 5;
const PASSTHROUGH: u32 = 1 << 7;

impl Opened {
    fn out(self) -> OpenOut {
        match self {
            Self::Fresh(handle) => OpenOut { handle, open_flags: DIRECT_IO | NO_FLUSH, backing_id: 0 },
            Self::Handle(handle) => OpenOut { handle, open_flags: KEEP_CACHE | NO_FLUSH, backing_id: 0 },
            Self::Backing { handle, id } => {
                OpenOut { handle, open_flags: PASSTHROUGH | NO_FLUSH, backing_id: id }
            }
        }
    }
}

impl Answer for Opened {
    fn payload(self) -> Payload {
        Payload::of(&[self.out().as_bytes()])
    }
}

/// A file that was made and opened.
#[derive(Debug)]
pub struct Created {
    /// Its inode.
    pub id: u64,
    /// Its attributes.
    pub attr: Attr,
    /// How it was opened.
    pub opened: Opened,
}

impl Answer for Created {
    fn payload(self) -> Payload {
        let entry = EntryOut::new(Some((self.id, &self.attr)));
        Payload::of(&[entry.as_bytes(), self.opened.out().as_bytes()])
    }
}

/// Bytes written or copied.
#[derive(Debug, Clone, Copy)]
pub struct Written(pub u32);

impl Answer for Written {
    fn payload(self) -> Payload {
        Payload::of(&[[self.0, 0].as_bytes()])
    }
}

/// Where a seek came to.
#[derive(Debug, Clone, Copy)]
pub struct Offset(pub i64);

impl Answer for Offset {
    fn payload(self) -> Payload {
        Payload::of(&[self.0.as_bytes()])
    }
}

/// An extended attribute, or the list of their names: its bytes, or how many there are.
impl Answer for crate::fs::Value {
    fn payload(self) -> Payload {
        match self {
            Self::Length(length) => Payload::of(&[[length as u32, 0].as_bytes()]),
            Self::Bytes(bytes) => Payload::Owned(bytes),
        }
    }
}

impl Answer for rustix::fs::StatVfs {
    fn payload(self) -> Payload {
        let out = StatfsOut {
            blocks: self.f_blocks,
            free: self.f_bfree,
            available: self.f_bavail,
            files: self.f_files,
            files_free: self.f_ffree,
            block_size: self.f_bsize as u32,
            name_max: self.f_namemax as u32,
            fragment_size: self.f_frsize as u32,
            spare: [0; 7],
        };
        Payload::of(&[out.as_bytes()])
    }
}

/// Listings, written entry by entry into a buffer of the size the kernel asked for.
#[derive(Debug)]
pub struct List<'a> {
    buffer: &'a mut [u8],
    len: usize,
}

impl<'a> List<'a> {
    /// An empty one.
    pub fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, len: 0 }
    }

    /// Bytes written.
    pub fn bytes(&self) -> usize {
        self.len
    }

    /// A name without attributes. `false`: it does not fit.
    pub fn name(&mut self, name: &[u8], entry: &crate::fs::listing::DirEntry) -> bool {
        self.add(&[], name, entry)
    }

    /// A name with what stands behind it; `None` for names whose attributes the kernel does not want.
    pub fn entry(
        &mut self,
        name: &[u8],
        entry: &crate::fs::listing::DirEntry,
        found: Option<(u64, &Attr)>,
    ) -> bool {
        let out = match found {
            Some(_) => EntryOut::new(found),
            // Inode number 0 says "none", and a lifetime of 0 that nothing follows from it.
            None => EntryOut::NOTHING,
        };
        self.add(out.as_bytes(), name, entry)
    }

    fn add(&mut self, before: &[u8], name: &[u8], entry: &crate::fs::listing::DirEntry) -> bool {
        let head = DirentHead {
            inode: entry.ino,
            next: entry.next,
            name_len: name.len() as u32,
            kind: entry.file_type.as_raw_mode() >> 12,
        };
        let end = before.len() + size_of::<DirentHead>() + name.len();
        let padded = end.next_multiple_of(8);
        let Some(room) = self.buffer.get_mut(self.len..self.len + padded) else { return false };
        let (entry_room, rest) = room.split_at_mut(before.len());
        let (head_room, rest) = rest.split_at_mut(size_of::<DirentHead>());
        let (name_room, padding) = rest.split_at_mut(name.len());
        entry_room.copy_from_slice(before);
        head_room.copy_from_slice(head.as_bytes());
        name_room.copy_from_slice(name);
        padding.fill(0);
        self.len += padded;
        true
    }
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct DirentHead {
    inode: u64,
    next: u64,
    name_len: u32,
    kind: u32,
}

#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct AttrWire {
    inode: u64,
    size: u64,
    blocks: u64,
    atime: i64,
    mtime: i64,
    ctime: i64,
    atime_nsec: u32,
    mtime_nsec: u32,
    ctime_nsec: u32,
    mode: u32,
    nlink: u32,
    uid: u32,
    gid: u32,
    rdev: u32,
    blksize: u32,
    flags: u32,
}

impl AttrWire {
    const ZERO: Self = Self {
        inode: 0,
        size: 0,
        blocks: 0,
        atime: 0,
        mtime: 0,
        ctime: 0,
        atime_nsec: 0,
        mtime_nsec: 0,
        ctime_nsec: 0,
        mode: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    };

    fn new(id: u64, attr: &Attr) -> Self {
        Self {
            inode: number_shown(id, attr.key),
            size: attr.size,
            blocks: attr.blocks,
            atime: attr.atime.sec,
            mtime: attr.mtime.sec,
            ctime: attr.ctime.sec,
            atime_nsec: attr.atime.nsec,
            mtime_nsec: attr.mtime.nsec,
            ctime_nsec: attr.ctime.nsec,
            mode: attr.mode,
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            rdev: attr.rdev,
            blksize: attr.blksize,
            flags: 0,
        }
    }
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct AttrOut {
    valid: u64,
    valid_nsec: u32,
    dummy: u32,
    attr: AttrWire,
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct EntryOut {
    inode: u64,
    generation: u64,
    entry_valid: u64,
    attr_valid: u64,
    entry_valid_nsec: u32,
    attr_valid_nsec: u32,
    attr: AttrWire,
}

impl EntryOut {
    const NOTHING: Self = Self {
        inode: 0,
        generation: 0,
        entry_valid: 0,
        attr_valid: 0,
        entry_valid_nsec: 0,
        attr_valid_nsec: 0,
        attr: AttrWire::ZERO,
    };

    fn last(&mut self, time: Duration) {
        (self.entry_valid, self.entry_valid_nsec) = (time.as_secs(), time.subsec_nanos());
        (self.attr_valid, self.attr_valid_nsec) = (self.entry_valid, self.entry_valid_nsec);
    }

    /// `None` says that there is no such name, for as long as an entry would stay.
    fn new(found: Option<(u64, &Attr)>) -> Self {
        let (entry_valid, attr_valid) = (TTL.as_secs(), TTL.as_secs());
        match found {
            Some((inode, attr)) => Self {
                inode,
                generation: attr.generation,
                attr: AttrWire::new(inode, attr),
                entry_valid,
                attr_valid,
                ..Self::NOTHING
            },
            None => Self { entry_valid, ..Self::NOTHING },
        }
    }
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct OpenOut {
    handle: u64,
    open_flags: u32,
    backing_id: u32,
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct StatfsOut {
    blocks: u64,
    free: u64,
    available: u64,
    files: u64,
    files_free: u64,
    block_size: u32,
    name_max: u32,
    fragment_size: u32,
    spare: [u32; 7],
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::fs::attr::FileKey;
    use crate::fs::listing::DirEntry;

    fn attr() -> Attr {
        let at = |sec| Timestamp { sec, nsec: 7 };
        Attr {
            key: FileKey { dev: 1, ino: 42 },
            mount: 0,
            generation: 9,
            mode: 0o100_644,
            nlink: 1,
            uid: 10,
            gid: 11,
            rdev: 0,
            size: 5,
            blocks: 8,
            blksize: 4096,
            atime: at(-1),
            mtime: at(2),
            ctime: at(3),
        }
    }

    #[test]
    fn replies_have_the_kernels_lengths() {
        let len = |payload: Payload| payload.as_bytes().len();
        assert_eq!(len(().payload()), 0);
        assert_eq!(len(Attributes(42, attr()).payload()), 104);
        assert_eq!(len(Entry(None).payload()), 128);
        assert_eq!(len(Opened::Handle(2).payload()), 16);
        assert_eq!(len(Created { id: 42, attr: attr(), opened: Opened::Handle(2) }.payload()), 144);
        assert_eq!(len(Written(1).payload()), 8);
        assert_eq!(len(Offset(1).payload()), 8);
        assert_eq!(len(crate::fs::Value::Length(3).payload()), 8);
        assert_eq!(size_of::<StatfsOut>(), 80);
    }

    #[test]
    fn an_entry_is_these_bytes() {
        let payload = Entry(Some((42, attr()))).payload();
        let words: Vec<u64> = payload
            .as_bytes()
            .chunks(8)
            .map(|w| u64::from_ne_bytes(w.try_into().expect("eight bytes")))
            .collect();
        let day = 24 * 60 * 60;
        assert_eq!(words[..5], [42, 9, day, day, 0]);
        assert_eq!(words[5..11], [42, 5, 8, u64::MAX, 2, 3], "number, size, blocks, times");
        assert_eq!(words[11], 7 << 32 | 7);
        assert_eq!(words[12], 0o100_644 << 32 | 7, "mode after the last nanoseconds");
        assert_eq!(words[13..], [10 << 32 | 1, 11, 4096]);
    }

    #[test]
    fn a_listing_takes_what_fits_and_pads_it() {
        let entry =
            DirEntry { name: c"ab".to_owned(), ino: 5, file_type: rustix::fs::FileType::Directory, next: 77 };
        let mut buffer = [0xff; 78];
        let mut list = List::new(&mut buffer);
        assert!(list.name(b"ab", &entry) && list.name(b"abcdefghi", &entry));
        assert!(!list.name(b"a", &entry), "there are six bytes left");
        assert_eq!(list.bytes(), 32 + 40);
    }
}
