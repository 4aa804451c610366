//! `icecache log DIR | --remote URL --name NAME`.
use super::flags::{Flags, RemoteScope};
use super::output::{bytes, safe, time};
use super::{Context, Exit, forked, locate, offline};
use crate::Result;
use crate::serve::control::LogLine;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Log {
    /// The mounted directory; or name a remote and a name instead
    #[arg(conflicts_with_all = ["remote", "name"], required_unless_present = "name")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags<RemoteScope>,
}

impl Log {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let lines = match &self.dir {
            Some(dir) => {
                let (_, mut client) = locate::daemon(dir, context)?;
                if let Some(fork) = client.status()?.fork {
                    context.output.warn(&forked(&fork));
                }
                client.log()?
            }
            None => offline::log(&self.flags.remote(context)?)?,
        };
        if context.output.json {
            context.output.value(&lines)?;
            return Ok(Exit::Done);
        }
        if lines.is_empty() {
            context.output.say("no version yet");
        }
        let number = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
        let row = |line: &LogLine| {
            [
                safe(&line.version),
                line.time.map_or_else(|| "-".to_owned(), time),
                safe(&line.writer),
                number(line.entries),
                number(line.changed),
                number(line.removed),
                bytes(line.bytes),
                line.layers.to_string(),
                safe(&line.tags.join(" ")),
            ]
        };
        let rows: Vec<_> = lines.iter().map(row).collect();
        let head = ["VERSION", "TIME", "WRITER", "ENTRIES", "CHANGED", "REMOVED", "SIZE", "LAYERS", "TAGS"];
        context.output.table(head, &rows);
        Ok(Exit::Done)
    }
}
