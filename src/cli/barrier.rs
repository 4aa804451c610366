//! `icecache barrier` (hidden): the helper process of the cut.
use super::{Context, Exit};
use crate::{Error, ErrorKind, Result};

#[derive(Debug, clap::Args)]
pub struct Barrier {}

impl Barrier {
    pub fn run(self, _: &Context) -> Result<Exit> {
        Err(Error::new(ErrorKind::Unsupported, "the barrier is started by a daemon only"))
    }
}
