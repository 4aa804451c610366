//! [`Desk`]: what is asked of the tables of a mount, by whoever shows them.
use crate::cache::Cache;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::Counters;
use crate::serve::control::{CatalogStatus, Part, TablesAsk, TablesStatus};
#[cfg(feature = "http")]
use crate::serve::metrics::TablesTotals;
use crate::tables::{Lake, Selection};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// So long a question what has happened waits for something to happen.
const WATCH_PATIENCE: Duration = Duration::from_secs(30);

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Desk {
    /// The catalogs, without secrets.
    pub(super) catalogs: String,
    pub(super) lake: Arc<Lake>,
    pub(super) requests: Arc<Counters>,
    /// Where hints are taken.
    pub(super) hints: Option<SocketAddr>,
}

impl Desk {
    fn cache(&self) -> &Cache {
        self.lake.stores().cache()
    }

    /// Where hints are taken, if anywhere.
    pub fn hints(&self) -> Option<SocketAddr> {
        self.hints
    }

    /// How they stand.
    pub fn status(&self) -> TablesStatus {
        let (known, shown, failed, behind) = self.lake.count();
        let catalogs = self.lake.heard().into_iter().map(|(name, answered, error)| CatalogStatus {
            name,
            answered_s_ago: answered.map(|ago| ago.as_secs()),
            error,
        });
        TablesStatus {
            known,
            shown,
            failed,
            behind,
            cached_bytes: self.cache().stats().used.bytes,
            cache_max_bytes: self.cache().config().max_bytes,
            catalogs: catalogs.collect(),
            hints: self.hints,
        }
    }

    /// What was asked of stores and of the cache since the start.
    pub fn stats(&self) -> Value {
        let (sent, won) = self.lake.stores().hedges().counts();
        serde_json::json!({
            "requests": self.requests.snapshot(),
            "hedged": { "sent": sent, "won": won },
            "hints": BTreeMap::from(self.lake.hints().all()),
            "cache": self.cache().stats(),
        })
    }

    /// What is measured.
    #[cfg(feature = "http")]
    pub fn totals(&self) -> TablesTotals {
        let (known, shown, failed, behind) = self.lake.count();
        let catalogs = self.lake.heard().into_iter();
        TablesTotals {
            tables: [("known", known), ("shown", shown), ("failed", failed), ("behind", behind)],
            catalogs: catalogs.map(|(name, ago, error)| (name, ago, error.is_none())).collect(),
            hedged: self.lake.stores().hedges().counts(),
            hints: self.lake.hints().all(),
            cache: self.cache().stats(),
            journal_bytes: self.cache().journal_bytes(),
        }
    }

    /// Does what is asked.
    pub async fn answer(&self, ask: TablesAsk) -> Result<Value> {
        let lake = &self.lake;
        match ask {
            TablesAsk::List => encode(&lake.tables().await?),
            TablesAsk::Show { table } => encode(&lake.details(&table).await?),
            TablesAsk::Explain { table } => encode(&lake.explain(&table).await?),
            TablesAsk::Refresh { table } => encode(&lake.refresh_now(table.as_deref()).await?),
            TablesAsk::Warm { table, part } => encode(&lake.warm(&table, meant(part)).await?),
            TablesAsk::Pin { table, part } => encode(&lake.pin(&table, meant(part)).await?),
            TablesAsk::Unpin { table, part } => encode(&lake.unpin(&table, meant(part)).await?),
            TablesAsk::Invalidate { table } => encode(&lake.invalidate(&table).await?),
            TablesAsk::Paths { tables } => encode(&lake.paths_of_tables(&tables).await?),
            TablesAsk::Watch { since } => encode(&lake.feed().since(since, WATCH_PATIENCE).await),
        }
    }
}

fn meant(part: Part) -> Selection {
    let Part { partition, columns, condition } = part;
    Selection { partition, columns: columns.into_iter().collect(), condition }
}

fn encode(value: &impl Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|e| Error::new(ErrorKind::Io, "cannot encode answer").with_source(e))
}
