//! The question "does passthrough work here?", asked of a real mount.
use super::abi::init::{Features, Limits};
use super::connection::{Connection, Wanted};
use super::mount::{NoPassthrough, nameless_file};
use std::os::fd::{AsFd, OwnedFd};

/// Completes a handshake on `device` and registers one file of the backing. Serves nothing.
pub(super) fn try_passthrough(
    device: OwnedFd,
    stack_depth: u32,
    root: impl AsFd,
) -> Result<(), NoPassthrough> {
    let refused = |e: std::io::Error| NoPassthrough::Refused(e.to_string());
    let wanted = Wanted {
        needed: Features::default(),
        helpful: Features::INIT_EXT | Features::PASSTHROUGH,
        limits: Limits { io_bytes: 128 << 10, background: 1, stack_depth },
    };
    let connection = Connection::handshake(device, &wanted).map_err(refused)?;
    if !connection.features().has(Features::PASSTHROUGH) {
        let message = "the kernel does not offer it (Linux 6.9 or later does)";
        return Err(NoPassthrough::Refused(message.into()));
    }
    let file = nameless_file(root).map_err(|e| {
        NoPassthrough::Refused(format!("cannot make a file on the backing to try it with: {e}"))
    })?;
    // The registration ends with the connection, a moment later.
    connection.register(file.as_fd()).map(drop).map_err(refused)
}
