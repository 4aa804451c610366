//! `icecache flush DIR [--wait]`.
use super::locate;
use super::output::{bytes, safe};
use super::{Context, Exit, forked};
use crate::Result;
use crate::config::text;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub struct Flush {
    /// The mounted directory
    dir: PathBuf,
    /// Return only when everything is durable in the remote, and print the version
    #[arg(long)]
    wait: bool,
    /// With --wait: give up after this long (the flush itself goes on)
    #[arg(long, value_name = "TIME", requires = "wait", value_parser = text::duration)]
    timeout: Option<Duration>,
}

impl Flush {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let (_, mut client) = locate::daemon(&self.dir, context)?;
        let reply = client.flush(self.wait, self.timeout)?;
        if context.output.json {
            context.output.value(&reply)?;
        } else if let Some(version) = reply.version.as_deref().filter(|_| self.wait) {
            context.output.line(&safe(version));
        }
        if let Some(fork) = &reply.fork {
            context.output.warn(&forked(fork));
        }
        if let Some(merged) = &reply.merged {
            context.output.warn(&safe(merged));
        }
        if self.wait && !reply.durable {
            context.output.warn("not everything is in the remote yet");
            return Ok(Exit::Unsaved);
        }
        if self.wait {
            context.output.say(&format!("saved {} entries, {}", reply.entries, bytes(reply.bytes)));
        } else {
            context.output.say("flush started");
        }
        Ok(Exit::Done)
    }
}
