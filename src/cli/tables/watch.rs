//! `icecache tables watch`: a line for each event.
use crate::Result;
use crate::cli::{Context, locate};
use crate::serve::control::TablesAsk;
use crate::tables::Batch;
use std::path::Path;

/// Prints events until the mount ends.
pub(super) fn watch(dir: &Path, table: Option<&str>, context: &Context) -> Result<()> {
    let (_, mut client) = locate::daemon(dir, context)?;
    let mut since = client.tables::<Batch>(TablesAsk::Watch { since: None })?.next;
    context.output.say("watching; Ctrl-C ends it");
    loop {
        let batch: Batch = client.tables(TablesAsk::Watch { since: Some(since) })?;
        since = batch.next;
        if batch.missed {
            context.output.warn("more has happened than the daemon remembers: some events are missing");
        }
        for event in
            batch.events.iter().filter(|event| table.is_none_or(|table| is_about(&event.table, table)))
        {
            context.output.value(event)?;
        }
        context.output.flush()?;
        if batch.ended {
            context.output.say("the mount ends");
            return Ok(());
        }
    }
}

/// Whether a table's path is what somebody means.
fn is_about(path: &str, table: &str) -> bool {
    let table = table.trim_matches('/');
    path == table
        || path.strip_prefix("iceberg/").is_some_and(|rest| rest == table || rest.replace('/', ".") == table)
}
