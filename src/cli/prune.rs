//! `icecache prune --remote URL --name NAME [--keep N] [--keep-for AGE] [--older-than AGE] [--orphans]
//! [--dry-run]`.
use super::flags::{Flags, RemoteScope};
use super::offline::{self, Pruned, Rules};
use super::output::{bytes, safe};
use super::{Context, Exit};
use crate::Result;
use crate::config::text;
use crate::state::prune::Candidate;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub struct Prune {
    /// Keep only so many of the newest versions, and tagged ones; without this and --keep-for all stay that are kept
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    keep: Option<u32>,
    /// Keep younger versions as well, such as 12h, 7d or 8w
    #[arg(long, value_name = "AGE", value_parser = age)]
    keep_for: Option<Duration>,
    /// Delete only what no version has needed for so long; less is for remotes that nobody has mounted
    #[arg(long, value_name = "AGE", default_value = "1d", value_parser = age)]
    older_than: Duration,
    /// Also delete layers and dictionaries that no name knows of, left by a crash; they are at least an hour old
    #[arg(long)]
    orphans: bool,
    /// Only tell what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    flags: Flags<RemoteScope>,
}

fn age(given: &str) -> Result<Duration, String> {
    let expected = || format!("expected an age such as 12h, 7d or 8w: {given}");
    text::age(given).ok().flatten().ok_or_else(expected)
}

impl Prune {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let remote = self.flags.remote(context)?;
        let rules = Rules {
            keep: self.keep.map(|keep| keep as usize),
            keep_for: self.keep_for,
            older_than: self.older_than,
            orphans: self.orphans,
            dry_run: self.dry_run,
        };
        let (pruned, failure) = offline::prune(&remote, &rules)?;
        if context.output.json {
            context.output.value(&pruned)?;
        } else {
            let word = if pruned.dry_run { "would-delete" } else { "deleted" };
            let kinds = [
                (word, &pruned.deleted),
                ("waits", &pruned.waiting),
                ("shared", &pruned.shared),
                ("left", &pruned.left),
            ];
            for (word, objects) in kinds {
                for Candidate { key, bytes, .. } in objects {
                    context.output.line(&format!("{word}\t{}\t{bytes}", safe(key)));
                }
            }
            context.output.say(&summary(&pruned));
        }
        match failure {
            Some(error) => {
                context.output.error(&error);
                Ok(Exit::of(&error))
            }
            None => Ok(Exit::Done),
        }
    }
}

fn summary(pruned: &Pruned) -> String {
    let freed = if pruned.dry_run { "would free" } else { "freed" };
    let mut text = format!("{freed} {} in {} objects", bytes(pruned.deleted_bytes), pruned.deleted.len());
    for (objects, why) in [
        (&pruned.waiting, "not unneeded for long enough"),
        (&pruned.shared, "needed by another name"),
        (&pruned.left, "not deleted"),
    ] {
        if !objects.is_empty() {
            let size = bytes(objects.iter().map(|object| object.bytes).sum());
            text.push_str(&format!("; {} {why} ({size})", objects.len()));
        }
    }
    text
}
