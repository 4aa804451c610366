//! The verbs.
use super::{show, watch};
use crate::cli::output::{bytes, safe};
use crate::cli::{Context, Exit, locate};
use crate::serve::control::{Part, TablesAsk};
use crate::tables::report::{Explanation, Outcome, Refreshed, Sum, TableDetails, TableLine};
use crate::{Error, ErrorKind, Result};
use clap::Subcommand;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// Look after the Iceberg tables that a mount shows
#[derive(Debug, clap::Args)]
pub struct TablesVerb {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the tables of all catalogs
    Ls(Mounted),
    /// Tell what is known of one table
    Show(One),
    /// Tell which files of a table are in the cache, and why, and what its last change took
    Explain(One),
    /// Ask the catalogs now, instead of when the next poll is due
    Refresh(OneOrAll),
    /// Bring a table, or a part of it, into the cache
    Warm(OneOrPart),
    /// Keep a table, or a part of it, in the cache: what it has now and what comes, also after a restart
    Pin(OneOrPart),
    /// Let the cache have its way with what was pinned: all of a table, or exactly this part
    Unpin(OneOrPart),
    /// Forget what is cached of a table, and ask its catalog
    Invalidate(One),
    /// Print what happens to tables, a line of JSON for each event, until it is interrupted
    Watch(SomeOrAll),
}

/// A mount.
#[derive(Debug, clap::Args)]
struct Mounted {
    /// The mounted directory
    dir: PathBuf,
}

/// A table.
#[derive(Debug, clap::Args)]
struct One {
    /// The mounted directory
    dir: PathBuf,
    /// The table, as 'icecache tables ls' shows it, or its path
    table: String,
}

/// A table, or all.
#[derive(Debug, clap::Args)]
struct OneOrAll {
    /// The mounted directory
    dir: PathBuf,
    /// The table, as 'icecache tables ls' shows it, or its path; without it: all that somebody has looked into
    table: Option<String>,
}

/// Tables, or all.
#[derive(Debug, clap::Args)]
struct SomeOrAll {
    /// The mounted directory
    dir: PathBuf,
    /// The tables, as 'icecache tables ls' shows them, or their paths; without any: all
    tables: Vec<String>,
}

/// A table, or a part of it.
#[derive(Debug, clap::Args)]
struct OneOrPart {
    /// The mounted directory
    dir: PathBuf,
    /// The table, as 'icecache tables ls' shows it, or its path
    table: String,
    /// Only this partition, by its first fields: day=2026-01-31, or day=2026-01-31/kind=a
    #[arg(long, value_name = "FIELD=VALUE[/…]")]
    partition: Option<String>,
    /// Only these columns of its Parquet files: city,address.zip
    #[arg(long, value_name = "COLUMN[,…]", value_delimiter = ',')]
    columns: Vec<String>,
    /// Only the files that a query with this condition reads: "day >= DATE '2026-01-01' AND city = 'Rome'"
    #[arg(long = "where", value_name = "CONDITION")]
    condition: Option<String>,
}

impl TablesVerb {
    pub fn run(self, context: &Context) -> Result<Exit> {
        match self.verb {
            Verb::Ls(at) => show::list(&ask::<Vec<TableLine>>(&at.dir, TablesAsk::List, context)?, context)?,
            Verb::Show(one) => {
                let details: TableDetails = one.ask(|table| TablesAsk::Show { table }, context)?;
                show::details(&details, context)?;
            }
            Verb::Explain(one) => {
                let explanation: Explanation = one.ask(|table| TablesAsk::Explain { table }, context)?;
                show::explanation(&explanation, context)?;
            }
            Verb::Refresh(some) => {
                let table = some.table.map(|table| below(&some.dir, table));
                let refreshed: Vec<Refreshed> = ask(&some.dir, TablesAsk::Refresh { table }, context)?;
                return show::refreshed(&refreshed, context);
            }
            Verb::Warm(part) => {
                let ask = |table, part| TablesAsk::Warm { table, part };
                return brought(&part.ask(ask, context)?, "in the cache", context);
            }
            Verb::Pin(part) => {
                let ask = |table, part| TablesAsk::Pin { table, part };
                return brought(&part.ask(ask, context)?, "in the cache, and stay there", context);
            }
            Verb::Unpin(part) => {
                let name = safe(&part.table);
                let removed: bool = part.ask(|table, part| TablesAsk::Unpin { table, part }, context)?;
                if context.output.json {
                    context.output.value(&serde_json::json!({ "unpinned": removed }))?;
                }
                if !removed {
                    let message = format!("it was not pinned: {name}");
                    return Err(Error::new(ErrorKind::NotFound, message));
                }
                context.output.say(&format!("{name} goes when the cache needs the room"));
            }
            Verb::Invalidate(one) => {
                let forgotten: Sum = one.ask(|table| TablesAsk::Invalidate { table }, context)?;
                if context.output.json {
                    context.output.value(&forgotten)?;
                }
                let (files, size) = (forgotten.files, bytes(forgotten.bytes));
                context
                    .output
                    .say(&format!("forgot {files} files, {size}; they are fetched again when they are read"));
            }
            Verb::Watch(some) => {
                let tables = some.tables.into_iter().map(|table| below(&some.dir, table)).collect();
                watch::watch(&some.dir, tables, context)?;
            }
        }
        Ok(Exit::Done)
    }
}

impl One {
    fn ask<T: DeserializeOwned>(
        self,
        what: impl FnOnce(String) -> TablesAsk,
        context: &Context,
    ) -> Result<T> {
        ask(&self.dir, what(below(&self.dir, self.table)), context)
    }
}

impl OneOrPart {
    fn ask<T: DeserializeOwned>(
        self,
        what: impl FnOnce(String, Part) -> TablesAsk,
        context: &Context,
    ) -> Result<T> {
        let Self { dir, table, partition, columns, condition } = self;
        ask(&dir, what(below(&dir, table), Part { partition, columns, condition }), context)
    }
}

fn ask<T: DeserializeOwned>(dir: &Path, what: TablesAsk, context: &Context) -> Result<T> {
    locate::daemon(dir, context)?.1.tables(what)
}

/// A table may be named by where it is in the mount: as the daemon knows it.
fn below(dir: &Path, table: String) -> String {
    match Path::new(&table).strip_prefix(dir) {
        Ok(below) => below.to_string_lossy().into_owned(),
        Err(_) => table,
    }
}

fn brought(outcome: &Outcome, what: &str, context: &Context) -> Result<Exit> {
    if context.output.json {
        context.output.value(outcome)?;
    }
    for failed in &outcome.failed {
        context.output.warn(&safe(failed));
    }
    let told = |sum: &Sum| format!("{} files, {}", sum.files, bytes(sum.bytes));
    if outcome.local.files > 0 {
        let local = told(&outcome.local);
        context
            .output
            .say(&format!("{local}, are of this machine: they are read where they are, and not copied"));
    }
    if outcome.local.files == 0 || outcome.there.files > 0 {
        context.output.say(&format!("{}, are {what}", told(&outcome.there)));
    }
    Ok(if outcome.failed_files == 0 { Exit::Done } else { Exit::Failure })
}
