//! [`Stock`]: what the cache has of the objects of tables, at one moment.
use super::stores::Stores;
use crate::cache::{EntryName, Info, ObjectId};
use crate::remote::url_of;
use icecache_iceberg::Location;
use icecache_iceberg::publication::LiveFile;
use std::collections::HashMap;
use std::sync::Arc;

/// See the module. By location; of several versions of an object the one with most bytes.
#[derive(Debug, Default)]
pub(super) struct Stock(HashMap<String, Info>);

impl Stock {
    /// What is there now. Looks at every entry of the cache.
    pub(super) async fn take(stores: &Stores) -> Self {
        let cache = stores.cache().clone();
        let taken = tokio::task::spawn_blocking(move || {
            let mut stock: HashMap<String, Info> = HashMap::new();
            for info in cache.entries() {
                let EntryName::Object(id) = &info.name else { continue };
                let location = format!("{}/{}", url_of(&id.bucket).trim_end_matches('/'), id.key);
                let most = stock.get(&location).is_none_or(|other| other.on_disk < info.on_disk);
                if most {
                    stock.insert(location, info);
                }
            }
            Self(stock)
        });
        taken.await.unwrap_or_default()
    }

    /// What there is of a file.
    pub(super) fn of(&self, location: &Location) -> Option<&Info> {
        self.0.get(location.as_str())
    }

    /// All that there is.
    pub(super) fn all(&self) -> impl Iterator<Item = (Location, &Info)> {
        self.0.iter().filter_map(|(location, info)| Some((location.parse().ok()?, info)))
    }

    /// What the cache calls a file.
    pub(super) fn id(&self, location: &Location) -> Option<Arc<ObjectId>> {
        match &self.of(location)?.name {
            EntryName::Object(id) => Some(id.clone()),
            EntryName::File(_) => None,
        }
    }

    /// How many bytes of these files there are, of how many. `unread`: nobody has read it, but it was brought.
    pub(super) fn share<'a>(
        &self,
        files: impl IntoIterator<Item = &'a LiveFile>,
        unread: impl Fn(&Location) -> bool,
    ) -> Share {
        let mut share = Share::default();
        for file in files {
            share.bytes += file.size;
            if let Some(info) = self.of(&file.location) {
                share.add(info, file.size, !unread(&file.location));
            }
        }
        share
    }
}

/// How much of some files is in the cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Share {
    /// The bytes of the files.
    pub bytes: u64,
    /// Those that are in the cache.
    pub cached: u64,
    /// The blocks of these.
    pub blocks: u64,
    /// Whether anybody has read one of them since it was brought.
    pub read: bool,
}

impl Share {
    /// What there is of one more file, which has `size` bytes.
    pub(super) fn add(&mut self, info: &Info, size: u64, is_read: bool) {
        self.cached += info.on_disk.min(size);
        self.blocks += u64::from(info.blocks.0);
        self.read |= is_read;
    }

    /// What there is of others, too.
    pub(super) fn join(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.cached += other.cached;
        self.blocks += other.blocks;
        self.read |= other.read;
    }

    /// Whether most of it is there, and somebody reads it.
    pub(super) fn is_hot(&self) -> bool {
        self.read && self.cached * 2 >= self.bytes
    }
}
