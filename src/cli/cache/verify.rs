//! `icecache cache verify`.
use super::{CacheDir, with_cache};
use crate::Result;
use crate::cache::Verdict;
use crate::cli::output::bytes;
use crate::cli::progress::View;
use crate::cli::{Context, Exit};
use crate::serve::startup::Progress;

#[derive(Debug, clap::Args)]
pub struct Verify {
    #[command(flatten)]
    cache: CacheDir,
}

impl Verify {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let config = self.cache.unlimited(context)?;
        let mut view = View::new(&context.output);
        let (entries, verdict) = with_cache(config, |cache| {
            let view = &mut view;
            async move {
                let entries = cache.entries();
                let total: u64 = entries.iter().map(|info| info.on_disk).sum();
                let (mut all, mut done) = (Verdict::default(), 0);
                for (n, info) in entries.iter().enumerate() {
                    let verdict = cache.verify(&info.name).await?;
                    all.right += verdict.right;
                    all.dropped += verdict.dropped;
                    done += info.on_disk;
                    view.show(&Progress {
                        phase: "verifying".into(),
                        bytes: done,
                        bytes_total: total,
                        entries: n as u64 + 1,
                    });
                }
                Ok((entries.len(), all))
            }
        })?;
        drop(view);
        if context.output.json {
            let Verdict { right, dropped } = verdict;
            let value = serde_json::json!({ "entries": entries, "bytes_right": right, "dropped": dropped });
            context.output.value(&value)?;
        }
        context.output.say(&format!(
            "{entries} entries, {} are right; {} damaged parts were dropped",
            bytes(verdict.right),
            verdict.dropped
        ));
        Ok(if verdict.dropped > 0 { Exit::Damaged } else { Exit::Done })
    }
}
