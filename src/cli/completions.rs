//! `icecache completions SHELL`.
use super::{Cli, Context, Exit};
use crate::Result;
use clap::CommandFactory;
use clap_complete::Shell;

#[derive(Debug, clap::Args)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "icecache", &mut script);
        context.output.data(&script);
        Ok(Exit::Done)
    }
}
