//! `icecache cache ls` and `icecache cache stat`.
use super::name::Typing;
use super::{CacheDir, Shown, absent, named, with_cache};
use crate::Result;
use crate::cache::Info;
use crate::cli::output::{bytes, safe, safe_bytes, time};
use crate::cli::{Context, Exit};
use clap::ValueEnum;
use serde::Serialize;
use std::ffi::OsString;

/// By what a list is sorted; each with the most first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sort {
    /// The key.
    Key,
    /// Bytes on the disk.
    Size,
    /// How long ago it was admitted.
    Age,
    /// How often it was used.
    Hits,
}

#[derive(Debug, clap::Args)]
pub struct Ls {
    #[command(flatten)]
    cache: CacheDir,
    /// Sort by this, the most first
    #[arg(long, value_enum, default_value = "key")]
    sort: Sort,
    /// Show at most so many
    #[arg(long, value_name = "NUMBER")]
    limit: Option<usize>,
    #[command(flatten)]
    typing: Typing,
    /// Only keys that begin so
    prefix: Option<OsString>,
}

#[derive(Debug, clap::Args)]
pub struct Stat {
    #[command(flatten)]
    cache: CacheDir,
    #[command(flatten)]
    typing: Typing,
    /// The key of a file, or an object's
    key: OsString,
}

#[derive(Debug, Serialize)]
struct Line {
    #[serde(flatten)]
    name: Shown,
    size: u64,
    on_disk: u64,
    blocks: u32,
    blocks_total: u32,
    created: u64,
    hits: u64,
}

impl Line {
    fn of(info: &Info) -> Self {
        Self {
            name: Shown::of(&info.name),
            size: info.size,
            on_disk: info.on_disk,
            blocks: info.blocks.0,
            blocks_total: info.blocks.1,
            created: info.created,
            hits: info.hits,
        }
    }

    fn created(&self) -> String {
        i64::try_from(self.created)
            .ok()
            .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
            .map_or_else(|| "unknown".to_owned(), time)
    }
}

impl Ls {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let config = self.cache.unlimited(context)?;
        let mut entries = with_cache(config, &context.output, |cache| async move { Ok(cache.entries()) })?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        match self.sort {
            Sort::Key => {}
            Sort::Size => entries.sort_by_key(|info| std::cmp::Reverse(info.on_disk)),
            Sort::Age => entries.sort_by_key(|info| info.created),
            Sort::Hits => entries.sort_by_key(|info| std::cmp::Reverse(info.hits)),
        }
        let prefix = self.typing.bytes(&self.prefix.unwrap_or_default());
        let lines: Vec<Line> = entries
            .iter()
            .map(Line::of)
            .filter(|line| line.name.key.starts_with(&prefix))
            .take(self.limit.unwrap_or(usize::MAX))
            .collect();
        if context.output.json {
            context.output.value(&lines)?;
            return Ok(Exit::Done);
        }
        let row = |line: &Line| {
            [
                line.name.kind.to_owned(),
                bytes(line.size),
                bytes(line.on_disk),
                format!("{}/{}", line.blocks, line.blocks_total),
                line.hits.to_string(),
                line.created(),
                safe_bytes(&line.name.key),
            ]
        };
        let rows: Vec<_> = lines.iter().map(row).collect();
        context.output.table(["KIND", "SIZE", "ON DISK", "BLOCKS", "HITS", "CREATED", "KEY"], &rows);
        let total: u64 = lines.iter().map(|line| line.on_disk).sum();
        context.output.say(&format!("{} entries, {}", lines.len(), bytes(total)));
        Ok(Exit::Done)
    }
}

impl Stat {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let config = self.cache.unlimited(context)?;
        let key = self.typing.bytes(&self.key);
        let found = with_cache(config, &context.output, |cache| {
            let found = named(&cache, &key);
            async move { Ok(found) }
        })?;
        if found.is_empty() {
            return Err(absent(&key));
        }
        let lines: Vec<Line> = found.iter().map(Line::of).collect();
        if context.output.json {
            context.output.value(&lines)?;
            return Ok(Exit::Done);
        }
        for line in &lines {
            let mut rows = vec![
                ["kind".to_owned(), line.name.kind.to_owned()],
                ["key".to_owned(), safe_bytes(&line.name.key)],
                ["size".to_owned(), format!("{} ({})", line.size, bytes(line.size))],
                ["on_disk".to_owned(), format!("{} ({})", line.on_disk, bytes(line.on_disk))],
                ["blocks".to_owned(), format!("{} of {}", line.blocks, line.blocks_total)],
                ["created".to_owned(), line.created()],
                ["hits".to_owned(), line.hits.to_string()],
            ];
            if let (Some(bucket), Some(tag)) = (&line.name.bucket, &line.name.tag) {
                rows.insert(2, ["origin".to_owned(), safe(bucket)]);
                rows.insert(3, ["tag".to_owned(), safe(tag)]);
            }
            context.output.table(["", ""], &rows);
        }
        Ok(Exit::Done)
    }
}
