//! The layers of versions: which make up which, and what is still needed.
//!
//! The layers of the newest version stand in order. A layer builds on the version of the one before it.
//! When layers are merged, those that an earlier version needs, or a reference, are *held*: they say
//! themselves what they build on, so that the chain of any kept version can be followed down to nothing.
use super::{Head, HeadError, KEY_BYTES_MAX, LAYERS_MAX, LayerRef, UNNEEDED_MAX, Unneeded, VersionId};
use crate::remote::Tag;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;

impl Head {
    /// Every layer it lists, with the version it builds on; those of the newest version first.
    pub fn all_layers(&self) -> impl Iterator<Item = (VersionId, &LayerRef)> {
        let below = std::iter::once(0).chain(self.layers.iter().map(|layer| layer.version));
        let held = self.held.iter().map(|layer| (layer.base.unwrap_or(0), layer));
        below.zip(&self.layers).chain(held)
    }

    /// The layer of this key.
    pub fn layer(&self, key: &str) -> Option<&LayerRef> {
        self.layers.iter().chain(&self.held).rev().find(|layer| layer.key == key)
    }

    /// The layers of a version, oldest first; `None` if it does not exist, was merged into a later one, or
    /// is no longer kept: some of its layers may still be held for what others refer to.
    pub fn chain(&self, version: VersionId) -> Option<Vec<&LayerRef>> {
        if let Some(last) = self.layers.iter().position(|layer| layer.version == version) {
            return Some(self.layers.iter().take(last + 1).collect());
        }
        let (by_version, keys) = (self.by_version(), self.keys());
        let (mut chain, mut at) = (Vec::new(), version);
        while at > 0 {
            let (base, layer) = by_version.get(&at).filter(|(_, layer)| is_lent_all(layer, &keys))?;
            chain.push(*layer);
            at = *base;
        }
        chain.reverse();
        (!chain.is_empty()).then_some(chain)
    }

    fn keys(&self) -> HashSet<&str> {
        self.all_layers().map(|(_, layer)| layer.key.as_str()).collect()
    }

    /// By version the layer that completes it; of several the one that holds most.
    fn by_version(&self) -> BTreeMap<VersionId, (VersionId, &LayerRef)> {
        let mut by_version: BTreeMap<VersionId, (VersionId, &LayerRef)> = BTreeMap::new();
        for (base, layer) in self.all_layers() {
            let known = by_version.entry(layer.version).or_insert((base, layer));
            if base < known.0 {
                *known = (base, layer);
            }
        }
        by_version
    }

    /// This name as it was at an earlier version. `None` as for [`chain`](Self::chain).
    #[must_use]
    pub fn at(&self, version: VersionId) -> Option<Self> {
        if version == self.version {
            return Some(self.clone());
        }
        let chain = self.chain(version)?;
        let keys: HashSet<&str> = chain.iter().map(|layer| layer.key.as_str()).collect();
        // Nothing refers to what came later.
        let is_rest = |layer: &LayerRef| layer.version <= version && !keys.contains(layer.key.as_str());
        let rest = self.all_layers().filter(|(_, layer)| is_rest(layer));
        let mut earlier = self.clone();
        earlier.held = rest.map(|(base, layer)| LayerRef { base: Some(base), ..layer.clone() }).collect();
        earlier.layers = chain.into_iter().map(|layer| LayerRef { base: None, ..layer.clone() }).collect();
        let last = earlier.layers.last()?;
        (earlier.version, earlier.time, earlier.writer) = (last.version, last.time, last.writer);
        earlier.parent = earlier.layers.iter().rev().nth(1).map_or(0, |layer| layer.version);
        earlier.tags.retain(|_, tagged| *tagged <= version);
        earlier.formerly.clear();
        Some(earlier)
    }

