//! INIT, the first message of a connection: what both sides can do.
use super::{MAJOR, MINOR, MINOR_OLDEST};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// A set of protocol features.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Features(pub u64);

macro_rules! features {
    ($($(#[$doc:meta])* $name:ident = $bit:literal;)*) => {
        impl Features {
            $($(#[$doc])* pub const $name: Self = Self(1 << $bit);)*
            const NAMES: &[(&str, Self)] = &[$((stringify!($name), Self::$name)),*];
        }
    };
}

features! {
    /// Several reads of a file at once.
    ASYNC_READ = 0;
    /// `O_TRUNC` travels with the open.
    ATOMIC_O_TRUNC = 3;
    /// We apply the umask (a default ACL may replace it).
    DONT_MASK = 6;
    /// Listings may carry attributes; without its AUTO companion they always do.
    DO_READDIRPLUS = 13;
    /// Asynchronous direct I/O.
    ASYNC_DIO = 15;
    /// Lookups and listings of one directory at once.
    PARALLEL_DIROPS = 18;
    /// The kernel judges by POSIX ACLs.
    POSIX_ACL = 20;
    /// Requests may be larger than 128 KiB.
    MAX_PAGES = 22;
    /// Targets of symbolic links are cached.
    CACHE_SYMLINKS = 23;
    /// `ENOSYS` to OPENDIR means that none is needed.
    NO_OPENDIR_SUPPORT = 24;
    /// Cached data is dropped only when we say so.
    EXPLICIT_INVAL_DATA = 25;
    /// We clear privilege bits; without it each write asks for an extended attribute.
    HANDLE_KILLPRIV_V2 = 28;
    /// SETXATTR says more; see [`request`](super::request).
    SETXATTR_EXT = 29;
    /// The second word of features is there.
    INIT_EXT = 30;
    /// Shared mappings of files that are open for direct I/O.
    DIRECT_IO_ALLOW_MMAP = 36;
    /// The kernel serves file data from the backing.
    PASSTHROUGH = 37;
    /// Requests travel by io_uring.
    OVER_IO_URING = 41;
}

impl Features {
    /// Whether all of `other` are in it.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for Features {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl std::ops::BitAnd for Features {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl std::fmt::Debug for Features {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(Self::NAMES.iter().filter(|(_, x)| self.has(*x)).map(|(name, _)| name)).finish()
    }
}

/// What the kernel says. Kernels without [`Features::INIT_EXT`] send the first four words only.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InitIn {
    /// Protocol version.
    pub major: u32,
    /// See `major`.
    pub minor: u32,
    /// Bytes of read-ahead at most.
    pub max_readahead: u32,
    flags: u32,
    flags2: u32,
    unused: [u32; 11],
}

impl InitIn {
    /// Reads what follows the header.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut all = [0; size_of::<Self>()];
        let there = bytes.len().min(all.len());
        if there < 16 {
            return None;
        }
        all[..there].copy_from_slice(&bytes[..there]);
        Self::read_from_bytes(&all).ok()
    }

    /// What the kernel can do.
    pub fn features(&self) -> Features {
        let low = Features(u64::from(self.flags));
        if low.has(Features::INIT_EXT) { low | Features(u64::from(self.flags2) << 32) } else { low }
    }

    /// Whether a mount can be served with it.
    pub fn is_usable(&self) -> bool {
        self.major == MAJOR && self.minor >= MINOR_OLDEST
    }
}

/// What we say.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InitOut {
    major: u32,
    minor: u32,
    max_readahead: u32,
    flags: u32,
    max_background: u16,
    congestion_threshold: u16,
    max_write: u32,
    time_gran: u32,
    max_pages: u16,
    map_alignment: u16,
    flags2: u32,
    max_stack_depth: u32,
    request_timeout: u16,
    unused: [u16; 11],
}

/// Limits that we choose.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of one READ or WRITE at most; a multiple of the page size.
    pub io_bytes: u32,
    /// Requests that nobody waits for (read-ahead, asynchronous I/O) at once.
    pub background: u16,
    /// How many file systems may be stacked below: 1, or 2 on overlayfs. Only for passthrough.
    pub stack_depth: u32,
}

impl InitOut {
    /// The answer that agrees on `features`.
    pub fn new(asked: &InitIn, features: Features, limits: Limits) -> Self {
        Self {
            major: MAJOR,
            minor: asked.minor.min(MINOR),
            max_readahead: asked.max_readahead.min(limits.io_bytes),
            flags: features.0 as u32,
            max_background: limits.background,
            congestion_threshold: limits.background / 4 * 3,
            max_write: limits.io_bytes,
            time_gran: 1,
            max_pages: (limits.io_bytes as usize / rustix::param::page_size()).max(1) as u16,
            map_alignment: 0,
            flags2: (features.0 >> 32) as u32,
            max_stack_depth: if features.has(Features::PASSTHROUGH) { limits.stack_depth } else { 0 },
            request_timeout: 0,
            unused: [0; 11],
        }
    }

    /// The answer to a kernel that speaks a later major version: it asks again with ours.
    pub fn older() -> Self {
        let mut out = Self::new_zeroed();
        (out.major, out.minor) = (MAJOR, MINOR);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_the_kernels() {
        assert_eq!((size_of::<InitIn>(), size_of::<InitOut>()), (64, 64));
        let mut asked = InitIn::new_zeroed();
        (asked.major, asked.minor, asked.max_readahead) = (7, 45, 1 << 17);
        let features = Features::INIT_EXT | Features::PASSTHROUGH;
        let limits = Limits { io_bytes: 1 << 20, background: 64, stack_depth: 2 };
        let out = InitOut::new(&asked, features, limits);
        let words: Vec<u32> =
            out.as_bytes().chunks(4).map(|w| u32::from_ne_bytes([w[0], w[1], w[2], w[3]])).collect();
        assert_eq!(&words[..4], [7, 42, 1 << 17, 1 << 30]);
        assert_eq!(&words[5..7], [1 << 20, 1], "max_write, time_gran");
        assert_eq!(&words[8..10], [1 << 5, 2], "flags2, max_stack_depth");
        let pages = ((1 << 20) / rustix::param::page_size()) as u16;
        assert_eq!(out.as_bytes()[28..30], pages.to_ne_bytes(), "max_pages");
    }

    #[test]
    fn an_old_kernel_sends_four_words() {
        let words: Vec<u8> = [7u32, 31, 4096, 1 << 28].iter().flat_map(|w| w.to_ne_bytes()).collect();
        let asked = InitIn::read(&words).expect("long enough");
        assert!(asked.is_usable() && asked.features() == Features::HANDLE_KILLPRIV_V2);
        assert!(InitIn::read(&words[..15]).is_none());
    }
}
