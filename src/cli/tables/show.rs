//! How tables are printed.
use crate::Result;
use crate::cli::output::{bytes, safe, time};
use crate::cli::{Context, Exit};
use crate::tables::report::{Explanation, LastChange, Refreshed, Sum, TableDetails, TableLine};

/// Cached files of which one line each is shown; `--json` has more.
const FILES_SHOWN: usize = 20;

pub(super) fn list(tables: &[TableLine], context: &Context) -> Result<()> {
    if context.output.json {
        return context.output.value(&tables);
    }
    if tables.is_empty() {
        context.output.say("the catalogs have no tables");
    }
    let rows: Vec<_> = tables.iter().map(row).collect();
    context.output.table(["TABLE", "STATE", "VERSION", "SNAPSHOT", "USED", "PINNED"], &rows);
    for table in tables {
        for idle in &table.idle_pins {
            let (table, idle) = (safe(&table.table), safe(idle));
            context.output.warn(&format!("{table}: a pin is about nothing: {idle}"));
        }
        if let Some(why) = &table.not_held {
            let (table, why) = (safe(&table.table), safe(why));
            context.output.warn(&format!("{table}: not all that is pinned is in the cache: {why}"));
        }
        if let Some(error) = &table.error {
            context.output.warn(&format!("{}: {}", safe(&table.table), safe(error)));
        }
        for (path, why) in &table.broken {
            context.output.warn(&format!("{}/{}: {}", safe(&table.table), safe(path), safe(why)));
        }
    }
    Ok(())
}

fn row(table: &TableLine) -> [String; 6] {
    [
        safe(table.table.strip_prefix("iceberg/").unwrap_or(&table.table)),
        safe(&table.state),
        or_none(table.version),
        or_none(table.snapshot),
        table.used_s_ago.map_or_else(|| "never".to_owned(), |ago| format!("{ago} s ago")),
        if table.pinned { "yes" } else { "no" }.to_owned(),
    ]
}

fn or_none(number: Option<impl ToString>) -> String {
    number.map_or_else(|| "none".to_owned(), |number| number.to_string())
}

pub(super) fn details(details: &TableDetails, context: &Context) -> Result<()> {
    if context.output.json {
        return context.output.value(details);
    }
    context.output.table(["", ""], &rows(details));
    Ok(())
}

fn rows(details: &TableDetails) -> Vec<[String; 2]> {
    let TableDetails { line, .. } = details;
    let sum = |sum: &Sum| format!("{} files, {} ({})", sum.files, sum.bytes, bytes(sum.bytes));
    let mut rows = vec![
        ("table", safe(&line.table)),
        ("catalog", format!("{} as {}", safe(&line.catalog), safe(&line.id))),
        ("version", or_none(line.version)),
        ("snapshot", or_none(line.snapshot)),
        ("updated", details.updated.map_or_else(|| "none".to_owned(), time)),
        ("format", details.format_version.to_string()),
        ("metadata", safe(&details.metadata)),
        ("location", safe(&details.location)),
        ("snapshots", details.snapshots.to_string()),
        ("files", sum(&details.files)),
        ("cached", sum(&details.cached)),
    ];
    if let Some(error) = &line.error {
        rows.push(("error", safe(error)));
    }
    rows.extend(line.broken.iter().map(|(path, why)| ("broken", format!("{}: {}", safe(path), safe(why)))));
    let references = |names: &std::collections::BTreeMap<String, i64>| {
        names.iter().map(|(name, snapshot)| format!("{}: {snapshot}", safe(name))).collect::<Vec<_>>()
    };
    rows.extend(references(&details.branches).into_iter().map(|line| ("branch", line)));
    rows.extend(references(&details.tags).into_iter().map(|line| ("tag", line)));
    for pin in &details.pins {
        rows.push(("pinned", if pin.is_empty() { "all".to_owned() } else { safe(pin) }));
    }
    rows.extend(line.idle_pins.iter().map(|idle| ("  of nothing", safe(idle))));
    if !details.pins.is_empty() {
        rows.push(("held", sum(&details.held)));
        rows.extend(line.not_held.iter().map(|why| ("  not more", safe(why))));
    }
    if let Some(change) = &details.last_change {
        rows.extend(change_rows(change));
    }
    rows.into_iter().map(|(key, value)| [key.to_owned(), value]).collect()
}

fn change_rows(change: &LastChange) -> Vec<(&'static str, String)> {
    let took = format!("{} requests, {}, {} ms", change.requests, bytes(change.bytes), change.ms);
    let kept = match (change.kept_blocks, change.kept_bytes) {
        (Some(blocks), Some(size)) => format!("{blocks} blocks, {}", bytes(size)),
        _ => "not known yet".to_owned(),
    };
    vec![
        (
            "last_change",
            format!("{}: {} to version {}", time(change.time), safe(&change.kind), change.version),
        ),
        ("  took", took),
        ("  files", format!("{} came, {} went", change.added, change.removed)),
        ("  kept", kept),
        ("  followed", format!("{} brought, {} go first", change.brought, change.demoted)),
    ]
}

pub(super) fn explanation(explanation: &Explanation, context: &Context) -> Result<()> {
    if context.output.json {
        return context.output.value(explanation);
    }
    context.output.table(["", ""], &rows(&explanation.details));
    let rows =
        explanation.partitions.iter().filter(|partition| partition.cached.files > 0).map(|partition| {
            [
                if partition.partition.is_empty() { "(none)".to_owned() } else { safe(&partition.partition) },
                format!("{} of {}", partition.cached.files, partition.files.files),
                format!("{} of {}", bytes(partition.cached.bytes), bytes(partition.files.bytes)),
                partition.uses.to_string(),
            ]
        });
    context.output.table(["PARTITION", "FILES", "CACHED", "USES"], &rows.collect::<Vec<_>>());
    let why = |why| serde_json::to_value(why).ok().and_then(|why| why.as_str().map(str::to_owned));
    let rows = explanation.cached_files.iter().take(FILES_SHOWN).map(|file| {
        [
            safe(&file.location),
            format!("{} of {}", bytes(file.cached_bytes), bytes(file.size)),
            file.uses.to_string(),
            why(file.why).unwrap_or_default(),
        ]
    });
    context.output.table(["FILE", "CACHED", "USES", "WHY"], &rows.collect::<Vec<_>>());
    if explanation.cached_files.len() > FILES_SHOWN {
        context.output.say("there are more cached files; --json lists them");
    }
    Ok(())
}

/// Each table that was asked about; a failure of one is a failure.
pub(super) fn refreshed(refreshed: &[Refreshed], context: &Context) -> Result<Exit> {
    if context.output.json {
        context.output.value(&refreshed)?;
    }
    for one in refreshed {
        let table = safe(&one.table);
        match (&one.error, one.version) {
            (Some(error), _) => context.output.warn(&format!("{table}: {}", safe(error))),
            (None, None) => context.output.say(&format!("{table} is gone")),
            (None, Some(version)) if one.changed => {
                context.output.say(&format!("{table} has version {version} now, after {} ms", one.ms));
            }
            (None, Some(_)) => {}
        }
    }
    let changed = refreshed.iter().filter(|one| one.changed).count();
    context.output.say(&format!("{} tables were asked about, {changed} have changed", refreshed.len()));
    Ok(if refreshed.iter().all(|one| one.error.is_none()) { Exit::Done } else { Exit::Failure })
}