    /// The versions that can be had, newest first: of each the layer that completes it, and how many layers
    /// it has.
    pub fn versions(&self) -> Vec<(&LayerRef, usize)> {
        // What one flush added says more than what several did together.
        let mut lines: BTreeMap<VersionId, (VersionId, &LayerRef)> = BTreeMap::new();
        for (base, layer) in self.all_layers() {
            let line = lines.entry(layer.version).or_insert((base, layer));
            if base > line.0 {
                *line = (base, layer);
            }
        }
        // A version can be had if the one it builds on can, and what its layer refers to.
        let mut lengths: HashMap<VersionId, usize> = HashMap::new();
        let keys = self.keys();
        for (version, (base, layer)) in self.by_version() {
            match base {
                _ if !is_lent_all(layer, &keys) => {}
                0 => drop(lengths.insert(version, 1)),
                base => drop(lengths.get(&base).map(|n| n + 1).map(|n| lengths.insert(version, n))),
            }
        }
        lengths.extend(self.layers.iter().enumerate().map(|(n, layer)| (layer.version, n + 1)));
        let there = lines.into_values().rev();
        there.filter_map(|(_, layer)| Some((layer, *lengths.get(&layer.version)?))).collect()
    }

    /// The keys of the layers that these versions need, and those they refer to.
    pub fn needed(&self, versions: impl IntoIterator<Item = VersionId>) -> BTreeSet<String> {
        let (by_version, mut needed) = (self.by_version(), BTreeSet::new());
        let mut need = |layer: &LayerRef| {
            needed.extend(layer.refers.iter().cloned());
            needed.insert(layer.key.clone());
        };
        // Chains have most of their layers in common: each is followed down to where another was.
        let (mut newest, mut followed) = (0, HashSet::from([0]));
        for version in versions {
            if let Ok(last) = self.layers.binary_search_by_key(&version, |layer| layer.version) {
                newest = newest.max(last + 1);
                continue;
            }
            let (mut chain, mut at) = (Vec::new(), version);
            while !followed.contains(&at)
                && let Some((base, layer)) = by_version.get(&at)
            {
                chain.push(*layer);
                at = *base;
            }
            if followed.contains(&at) {
                followed.extend(chain.iter().map(|layer| layer.version));
                chain.into_iter().for_each(&mut need);
            }
        }
        self.layers.iter().take(newest).for_each(need);
        needed
    }

    /// The same version with layers `run` merged into one, in a document that replaces the one which the
    /// store calls `stored`. What was merged is held.
    #[must_use]
    pub fn merged(&self, run: Range<usize>, layer: LayerRef, stored: Tag) -> Self {
        let mut next = self.clone();
        let mut base = run.start.checked_sub(1).and_then(|n| self.layers.get(n)).map_or(0, |l| l.version);
        for replaced in next.layers.splice(run, [layer]) {
            let version = replaced.version;
            next.held.push(LayerRef { base: Some(base), ..replaced });
            base = version;
        }
        next.was_stored(stored);
        next
    }

