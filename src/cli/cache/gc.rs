//! `icecache cache gc`.
use super::{CacheArgs, shown, with_cache};
use crate::Result;
use crate::cli::output::bytes;
use crate::cli::{Context, Exit};
use crate::serve::startup::Progress;
use bytesize::ByteSize;

#[derive(Debug, clap::Args)]
pub struct Gc {
    #[command(flatten)]
    cache: CacheArgs,
    /// Throw out so much more
    #[arg(long, value_name = "SIZE", default_value = "0")]
    free: ByteSize,
}

impl Gc {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let config = self.cache.config(context)?;
        let free = self.free.as_u64();
        let stats = with_cache(config, &context.output, |cache| async move {
            let before = cache.stats().used.bytes;
            // At least what the limits want, of which one may have come to bear since it was opened.
            let making = cache.make_room(before.saturating_sub(free));
            shown(&context.output, making, || {
                let used = cache.stats().used;
                let (phase, bytes) = ("throwing out".into(), before.saturating_sub(used.bytes));
                Progress { phase, bytes, bytes_total: free, entries: used.entries }
            })
            .await;
            Ok(cache.stats())
        })?;
        let totals = &stats.totals;
        let evicted = totals.evicted_bytes
            + totals.evicted_entries
            + totals.evicted_free
            + totals.evicted_expired
            + totals.evicted_asked;
        if context.output.json {
            context.output.value(&serde_json::json!({
                "evicted": evicted,
                "strays_deleted": totals.strays_deleted,
                "used_bytes": stats.used.bytes,
                "entries": stats.used.entries,
            }))?;
        }
        context.output.say(&format!(
            "{evicted} files and blocks were thrown out, {} strays deleted; {} in {} entries are left",
            totals.strays_deleted,
            bytes(stats.used.bytes),
            stats.used.entries
        ));
        Ok(Exit::Done)
    }
}
