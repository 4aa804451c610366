//! `icecache status [DIR]`.
use super::locate;
use super::output::{bytes, safe, safe_path, time};
use super::{Context, Exit, forked};
use crate::Result;
use crate::serve::control;
use crate::serve::registry::Registry;
use std::path::PathBuf;

/// Entries that cannot be saved, of which one line each is shown; `--json` has more.
const STUCK_SHOWN: usize = 10;

#[derive(Debug, clap::Args)]
pub struct Status {
    /// The mounted directory; without it all mounts are listed
    dir: Option<PathBuf>,
}

impl Status {
    pub fn run(self, context: &Context) -> Result<Exit> {
        match &self.dir {
            Some(dir) => {
                let (_, mut client) = locate::daemon(dir, context)?;
                one(&client.status()?, context)?;
            }
            None => all(context)?,
        }
        Ok(Exit::Done)
    }
}

fn one(status: &control::Status, context: &Context) -> Result<()> {
    if context.output.json {
        return context.output.value(status);
    }
    if let Some(tables) = alone(status) {
        context.output.table(["", ""], &of_tables(status, tables));
        return Ok(());
    }
    let or_none = |text: &Option<String>| text.as_deref().map_or_else(|| "none".to_owned(), safe);
    let last_flush = status.last_flush.as_ref().map(|flush| {
        let what = format!("{} entries, {}, {} ms", flush.entries, bytes(flush.bytes), flush.duration_ms);
        format!("{} ({what})", time(flush.time))
    });
    let last_error = status
        .last_error
        .as_ref()
        .map(|error| format!("{}: {} ({} attempts)", time(error.time), safe(&error.message), error.attempts));
    let mut rows = vec![
        ("dir", safe_path(&status.dir)),
        ("pid", status.pid.to_string()),
        ("mode", format!("{} ({})", safe(&status.mode), safe(&status.mode_reason))),
        ("transport", safe(&status.transport)),
        ("remote", safe(&status.remote)),
        ("name", safe(&status.name)),
        ("state_dir", safe_path(&status.state_dir)),
        ("version", or_none(&status.version)),
        ("read_only", if status.read_only { "yes" } else { "no" }.to_owned()),
        ("dirty_files", status.dirty_files.to_string()),
        ("dirty_bytes", format!("{} ({})", status.dirty_bytes, bytes(status.dirty_bytes))),
        ("open_for_write", status.open_for_write.to_string()),
        ("absent_files", status.absent_files.to_string()),
        ("absent_bytes", format!("{} ({})", status.absent_bytes, bytes(status.absent_bytes))),
        ("lost_files", status.lost_files.to_string()),
        ("unneeded_layers", status.unneeded_layers.to_string()),
        ("unneeded_bytes", format!("{} ({})", status.unneeded_bytes, bytes(status.unneeded_bytes))),
        ("last_flush", last_flush.unwrap_or_else(|| "none".to_owned())),
        ("last_error", last_error.unwrap_or_else(|| "none".to_owned())),
        ("uptime", format!("{} s", status.uptime_s)),
        ("program", safe(&status.program)),
    ];
    rows.extend(status.tables.iter().flat_map(about_tables));
    if status.stuck_total > 0 {
        rows.push(("stuck", format!("{} entries cannot be saved", status.stuck_total)));
    }
    let why = |entry: &control::Unsaved| {
        let reason = entry.reason.as_deref().map_or_else(|| "unknown".to_owned(), safe);
        format!("{}: {reason}", safe_path(&entry.path))
    };
    rows.extend(status.stuck.iter().take(STUCK_SHOWN).map(|entry| ("", why(entry))));
    if let Some(error) = &status.lost_error {
        context.output.warn(&safe(error));
    }
    if let Some(error) = &status.unneeded_error {
        context.output.warn(&safe(error));
    }
    if let Some(fork) = &status.fork {
        rows.insert(9, ("fork", safe(fork)));
        context.output.warn(&forked(fork));
    }
    let rows: Vec<[String; 2]> = rows.into_iter().map(|(key, value)| [key.to_owned(), value]).collect();
    context.output.table(["", ""], &rows);
    Ok(())
}

