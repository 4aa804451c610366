//! `icecache tables watch`: a line for each event.
use crate::Result;
use crate::cli::{Context, locate};
use crate::serve::control::TablesAsk;
use crate::tables::Batch;
use std::collections::BTreeSet;
use std::path::Path;

/// Prints events of these tables, of all if none is named, until the mount ends.
pub(super) fn watch(dir: &Path, tables: Vec<String>, context: &Context) -> Result<()> {
    let (_, mut client) = locate::daemon(dir, context)?;
    // As the daemon knows them now: the one that a name meant goes on being meant when it is dropped, or comes again.
    let paths: BTreeSet<String> = match tables.is_empty() {
        true => BTreeSet::new(),
        false => client.tables(TablesAsk::Paths { tables })?,
    };
    let mut since = client.tables::<Batch>(TablesAsk::Watch { since: None })?.next;
    context.output.say("watching; Ctrl-C ends it");
    loop {
        let batch: Batch = client.tables(TablesAsk::Watch { since: Some(since) })?;
        since = batch.next;
        if batch.missed {
            context.output.warn("more has happened than the daemon remembers: some events are missing");
        }
        for event in batch.events.iter().filter(|event| paths.is_empty() || paths.contains(&event.table)) {
            context.output.value(event)?;
        }
        context.output.flush()?;
        if batch.ended {
            context.output.say("the mount ends");
            return Ok(());
        }
    }
}
