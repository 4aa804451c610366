//! [`Shelf`]: tables that are ready to be shown, on a mount of their own or beside a directory.
use super::desk::Desk;
use super::hints;
use super::webhook::{Taking, Webhook};
use crate::cache::{Cache, Config, Tier};
use crate::config::{KeepVersions, MountSettings, Passthrough, TablesSettings};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{Kernel, Volume};
use crate::fuse::adapter::Adapter;
use crate::fuse::connection::Wanted;
use crate::fuse::mount::{Backing, NoPassthrough, probe_passthrough};
use crate::fuse::tables::{Beside, FOLDERS, IO_BYTES, Serving, TablesAdapter, WITHHELD, wanted};
use crate::fuse::transport::Handler;
use crate::remote::Counters;
use crate::serve::shared::{Exchange, Shared};
use crate::serve::start::lock::own_directory;
use crate::serve::start::open_directory;
use crate::serve::startup::{Progress, StatusPipe};
use crate::tables::{Lake, LakeOptions, Pace, Stores, View, track};
use icecache_iceberg::catalog::Options;
use icecache_iceberg::publication::Retention;
use icecache_iceberg::{CatalogAddress, Mapping};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A mount waits no longer for catalogs: their tables are there as soon as they answer.
const CATALOGS_PATIENCE: Duration = Duration::from_secs(10);

/// See the module.
pub struct Shelf {
    adapter: TablesAdapter,
    /// Why the kernel does not serve what is whole.
    classic: Option<NoPassthrough>,
    depth: u32,
    cache: Cache,
    desk: Desk,
    shared: Shared,
    pace: Pace,
    webhook: Option<Webhook>,
}

/// Tables that follow their catalogs.
pub struct Shown {
    cache: Cache,
    desk: Desk,
    stop: watch::Sender<bool>,
    tracker: JoinHandle<()>,
    hints: Exchange,
    taking: Option<Taking>,
}

impl Shelf {
    /// The tables that the settings name, if they name any.
    pub fn open(settings: &MountSettings, runtime: &Runtime, status: &StatusPipe) -> Result<Option<Self>> {
        let Some(tables) = &settings.tables else { return Ok(None) };
        let requests: Arc<Counters> = Arc::default();
        let webhook = Webhook::begin(tables, runtime, status)?;
        own_directory(&settings.tables_dir())?;
        let cache_dir = settings.tables_dir().join("cache");
        let (max_bytes, block_bytes) = (tables.cache_bytes, tables.block_bytes);
        let config = Config { max_bytes, block_bytes, ..Config::new(&cache_dir) };
        let cache = runtime.block_on(Cache::open(config))?;
        let shared = runtime.block_on(Shared::open(tables.redis.as_deref()))?;
        let lake = Arc::new(lake(settings, tables, &cache, &requests, shared.tiers())?);
        status.progress(Progress { phase: "asking catalogs".into(), ..Progress::default() });
        match runtime.block_on(async { tokio::time::timeout(CATALOGS_PATIENCE, lake.ask_names()).await }) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => status.notice(format!("not all catalogs answer yet: {error}")),
            Err(_) => {
                lake.doubt_who_is_silent();
                status.notice("not all catalogs answer yet".to_owned());
            }
        }

