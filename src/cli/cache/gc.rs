//! `icecache cache gc`.
use super::{CacheArgs, with_cache};
use crate::Result;
use crate::cli::output::bytes;
use crate::cli::{Context, Exit};
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
        let stats = with_cache(config, |cache| async move {
            if free > 0 {
                cache.make_room(cache.stats().used.bytes.saturating_sub(free)).await;
            }
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