    /// Holds on to what these versions need, this one, and `also` by their keys; the rest of what is held
    /// is unneeded from `now` on. Says how many those are. Where so many are never deleted that they exceed
    /// [`UNNEEDED_MAX`] the oldest are listed no longer; none are where nothing is deleted at all.
    pub fn retain(
        &mut self,
        versions: impl IntoIterator<Item = VersionId>,
        also: &HashSet<String>,
        now: jiff::Timestamp,
    ) -> usize {
        let mut needed = self.needed(versions);
        needed.extend(self.needed([self.version]));
        let read = self.all_layers().filter(|(_, layer)| also.contains(&layer.key));
        needed.extend(read.flat_map(|(_, layer)| layer.refers.iter().cloned()));
        let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|layer| needed.contains(&layer.key) || also.contains(&layer.key));
        self.held = kept;
        let count = gone.len();
        if self.log {
            // Nobody deletes them, so nobody needs a list that only grows.
            self.unneeded.clear();
            return count;
        }
        self.unneeded.extend(gone.into_iter().map(|layer| Unneeded {
            key: layer.key,
            bytes: layer.bytes,
            since: now,
            extra: serde_json::Map::new(),
        }));
        let excess = self.unneeded.len().saturating_sub(UNNEEDED_MAX);
        self.unneeded.drain(..excess);
        count
    }

    /// The same version without the unneeded layers `gone`, whose objects are no longer there, in a document
    /// that replaces the one which the store calls `stored`.
    #[must_use]
    pub fn pruned(&self, gone: &HashSet<String>, stored: Tag) -> Self {
        let mut next = self.clone();
        next.unneeded.retain(|unneeded| !gone.contains(&unneeded.key));
        next.was_stored(stored);
        next
    }

    /// Whether the layer of a next version may refer to these layers.
    pub fn lends(&self, keys: &[String]) -> bool {
        keys.iter().all(|key| self.layer(key).is_some())
    }

    /// The versions that are kept: of the newest `most` the newest `count` and those not older than `since`; and tagged
    /// ones.
    pub fn kept(&self, (count, most): (usize, usize), since: Option<jiff::Timestamp>) -> BTreeSet<VersionId> {
        let young = |time: jiff::Timestamp| since.is_some_and(|since| time >= since);
        let versions = self.versions();
        let kept = versions.iter().take(most).enumerate();
        let kept = kept.filter(|(n, (layer, _))| *n < count || young(layer.time));
        kept.map(|(_, (layer, _))| layer.version).chain(self.tags.values().copied()).collect()
    }

    pub(super) fn check_layers(&self) -> Result<(), HeadError> {
        let invalid = |text: String| Err(HeadError::Invalid(text));
        let count = self.layers.len().saturating_add(self.held.len());
        if self.layers.is_empty() || count > LAYERS_MAX {
            return invalid(format!("{count} layers"));
        }
        let mut last = 0;
        for layer in &self.layers {
            if layer.version <= last || layer.version > self.version {
                return invalid(format!("layer of version {} after {last}", layer.version));
            }
            last = layer.version;
        }
        for held in &self.held {
            if held.version > self.version || held.base.is_none_or(|base| base >= held.version) {
                return invalid(format!("held layer of version {} on {:?}", held.version, held.base));
            }
        }
        let mut keys = HashSet::new();
        for layer in self.layers.iter().chain(&self.held) {
            if !is_key(&layer.key) {
                return invalid(format!("layer key {:?}", layer.key));
            }
            if !keys.insert(layer.key.as_str()) {
                return invalid(format!("layer listed twice: {:?}", layer.key));
            }
            if i64::try_from(layer.bytes).is_err() || i64::try_from(layer.raw_bytes).is_err() {
                return invalid(format!("length of layer {:?}", layer.key));
            }
            if layer.table.as_ref().is_some_and(|table| table.bytes == 0 || table.bytes > layer.bytes) {
                return invalid(format!("length of the table of layer {:?}", layer.key));
            }
            layer.check_inline()?;
        }
        for unneeded in &self.unneeded {
            if !is_key(&unneeded.key) || keys.contains(unneeded.key.as_str()) {
                return invalid(format!("unneeded layer {:?}", unneeded.key));
            }
        }
        if self.unneeded.len() > LAYERS_MAX {
            return invalid(format!("{} unneeded layers", self.unneeded.len()));
        }
        let missing =
            self.layers.iter().flat_map(|layer| &layer.refers).find(|key| !keys.contains(key.as_str()));
        match missing {
            Some(key) => invalid(format!("a layer refers to one that is not listed: {key:?}")),
            None => Ok(()),
        }
    }
}

/// Whether all layers are listed that this one refers to. Those of one that is held only because others refer to it may not
/// be.
fn is_lent_all(layer: &LayerRef, listed: &HashSet<&str>) -> bool {
    layer.refers.iter().all(|key| listed.contains(key.as_str()))
}

fn is_key(key: &str) -> bool {
    !key.is_empty()
        && key.len() <= KEY_BYTES_MAX
        && !key.chars().any(char::is_control)
        && key.split('/').all(|part| !matches!(part, "" | "." | ".."))
}