        let disk = open_directory(&cache_dir)?;
        let classic = match settings.passthrough {
            Passthrough::Off => Some(NoPassthrough::TurnedOff),
            Passthrough::Auto => probe_passthrough(&disk, &settings.state_dir.join("probe")).err(),
        };
        let depth =
            Backing::probe(&disk).map_err(|e| Error::io("cannot look at the disk of the cache", e))?.depth;
        let how = Serving { passthrough: classic.is_none(), beside: !tables.only, patience: tables.timeout };
        let adapter = TablesAdapter::new(View::new(lake.clone()), runtime.handle().clone(), how, disk);
        let hints = webhook.as_ref().map(Webhook::address);
        let desk = Desk { catalogs: shown(tables)?, lake, requests, hints };
        let pace = Pace { hot: tables.poll, idle: tables.poll_idle };
        Ok(Some(Self { adapter, classic, depth, cache, desk, shared, pace, webhook }))
    }

    /// What the kernel does not serve by itself, and why.
    pub fn classic(&self) -> Option<&NoPassthrough> {
        self.classic.as_ref()
    }

    /// What the mount asks of the kernel. `rings`: some are ready.
    pub fn wanted(&self, rings: bool) -> Wanted {
        wanted(self.classic.is_none(), self.depth, rings)
    }

    /// Bytes of one READ at most.
    pub fn io_bytes(&self) -> u32 {
        IO_BYTES
    }

    /// How many reads may wait for their answers.
    pub fn withheld(&self) -> usize {
        WITHHELD
    }

    /// Answers for the tables alone.
    pub fn alone(&self) -> Arc<dyn Handler> {
        Arc::new(self.adapter.clone())
    }

    /// Answers for a directory and the tables.
    pub fn beside(&self, volume: Arc<Volume>, directory: Adapter) -> Arc<dyn Handler> {
        Arc::new(Beside::new(volume, directory, self.adapter.clone()))
    }

    /// A directory that has one of our names itself is not hidden: it is not shown with tables.
    pub fn fits(&self, volume: &Volume) -> Result<()> {
        for name in FOLDERS {
            let Ok((inode, _)) = volume.lookup(crate::fs::inode::ROOT_ID, name) else { continue };
            volume.forget(inode, 1);
            let name = name.to_string_lossy();
            let message = format!(
                "the directory has an entry of its own where tables would be shown: {name} (mount it without --catalog \
                 and --table and rename the entry, or show the tables elsewhere with --tables-only)"
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(())
    }

    /// Connects the way back to the kernel; once.
    pub fn set_kernel(&self, kernel: Arc<dyn Kernel>) {
        self.adapter.set_kernel(kernel);
    }

    /// From now on the tables follow their catalogs.
    pub fn show(self, runtime: &Runtime) -> Shown {
        let Self { adapter, cache, desk, shared, pace, webhook, .. } = self;
        let (stop, stopping) = watch::channel(false);
        desk.lake.on_turn(move |what| adapter.turned(what));
        let tracker = runtime.spawn(track(desk.lake.clone(), pace, stopping));
        let lake = desk.lake.clone();
        let hints = shared.exchange(runtime.handle(), |peers| hints::exchange(lake, peers));
        let taking = webhook.map(|webhook| webhook.serve(runtime, desk.lake.clone()));
        Shown { cache, desk, stop, tracker, hints, taking }
    }
}

impl Shown {
    /// Who answers for them.
    pub fn desk(&self) -> Desk {
        self.desk.clone()
    }

    /// Nothing is mounted any more, and nobody asks.
    pub fn end(self, runtime: &Runtime) {
        if let Some(taking) = self.taking {
            taking.end(runtime);
        }
        let _told = self.stop.send(true);
        let _ended = runtime.block_on(self.tracker);
        drop(self.hints);
        if let Err(error) = runtime.block_on(self.cache.close()) {
            tracing::warn!(%error, "the next start looks through the cache");
        }
    }
}

fn lake(
    settings: &MountSettings,
    tables: &TablesSettings,
    cache: &Cache,
    requests: &Arc<Counters>,
    tiers: Vec<Arc<dyn Tier>>,
) -> Result<Lake> {
    let mapping = Mapping::new(&settings.dir)
        .map_err(|e| Error::new(ErrorKind::Invalid, "cannot show tables here").with_source(e))?;
    let (retention, patience) = (retention(tables.keep), tables.timeout);
    let stores = Stores::new(settings.s3.clone(), cache.clone(), tiers, requests.clone(), patience);
    let stores = Arc::new(stores);
    let addresses = addresses(tables)?;
    let is_named = |catalog: &String| addresses.iter().any(|address| address.name == *catalog);
    if let Some((catalog, key, _)) = tables.options.iter().find(|(catalog, ..)| !is_named(catalog)) {
        let message = format!("an option of a catalog that is not there: {catalog}.{key}");
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    let catalogs = addresses
        .into_iter()
        .map(|address| {
            let own = tables.options.iter().filter(|(catalog, ..)| *catalog == address.name);
            let options: Options = own.map(|(_, key, value)| (key.clone(), value.clone())).collect();
            (address, options)
        })
        .collect();
    let folder = settings.tables_dir().join("tables");
    Lake::new(LakeOptions { catalogs, mapping, folder, retention, patience }, stores)
}

/// Who says an age or a size, and no number, wants no other bound.
fn retention(keep: KeepVersions) -> Retention {
    let versions = match keep.count {
        Some(count) => count as usize,
        None if keep.age_s.is_some() || keep.bytes.is_some() => usize::MAX,
        None => Retention::default().versions,
    };
    Retention { versions, age: keep.age_s.map(Duration::from_secs), bytes: keep.bytes }
}

fn addresses(tables: &TablesSettings) -> Result<Vec<CatalogAddress>> {
    let parse = |text: &String| {
        text.parse::<CatalogAddress>()
            .map_err(|e| Error::new(ErrorKind::Invalid, "cannot use catalog").with_source(e))
    };
    tables.catalogs.iter().map(parse).collect()
}

/// The catalogs without secrets.
fn shown(tables: &TablesSettings) -> Result<String> {
    Ok(addresses(tables)?.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TABLES: "The 16 newest versions can still be opened, or what `--keep-snapshots` says".
    #[test]
    fn an_age_alone_is_the_only_bound() {
        let none = KeepVersions { count: None, age_s: None, bytes: None };
        assert_eq!(retention(none), Retention::default());
        let week = retention(KeepVersions { age_s: Some(7 * 86_400), ..none });
        assert_eq!((week.versions, week.age), (usize::MAX, Some(Duration::from_secs(7 * 86_400))));
        let room = retention(KeepVersions { bytes: Some(1), ..none });
        assert_eq!((room.versions, room.bytes), (usize::MAX, Some(1)));
        assert_eq!(retention(KeepVersions { count: Some(3), bytes: Some(1), ..none }).versions, 3);
    }
}
