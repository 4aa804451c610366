//! `icecache cache …`: what is in a cache that no other process has open.
mod change;
mod gc;
mod list;
mod name;
mod verify;
mod warm;

use super::flags::{Flags, S3Scope};
use super::output::{Output, safe_bytes};
use super::progress::View;
use super::{Context, Exit};
use crate::cache::{CHECKS, Cache, Config, EntryName, Info, PolicyKind, Recall};
use crate::config::{S3Settings, place};
use crate::remote::{RemoteUrl, url_of};
use crate::runtime::{self, Threads};
use crate::serve::startup::Progress;
use crate::{Error, ErrorKind, Result};
use bytesize::ByteSize;
use clap::Subcommand;
use name::KeyText;
use serde::Serialize;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

/// What ends within it needs no progress bar.
const SILENCE: Duration = Duration::from_secs(1);
/// How often a bar is drawn anew.
const REDRAW: Duration = Duration::from_millis(200);

/// Look after a cache directory
#[derive(Debug, clap::Args)]
pub struct CacheVerb {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List what is there
    Ls(list::Ls),
    /// Tell what is known of one entry
    Stat(list::Stat),
    /// Write a file of the cache to stdout or elsewhere
    Get(change::Get),
    /// Put a file into the cache
    Put(change::Put),
    /// Take an entry out of the cache
    Rm(change::Rm),
    /// Read everything and drop what is damaged
    Verify(verify::Verify),
    /// Bring the cache within its limits
    Gc(gc::Gc),
    /// Bring objects of a remote into the cache
    Warm(warm::Warm),
}

impl CacheVerb {
    pub fn run(self, context: &Context) -> Result<Exit> {
        match self.verb {
            Verb::Ls(verb) => verb.run(context),
            Verb::Stat(verb) => verb.run(context),
            Verb::Get(verb) => verb.run(context),
            Verb::Put(verb) => verb.run(context),
            Verb::Rm(verb) => verb.run(context),
            Verb::Verify(verb) => verb.run(context),
            Verb::Gc(verb) => verb.run(context),
            Verb::Warm(verb) => verb.run(context),
        }
    }
}

/// Where the cache is.
#[derive(Debug, Clone, clap::Args)]
pub struct CacheDir {
    /// The directory of the cache [default: /var/cache/icecache as root, else icecache/cache in the
    /// user's cache folder]
    #[arg(long, value_name = "DIR", env = "ICECACHE_CACHE_DIR")]
    cache: Option<PathBuf>,
}

impl CacheDir {
    fn path(&self, context: &Context) -> Result<PathBuf> {
        let Some(dir) = &self.cache else {
            let dir = place::default_cache(&context.environment)?;
            if let Some(parent) = dir.parent() {
                std::fs::create_dir_all(parent)
                    .map_err(|e| Error::io(format!("cannot make {}", parent.display()), e))?;
            }
            return Ok(dir);
        };
        Ok(dir.clone())
    }

    /// For verbs that only look: nothing is thrown out because of a limit that they do not know.
    fn unlimited(&self, context: &Context) -> Result<Config> {
        let directory = self.path(context)?;
        if !directory.is_dir() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("there is no cache: {}", directory.display()),
            ));
        }
        let most = i64::MAX as u64;
        Ok(Config {
            max_bytes: most,
            max_entries: most,
            min_free: 0,
            remember: false,
            ..Config::new(directory)
        })
    }
}

/// The cache, and its limits.
#[derive(Debug, Clone, clap::Args)]
pub struct CacheArgs {
    #[command(flatten)]
    dir: CacheDir,
    /// The most bytes on the disk [default: as the last time, at first 10GiB]
    #[arg(long, value_name = "SIZE")]
    max_bytes: Option<ByteSize>,
    /// The most entries [default: as the last time, at first 1048576]
    #[arg(long, value_name = "NUMBER")]
    max_entries: Option<u64>,
    /// So much of the disk stays free for others [default: as the last time, at first 256MiB]
    #[arg(long, value_name = "SIZE")]
    min_free: Option<ByteSize>,
    /// Bytes of a block, a power of two
    #[arg(long, value_name = "SIZE", default_value = "1MiB")]
    block_bytes: ByteSize,
    /// What goes first: lru, s3-fifo, cost-based, adaptive-ttl
    #[arg(long, value_name = "NAME", default_value = "lru", value_parser = policy)]
    policy: PolicyKind,
}

