//! `icecache barrier` (hidden): the helper process of the cut. A daemon starts it with a socket as its
//! standard input and never gives it the FUSE device.
use super::{Context, Exit};
use crate::{Error, ErrorKind, Result};
use std::io::ErrorKind as ErrorKindOfIo;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

#[derive(Debug, clap::Args)]
pub struct Barrier {}

impl Barrier {
    pub fn run(self, _: &Context) -> Result<Exit> {
        let failed = |e| Error::io("cannot use standard input", e);
        let input = std::io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
        let socket = UnixStream::from(input);
        if socket.peer_addr().is_err() {
            return Err(Error::new(ErrorKind::Unsupported, "the barrier is started by a daemon only"));
        }
        match crate::state::barrier::serve(socket) {
            // The daemon has ended and wants no answer.
            Err(e) if matches!(e.kind(), ErrorKindOfIo::BrokenPipe | ErrorKindOfIo::ConnectionReset) => {}
            ended => ended.map_err(|e| Error::io("barrier failed", e))?,
        }
        Ok(Exit::Done)
    }
}
