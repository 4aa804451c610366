//! What the mount asks of the kernel when it begins.
use crate::fs::VolumeOptions;
use fuser::{InitFlags, KernelConfig};
use std::io;

/// Bytes of one WRITE on the classic path, and of read-ahead.
const IO_BYTES: u32 = 1 << 20;

/// Asks for what the volume needs (an error if it is not there) and for what merely helps. `depth` is
/// the stack depth to ask for.
pub(super) fn handshake(config: &mut KernelConfig, options: &VolumeOptions, depth: u32) -> io::Result<()> {
    let mut wanted = vec![
        InitFlags::FUSE_ASYNC_READ,
        InitFlags::FUSE_ASYNC_DIO,
        InitFlags::FUSE_PARALLEL_DIROPS,
        InitFlags::FUSE_ATOMIC_O_TRUNC,
        InitFlags::FUSE_CACHE_SYMLINKS,
        InitFlags::FUSE_EXPLICIT_INVAL_DATA,
        InitFlags::FUSE_NO_OPENDIR_SUPPORT,
        InitFlags::FUSE_DO_READDIRPLUS,
        InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        InitFlags::FUSE_MAX_PAGES,
        InitFlags::FUSE_DONT_MASK,
    ];
    if options.acl {
        wanted.push(InitFlags::FUSE_POSIX_ACL);
    }
    if options.passthrough {
        config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).map_err(|_| {
            io::Error::new(io::ErrorKind::Unsupported, "this kernel does not offer FUSE passthrough")
        })?;
        config.set_max_stack_depth(depth).map_err(|_| io::ErrorKind::InvalidInput)?;
    }
    // Each is a refinement: a kernel that lacks one serves the mount without it.
    wanted.retain(|flag| config.add_capabilities(*flag).is_err());
    tracing::debug!(missing = ?wanted, kernel = ?config.kernel_abi(), "fuse handshake");
    let _max = (config.set_max_write(IO_BYTES), config.set_max_readahead(IO_BYTES));
    let _max = config.set_max_background(64);
    Ok(())
}