impl CacheArgs {
    /// As the cache is told.
    pub fn config(&self, context: &Context) -> Result<Config> {
        let first = Config::new(self.dir.path(context)?);
        let recall = Recall {
            max_bytes: self.max_bytes.is_none(),
            max_entries: self.max_entries.is_none(),
            min_free: self.min_free.is_none(),
        };
        Ok(Config {
            max_bytes: self.max_bytes.map_or(first.max_bytes, |size| size.as_u64()),
            max_entries: self.max_entries.unwrap_or(first.max_entries),
            min_free: self.min_free.map_or(first.min_free, |size| size.as_u64()),
            recall,
            block_bytes: self.block_bytes.as_u64(),
            policy: self.policy,
            ..first
        })
    }
}

fn policy(text: &str) -> std::result::Result<PolicyKind, String> {
    PolicyKind::ALL
        .into_iter()
        .find(|kind| kind.word() == text)
        .ok_or_else(|| format!("one of {}", PolicyKind::ALL.map(PolicyKind::word).join(", ")))
}

/// The remote of `--origin`, with the settings that say how to reach it.
pub fn origin_settings(url: &str, s3: &Flags<S3Scope>, context: &Context) -> Result<(String, S3Settings)> {
    // What is written to makes a directory that is missing. What is only read would pass for an empty one.
    if let Ok(RemoteUrl::File(path)) = url.parse()
        && matches!(path.try_exists(), Ok(false))
    {
        return Err(Error::new(ErrorKind::NotFound, format!("the origin is not there: {}", path.display())));
    }
    Ok((url.to_owned(), S3Settings::resolve(&s3.merge(context, None)?)?))
}

/// Opens the cache, does something with it, and closes it in good order.
fn with_cache<T, F>(config: Config, output: &Output, work: impl FnOnce(Cache) -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    runtime::start("cache", Threads::Processors)?.block_on(async {
        let cache = Cache::open(config).await?;
        shown(output, cache.settled(), || {
            let stats = cache.stats();
            let bytes = stats.used.bytes / u64::from(CHECKS) * u64::from(stats.checked);
            let (phase, entries) = ("checking what is there".into(), stats.used.entries);
            Progress { phase, bytes, bytes_total: stats.used.bytes, entries }
        })
        .await;
        let thrown_out = damaged(&cache);
        if thrown_out > 0 {
            output.warn(&format!("damaged entries were found and thrown out: {thrown_out}"));
        }
        let done = work(cache.clone()).await;
        let closed = cache.close().await;
        done.and_then(|done| Ok(closed.map(|()| done)?))
    })
}

/// How much was not as it had been written, since the cache was opened.
fn damaged(cache: &Cache) -> u64 {
    let totals = cache.stats().totals;
    totals.corrupt_drops + totals.vanished
}

/// Waits; what takes longer than a moment is shown.
async fn shown<T>(output: &Output, work: impl Future<Output = T>, progress: impl Fn() -> Progress) -> T {
    let mut work = std::pin::pin!(work);
    if let Ok(done) = tokio::time::timeout(SILENCE, &mut work).await {
        return done;
    }
    let mut view = View::new(output);
    loop {
        view.show(&progress());
        if let Ok(done) = tokio::time::timeout(REDRAW, &mut work).await {
            return done;
        }
    }
}

/// An entry as it is shown.
#[derive(Debug, Serialize)]
struct Shown {
    /// `file` or `object`.
    kind: &'static str,
    #[serde(flatten)]
    text: KeyText,
    /// Of an object: where it comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    bucket: Option<String>,
    /// Of an object: its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<String>,
    #[serde(skip)]
    key: Vec<u8>,
}

impl Shown {
    fn of(name: &EntryName) -> Self {
        let (kind, key, object) = match name {
            EntryName::File(key) => ("file", key.as_bytes(), None),
            EntryName::Object(id) => ("object", id.key.as_bytes(), Some(id)),
        };
        Self {
            kind,
            text: KeyText::of(key),
            bucket: object.map(|id| id.bucket.clone()),
            tag: object.map(|id| id.tag.clone()),
            key: key.to_vec(),
        }
    }
}

/// The entries of this name: a file, or every version of an object that is called so.
fn named(cache: &Cache, name: &[u8]) -> Vec<Info> {
    let is_named = |info: &Info| match &info.name {
        EntryName::File(key) => key.as_bytes() == name,
        EntryName::Object(id) => {
            let called = |bucket: &str| format!("{bucket}/{}", id.key).as_bytes() == name;
            id.key.as_bytes() == name || called(&id.bucket) || called(url_of(&id.bucket))
        }
    };
    let mut found: Vec<_> = cache.entries().into_iter().filter(is_named).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn absent(name: &[u8]) -> Error {
    Error::new(ErrorKind::NotFound, format!("the cache has no such entry: {}", safe_bytes(name)))
}
