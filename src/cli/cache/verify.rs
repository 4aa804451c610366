//! `icecache cache verify`.
use super::{CacheDir, with_cache};
use crate::Result;
use crate::cli::output::bytes;
use crate::cli::progress::View;
use crate::cli::{Context, Exit};
use crate::serve::startup::Progress;
use std::fmt::Write;

#[derive(Debug, clap::Args)]
pub struct Verify {
    #[command(flatten)]
    cache: CacheDir,
}

impl Verify {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let config = self.cache.unlimited(context)?;
        let mut view = View::new(&context.output);
        let (entries, right, stats) = with_cache(config, &context.output, |cache| {
            let view = &mut view;
            async move {
                let entries = cache.entries();
                let total: u64 = entries.iter().map(|info| info.on_disk).sum();
                let (mut right, mut done) = (0, 0);
                for (n, info) in entries.iter().enumerate() {
                    right += cache.verify(&info.name).await?.right;
                    done += info.on_disk;
                    view.show(&Progress {
                        phase: "verifying".into(),
                        bytes: done,
                        bytes_total: total,
                        entries: n as u64 + 1,
                    });
                }
                Ok((entries.len(), right, cache.stats()))
            }
        })?;
        drop(view);
        // Since it was opened: opening itself drops what it sees is not right.
        let totals = stats.totals;
        let dropped = totals.corrupt_drops + totals.vanished;
        let missing = totals.lost;
        if context.output.json {
            let value = serde_json::json!({
                "entries": entries,
                "bytes_right": right,
                "dropped": dropped,
                "missing": missing,
                "adopted": totals.adopted,
                "journal_rebuilt": totals.journal_rebuilds > 0,
            });
            context.output.value(&value)?;
        }
        let mut text =
            format!("{entries} entries, {} are right; {dropped} damaged parts were dropped", bytes(right));
        if missing > 0 {
            // A kill between throwing out and writing it down leaves such.
            let _infallible = write!(text, "; {missing} of which the journal knew are not there");
        }
        context.output.say(&text);
        Ok(if dropped > 0 { Exit::Damaged } else { Exit::Done })
    }
}
