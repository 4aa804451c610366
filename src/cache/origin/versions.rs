//! [`Versions`]: which versions of objects a cache has, by their keys.
use crate::cache::{Cache, EntryName, ObjectId};
use std::sync::Arc;

/// See the module. As it was at one moment; of several versions of an object the one that was read last.
#[derive(Debug, Default)]
pub struct Versions(Vec<Version>);

#[derive(Debug)]
struct Version {
    id: Arc<ObjectId>,
    /// When it was read last, and when it came: greater is later.
    used: (u64, u64),
}

impl Version {
    fn name(&self) -> (&str, &str) {
        (&self.id.bucket, &self.id.key)
    }
}

impl Versions {
    /// Those that are there now. Looks at every entry of the cache.
    pub fn of(cache: &Cache) -> Self {
        let objects = cache.entries().into_iter().filter_map(|info| match info.name {
            EntryName::Object(id) => Some(Version { id, used: (info.used, info.created) }),
            EntryName::File(_) => None,
        });
        Self::sorted(objects.collect())
    }

    fn sorted(mut all: Vec<Version>) -> Self {
        // What was read last is newest; those before are gone but for what was still being read.
        all.sort_unstable_by(|a, b| (a.name(), b.used).cmp(&(b.name(), a.used)));
        all.dedup_by(|later, first| later.name() == first.name());
        all.shrink_to_fit();
        Self(all)
    }

    /// Of the objects of a bucket whose keys are this one or lie below it so many that were read last, in this order.
    pub(super) fn newest(&self, bucket: &str, prefix: &str, most: usize) -> Vec<&ObjectId> {
        let begin = self.0.partition_point(|version| version.name() < (bucket, prefix));
        let of_it = self.0[begin..]
            .iter()
            .take_while(|version| version.id.bucket == bucket && version.id.key.starts_with(prefix));
        let is_whole = prefix.is_empty() || prefix.ends_with('/');
        let is_below = |key: &str| is_whole || matches!(key.as_bytes().get(prefix.len()), None | Some(b'/'));
        let mut found: Vec<&Version> = of_it.filter(|version| is_below(&version.id.key)).collect();
        found.sort_unstable_by_key(|version| version.used);
        found.drain(..found.len().saturating_sub(most));
        found.into_iter().map(|version| &*version.id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_has_what_lies_below_it_and_no_more() {
        let version = |bucket: &str, key: &str, tag: &str, used| {
            let id = ObjectId { bucket: bucket.into(), key: key.into(), tag: tag.into(), size: 1 };
            Version { id: Arc::new(id), used: (used, 0) }
        };
        let versions = Versions::sorted(vec![
            version("b", "wh/t1/f", "old", 1),
            version("b", "wh/t10/f", "x", 7),
            version("b", "wh/t1/f", "new", 5),
            version("b", "wh/t1/e", "x", 6),
            version("b", "wh/t1", "x", 2),
            version("b", "wh/t1-", "x", 3),
            version("a", "wh/t1/f", "x", 4),
            version("c", "wh/t1/f", "x", 4),
        ]);
        let of = |bucket, prefix, most| -> Vec<(&str, &str)> {
            let newest = versions.newest(bucket, prefix, most).into_iter();
            newest.map(|id| (id.key.as_str(), id.tag.as_str())).collect()
        };
        assert_eq!(of("b", "wh/t1", 9), [("wh/t1", "x"), ("wh/t1/f", "new"), ("wh/t1/e", "x")]);
        assert_eq!(of("b", "wh/t1/", 9), [("wh/t1/f", "new"), ("wh/t1/e", "x")]);
        assert_eq!(of("b", "", 2), [("wh/t1/e", "x"), ("wh/t10/f", "x")]);
        assert_eq!(of("a", "", 9), [("wh/t1/f", "x")]);
        assert!(of("b", "x", 9).is_empty() && of("d", "", 9).is_empty());
    }
}
