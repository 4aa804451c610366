//! The question "does passthrough work here?", asked of a real mount.
use super::mount::{NoPassthrough, nameless_file};
use fuser::{BackingId, Config, Filesystem, InitFlags, KernelConfig, Request, Session, SessionACL};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Serves nothing: only its handshake matters.
struct Probe {
    depth: u32,
}

impl Filesystem for Probe {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let unsupported = |what| io::Error::new(io::ErrorKind::Unsupported, what);
        config
            .add_capabilities(InitFlags::FUSE_PASSTHROUGH)
            .map_err(|_| unsupported("the kernel does not offer it (Linux 6.9 or later does)"))?;
        config.set_max_stack_depth(self.depth).map_err(|_| unsupported("stack depth refused"))?;
        Ok(())
    }
}

/// Completes a handshake on `device` and registers one file of the backing.
pub(super) fn try_passthrough(device: OwnedFd, depth: u32, root: impl AsFd) -> Result<(), NoPassthrough> {
    let refused = |e: io::Error| NoPassthrough::Refused(e.to_string());
    let session = Session::from_fd(Probe { depth }, device, SessionACL::Owner, Config::default());
    let session = session.map_err(refused)?;
    let file = nameless_file(root).map_err(|e| {
        NoPassthrough::Refused(format!("cannot make a file on the backing to try it with: {e}"))
    })?;
    // The registration ends with the connection, a moment later.
    BackingId::create_raw(&session, &file).map(drop).map_err(refused)
}
