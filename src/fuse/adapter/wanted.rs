//! What the mount asks of the kernel when it begins.
use crate::fs::VolumeOptions;
use crate::fuse::abi::init::{Features, Limits};
use crate::fuse::connection::Wanted;

/// Bytes of one READ or WRITE where file data passes us, and of read-ahead.
const CLASSIC_IO_BYTES: u32 = 1 << 20;
/// The same where the kernel serves file data: only listings and extended attributes are left.
const PASSTHROUGH_IO_BYTES: u32 = 128 << 10;
/// Requests in flight that nobody waits for.
const BACKGROUND: u16 = 64;

/// What a volume needs and what merely helps. `stack_depth`: see [`Limits`]. `rings`: some are ready.
pub fn wanted(options: &VolumeOptions, stack_depth: u32, rings: bool) -> Wanted {
    let when = |on, feature| if on { feature } else { Features::default() };
    let helpful = Features::INIT_EXT
        | Features::ASYNC_READ
        | Features::ASYNC_DIO
        | Features::PARALLEL_DIROPS
        | Features::ATOMIC_O_TRUNC
        | Features::CACHE_SYMLINKS
        | Features::EXPLICIT_INVAL_DATA
        | Features::NO_OPENDIR_SUPPORT
        | Features::DO_READDIRPLUS
        | Features::HANDLE_KILLPRIV_V2
        | Features::DIRECT_IO_ALLOW_MMAP
        | Features::MAX_PAGES
        | Features::DONT_MASK
        | when(options.acl, Features::POSIX_ACL | Features::SETXATTR_EXT)
        | when(rings, Features::OVER_IO_URING);
    let needed = when(options.passthrough, Features::INIT_EXT | Features::PASSTHROUGH);
    let limits = Limits { io_bytes: io_bytes(options), background: BACKGROUND, stack_depth };
    Wanted { needed, helpful, limits }
}

/// Bytes of one READ, WRITE or listing at most.
pub fn io_bytes(options: &VolumeOptions) -> u32 {
    if options.passthrough { PASSTHROUGH_IO_BYTES } else { CLASSIC_IO_BYTES }
}
