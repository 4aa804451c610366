//! What the tests of the cache share: contents that say whose they are, an origin that counts, and what is
//! on the disk.
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use icecache::cache::{Cache, Config, FetchError, Fetched, File, Key, ObjectId, Origin};
use std::collections::HashMap;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

pub const BLOCK: u64 = 64 << 10;

/// A directory on a real disk.
pub fn place() -> tempfile::TempDir {
    let base = std::env::var_os("ICECACHE_TEST_TMP").unwrap_or("/var/tmp".into());
    tempfile::Builder::new().prefix("cache-").tempdir_in(base).unwrap()
}

/// Small blocks, and no flush that nobody asked for.
pub fn config(dir: &Path) -> Config {
    Config {
        max_bytes: 64 << 20,
        min_free: 0,
        block_bytes: BLOCK,
        flush_interval: Duration::from_secs(3600),
        readahead_max: 0,
        memory_bytes: 0,
        ..Config::new(dir)
    }
}

pub fn key(n: u64) -> Key {
    Key::new(format!("key/{n}")).unwrap()
}

/// Bytes that nobody else has: of this seed, at this offset.
pub fn content(seed: u64, range: Range<u64>) -> Vec<u8> {
    let word = |at: u64| {
        let mut z = (seed << 32 | at).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (z ^ (z >> 27)).to_le_bytes()
    };
    let first = range.start / 8;
    let mut bytes: Vec<u8> = (first..range.end.div_ceil(8)).flat_map(word).collect();
    bytes.truncate((range.end - first * 8) as usize);
    bytes.drain(..(range.start - first * 8) as usize);
    bytes
}

pub fn object(seed: u64, size: u64) -> ObjectId {
    ObjectId { bucket: "b".into(), key: format!("object/{seed}"), tag: seed.to_string(), size }
}

/// Gives the content of objects whose tag is their seed, and counts.
#[derive(Debug, Default)]
pub struct Source {
    /// How often each range was asked for.
    pub asked: Mutex<HashMap<(u64, u64), u32>>,
    /// The next fetches fail so, in this order.
    pub failures: Mutex<Vec<FetchError>>,
    /// If set, fetches wait until there are permits.
    pub gate: Option<tokio::sync::Semaphore>,
    /// Fetches hang after their first byte.
    pub hang: std::sync::atomic::AtomicBool,
}

impl Source {
    pub fn fetches(&self) -> u32 {
        self.asked.lock().unwrap().values().sum()
    }
}

#[async_trait]
impl Origin for Source {
    async fn fetch(&self, id: &ObjectId, range: Range<u64>) -> Result<Fetched, FetchError> {
        let seed: u64 = id.tag.parse().unwrap();
        *self.asked.lock().unwrap().entry((seed, range.start)).or_default() += 1;
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
        let failure = self.failures.lock().unwrap().pop();
        if let Some(failure) = failure {
            return Err(failure);
        }
        let bytes = Bytes::from(content(seed, range));
        let half = bytes.len() / 2;
        let pieces = [Ok(bytes.slice(..half)), Ok(bytes.slice(half..))];
        let body = if self.hang.load(std::sync::atomic::Ordering::Relaxed) {
            let [first, _] = pieces;
            futures::stream::iter([first]).chain(futures::stream::pending()).boxed()
        } else {
            futures::stream::iter(pieces).boxed()
        };
        Ok(Fetched { body, source: "test" })
    }
}

/// All plain files below a directory.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => todo.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    found
}

/// What a file takes: its extents, in pages.
pub fn extents(path: &Path) -> u64 {
    use rustix::fs::{SeekFrom, seek};
    let Ok(file) = std::fs::File::open(path) else { return 0 };
    let (mut at, mut sum) = (0, 0);
    while let Ok(start) = seek(&file, SeekFrom::Data(at)) {
        at = seek(&file, SeekFrom::Hole(start)).unwrap();
        sum += at.div_ceil(4096) * 4096 - start;
    }
    sum
}

/// What the cache in a directory takes, and how many entries there are. A witness that is an attribute takes a
/// page; that of an entry that was deleted while it is held has gone already, and counts until the entry goes.
pub fn taken(dir: &Path) -> (u64, u64) {
    let objects = files(&dir.join("objects"));
    let (entries, sidecars): (Vec<_>, Vec<_>) =
        objects.into_iter().partition(|path| path.extension().is_none());
    let attributes = 4096 * (entries.len() - sidecars.len()) as u64;
    let count = entries.len() as u64;
    let all = entries.into_iter().chain(sidecars).chain(files(&dir.join("tmp")));
    (attributes + all.map(|path| extents(&path)).sum::<u64>(), count)
}

/// The sum of the sizes on the disk is what the budget says.
#[track_caller]
/// Whether the budget says what is on the disk.
#[allow(dead_code)] // by the storm alone
pub fn agree(cache: &Cache) -> bool {
    let stats = cache.stats();
    let (bytes, entries) = taken(&cache.config().directory);
    stats.used.entries == entries + stats.filling && (stats.filling > 0 || stats.used.bytes == bytes)
}

pub fn assert_budget(cache: &Cache, when: &str) {
    let (used, filling) = (cache.stats().used, cache.stats().filling);
    let (bytes, entries) = taken(&cache.config().directory);
    assert_eq!(used.entries, entries + filling, "budget and disk differ {when}");
    // What is being filled has all its room from the beginning, if its size is known.
    assert!(used.bytes == bytes || filling > 0 && used.bytes > bytes, "{used:?}, on the disk {bytes} {when}");
    // The kernel agrees, but that some file systems keep attributes elsewhere.
    let blocks: u64 = files(&cache.config().directory.join("objects"))
        .iter()
        .filter_map(|path| path.symlink_metadata().ok())
        .map(|meta| meta.blocks() * 512)
        .sum();
    let attributes = 4096 * entries;
    assert!(
        filling > 0 || blocks + attributes >= bytes,
        "the kernel says {blocks}, the budget {bytes} {when}"
    );
}

pub fn read(file: &File) -> Vec<u8> {
    std::fs::read(file.path()).unwrap()
}

/// A small file system of its own, unmounted with this.
pub struct Small(tempfile::TempDir);

impl Small {
    /// Of so many MiB. Only for root.
    pub fn new(mib: u32) -> Self {
        Self::with(&format!("size={mib}m"))
    }

    /// With these options. Only for root.
    pub fn with(options: &str) -> Self {
        let small = Self(place());
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(small.0.path());
        crate::harness::run(&mut mount, crate::harness::LIMIT).must("mount");
        small
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Bytes that are free.
    pub fn free(&self) -> u64 {
        let found = rustix::fs::statvfs(self.path()).unwrap();
        found.f_bavail * found.f_frsize
    }

    /// Somebody else writes until nothing is free.
    pub fn fill(&self) {
        use std::io::Write;
        let mut file = std::fs::File::create(self.path().join("other")).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        assert_eq!(self.free(), 0);
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _gone = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}