/// The tables of a mount that shows nothing else.
fn alone(status: &control::Status) -> Option<&control::TablesStatus> {
    status.tables.as_ref().filter(|_| status.read_only)
}

/// What there is to say of a mount that shows tables and nothing else.
fn of_tables(status: &control::Status, tables: &control::TablesStatus) -> Vec<[String; 2]> {
    let mut rows = vec![
        ("dir", safe_path(&status.dir)),
        ("pid", status.pid.to_string()),
        ("mode", format!("{} ({})", safe(&status.mode), safe(&status.mode_reason))),
        ("transport", safe(&status.transport)),
        ("state_dir", safe_path(&status.state_dir)),
    ];
    rows.extend(about_tables(tables));
    rows.push(("remote", safe(&status.remote)));
    rows.push(("uptime", format!("{} s", status.uptime_s)));
    rows.push(("program", safe(&status.program)));
    rows.into_iter().map(|(key, value)| [key.to_owned(), value]).collect()
}

/// How tables stand.
fn about_tables(tables: &control::TablesStatus) -> Vec<(&'static str, String)> {
    let (used, most) = (bytes(tables.cached_bytes), bytes(tables.cache_max_bytes));
    let behind = match tables.behind {
        0 => String::new(),
        behind => format!(", {behind} not as they are by now (see tables ls)"),
    };
    let mut rows = vec![
        ("tables", format!("{}, {} shown, {} failed{behind}", tables.known, tables.shown, tables.failed)),
        ("cache", format!("{used} of {most}")),
    ];
    for catalog in &tables.catalogs {
        let answered = catalog
            .answered_s_ago
            .map_or_else(|| "has not answered yet".to_owned(), |ago| format!("answered {ago} s ago"));
        let why = catalog.error.as_deref().map(|why| format!(", but not now: {}", safe(why)));
        rows.push(("catalog", format!("{}: {answered}{}", safe(&catalog.name), why.unwrap_or_default())));
    }
    if let Some(hints) = tables.hints {
        rows.push(("hints", format!("at http://{hints}/tables/TABLE/refresh")));
    }
    rows
}

/// One word, and of a read-only mount what it shows.
fn state(status: &control::Status) -> String {
    if let Some(tables) = alone(status) {
        let away = tables.catalogs.iter().filter(|catalog| catalog.error.is_some()).count();
        return if away == 0 { "tables".to_owned() } else { format!("tables, {away} catalogs away") };
    }
    match (&status.version, &status.last_error) {
        _ if status.lost_files > 0 => format!("{} lost", status.lost_files),
        (Some(version), _) if status.read_only => format!("version {}, read-only", safe(version)),
        (_, Some(_)) => "failing".to_owned(),
        _ if status.stuck_total > 0 => format!("{} stuck", status.stuck_total),
        (_, None) => "ok".to_owned(),
    }
}

fn all(context: &Context) -> Result<()> {
    let mut mounts = Vec::new();
    for (entry, mut client) in Registry::of(&context.environment).list() {
        match client.status() {
            Ok(status) => mounts.push(status),
            Err(e) => context.output.warn(&format!("{}: {}", safe_path(&entry.dir), safe(&e.to_string()))),
        }
    }
    if context.output.json {
        return context.output.value(&mounts);
    }
    if mounts.is_empty() {
        context.output.say("nothing is mounted");
    }
    let row = |s: &control::Status| {
        [
            safe_path(&s.dir),
            s.pid.to_string(),
            safe(&s.mode),
            s.dirty_files.to_string(),
            s.last_flush.as_ref().map_or_else(|| "none".to_owned(), |flush| time(flush.time)),
            state(s),
            format!("{} as {}", safe(&s.remote), safe(&s.name)),
        ]
    };
    let rows: Vec<_> = mounts.iter().map(row).collect();
    context.output.table(["DIR", "PID", "MODE", "DIRTY", "LAST FLUSH", "STATE", "REMOTE"], &rows);
    Ok(())
}
