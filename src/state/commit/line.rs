//! A committer on a *line*: its tree does not have what other writers have in HEAD.
//!
//! The line is the version that the tree was made from, and the layers of ours since. HEAD has these and those of
//! others, until they are merged there; so what others changed is found out by the numbers of versions. What they had
//! changed up to some version is remembered. The layers of later versions are those of others, or listed in the line.
//! A layer that was merged out of both is taken apart into those that it was made of, as far as HEAD holds them, which
//! it does for the versions that are kept, but the newest of each merge; for the rest its rows are compared with our
//! records (`ours`).
use super::foreign::Foreign;
use super::tidy::TABLES_AT_ONCE;
use super::*;
use crate::layer::LayerIndex;
use futures::StreamExt;
use std::collections::HashMap;

/// Into so many layers one is taken apart at most: each is a request.
const ORIGINALS_MAX: u64 = 128;

/// What is known of HEAD while our tree is behind it.
#[derive(Debug, Clone)]
pub(super) struct Line {
    /// HEAD as it was last read or written here.
    pub(super) head: Head,
    /// Its tag.
    pub(super) tag: Tag,
    /// What others did.
    pub(super) since: Since,
}

/// What is known of the changes of others.
#[derive(Debug, Clone)]
pub(super) struct Since {
    /// The version that our tree was made from.
    pub(super) base: VersionId,
    /// The newest version that is ours, or that one.
    pub(super) ours: VersionId,
    /// What others had changed by a version, if that is known.
    pub(super) known: Option<(VersionId, Arc<Foreign>)>,
}

impl Since {
    /// Nobody has changed anything since this version.
    pub(super) fn version(base: VersionId) -> Self {
        Self { base, ours: base, known: None }
    }
}

/// How to take in a layer.
#[derive(Debug, Clone, Copy)]
enum Step<'a> {
    Ours(&'a LayerRef),
    Theirs(&'a LayerRef),
    /// Merged out of both; whether there is nothing beneath it.
    Both(&'a LayerRef, bool),
}

impl<'a> Step<'a> {
    fn layer(self) -> &'a LayerRef {
        match self {
            Self::Ours(layer) | Self::Theirs(layer) | Self::Both(layer, _) => layer,
        }
    }
}

/// The layers of `theirs` that say what was changed since, oldest first.
fn steps<'a>(line: &Head, since: &Since, theirs: &'a Head) -> Vec<Step<'a>> {
    let keys: HashSet<&str> = line.layers.iter().map(|layer| layer.key.as_str()).collect();
    let built_on = is_built_on(line, &keys, since, theirs);
    let from = since.known.as_ref().map_or(since.base, |(version, _)| *version);
    let mut originals: HashMap<VersionId, &LayerRef> = HashMap::new();
    for (base, layer) in theirs.all_layers() {
        if base + 1 == layer.version {
            originals.insert(layer.version, layer);
        }
    }
    let mut steps = Vec::new();
    for (base, layer) in theirs.all_layers().take(theirs.layers.len()) {
        let of_one = |layer: &'a LayerRef| match keys.contains(layer.key.as_str()) {
            true => Step::Ours(layer),
            false => Step::Theirs(layer),
        };
        if !built_on {
            steps.push(Step::Both(layer, base == 0));
        } else if layer.version <= from {
        } else if base + 1 == layer.version || base >= since.ours {
            steps.push(of_one(layer));
        } else {
            let versions = base.max(from) + 1..=layer.version;
            let few = versions.end() - versions.start() < ORIGINALS_MAX;
            let parts = versions.clone().filter(|_| few).filter_map(|version| originals.get(&version));
            let before = steps.len();
            steps.extend(parts.map(|layer| of_one(layer)));
            if (steps.len() - before) as u64 <= versions.end() - versions.start() {
                steps.push(Step::Both(layer, base == 0));
            }
        }
    }
    steps
}

/// Whether `theirs` came of what we know by further versions, and not of a HEAD that was put back or begun anew: then
/// numbers of versions say nothing.
fn is_built_on(line: &Head, keys: &HashSet<&str>, since: &Since, theirs: &Head) -> bool {
    if line.layers.is_empty() {
        return true;
    }
    let listed = theirs.all_layers().map(|(_, layer)| layer.key.as_str());
    let mut listed = listed.chain(theirs.unneeded.iter().map(|layer| layer.key.as_str()));
    !is_other_history(line, since, theirs) && listed.any(|key| keys.contains(key))
}

/// Whether `theirs` is older than what we know, or has another version in the place of our newest one: what it lacks
/// of ours nobody has removed.
pub(super) fn is_other_history(line: &Head, since: &Since, theirs: &Head) -> bool {
    let Some(newest) = line.layers.last() else { return false };
    let is_other = |(base, layer): (VersionId, &LayerRef)| {
        base + 1 == layer.version && layer.version == since.ours && layer.key != newest.key
    };
    theirs.version < since.ours
        || theirs.is_of_another_history(line.history)
        || since.known.as_ref().is_some_and(|(version, _)| theirs.version < *version)
        || theirs.all_layers().any(is_other)
}

impl Committer {
    /// What others changed in `theirs` that the tree of `line` does not have.
    pub(super) async fn foreign(
        &self,
        line: &Head,
        since: &Since,
        theirs: &Head,
    ) -> Result<Foreign, CommitError> {
        let mut foreign =
            since.known.as_ref().map(|(_, foreign)| Foreign::clone(foreign)).unwrap_or_default();
        let steps = steps(line, since, theirs);
        let tables = futures::stream::iter(steps.iter().map(|step| self.table(step.layer())));
        let mut tables = tables.buffered(TABLES_AT_ONCE);
        for step in &steps {
            let Some(tail) = tables.next().await.transpose()? else { break };
            let layer = step.layer();
            if let Step::Both(_, is_all) = *step {
                let (records, layer) = (Arc::clone(&self.records), layer.clone());
                let look =
                    move || ours::compare(&records, &mut foreign, (&tail, &layer), is_all).map(|()| foreign);
                foreign = tokio::task::spawn_blocking(look).await.map_err(|_| CommitError::Stopped)??;
                continue;
            }
            let (_, rows) = LayerIndex::read(&tail, layer.bytes)?;
            for row in rows {
                match step {
                    Step::Ours(_) => foreign.settle(&row?),
                    _ => foreign.add(row?),
                }
            }
        }
        Ok(foreign)
    }

    /// Our layer, made of `plan`, is on top of what others had changed by `since`.
    pub(super) fn remember(&self, mut since: Since, plan: &Plan, skipped: &BTreeMap<RelPath, String>) {
        let mut state = self.state.lock();
        let Some(line) = &mut state.line else { return };
        line.since.known = since.known.take().and_then(|(_, foreign)| {
            let mut foreign = Arc::unwrap_or_clone(foreign);
            foreign.settle_plan(plan, skipped);
            foreign.is_small().then(|| (line.since.ours, Arc::new(foreign)))
        });
    }

    /// HEAD is another writer's, and what we send next must be possible on top of it.
    pub(super) fn heard(&self, head: Head, tag: Tag) {
        let mut state = self.state.lock();
        let since = match state.line.take() {
            Some(line) => line.since,
            None => Since::version(state.version),
        };
        (state.line, state.tag) = (Some(Line { head, tag, since }), Some(Tag(STALE_TAG.into())));
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use crate::state::head::tests::layer;

    fn next(head: &Head, writer: u128) -> Head {
        let key = head::layer_key(Uuid::from_u128(head.version as u128 + 1));
        head.next(Uuid::from_u128(writer), "box", layer(&key))
    }

    fn told(line: &Head, since: &Since, theirs: &Head) -> Vec<String> {
        let tell = |step: &Step<'_>| match step {
            Step::Ours(layer) => format!("ours {}", layer.version),
            Step::Theirs(layer) => format!("theirs {}", layer.version),
            Step::Both(layer, is_all) => format!("both {} {is_all}", layer.version),
        };
        steps(line, since, theirs).iter().map(tell).collect()
    }

    fn merged(head: &Head, versions: std::ops::RangeInclusive<VersionId>, key: u128) -> Head {
        let at = |version| head.layers.iter().position(|layer| layer.version == version).expect("listed");
        let run = at(*versions.start())..at(*versions.end()) + 1;
        let new = LayerRef { version: *versions.end(), ..layer(&head::layer_key(Uuid::from_u128(key))) };
        head.merged(run, new, Tag("t".into()))
    }

    #[test]
    fn layers_are_told_apart_by_version_while_head_holds_them() {
        let base = next(&Head::empty("work", Uuid::nil(), "box"), 1);
        // 2 and 4 are ours, 3, 5 and 6 theirs.
        let mut head = base.clone();
        let mut line = base;
        for version in 2..=6 {
            head = next(&head, 2 - version % 2);
            if version % 2 == 0 && version < 5 {
                line.layers.push(head.layers.last().cloned().expect("a layer"));
            }
        }
        let since = Since { base: 1, ours: 4, known: None };
        assert_eq!(told(&line, &since, &head), ["ours 2", "theirs 3", "ours 4", "theirs 5", "theirs 6"]);
        let known = Since { known: Some((4, Arc::default())), ..since };
        assert_eq!(told(&line, &known, &head), ["theirs 5", "theirs 6"]);

        let head = next(&head, 1);
        let mut short = merged(&head, 1..=6, 100);
        assert_eq!(told(&line, &known, &short), ["theirs 5", "theirs 6", "theirs 7"]);
        short.retain(3..=7, &HashSet::new(), short.time);
        // The merged layer is version 6.
        assert_eq!(told(&line, &known, &short), ["theirs 5", "both 6 true", "theirs 7"]);
        let beneath = merged(&head, 1..=4, 101);
        assert_eq!(told(&line, &known, &beneath), ["theirs 5", "theirs 6", "theirs 7"]);
        let above = merged(&head, 5..=6, 102);
        assert_eq!(told(&line, &known, &above), ["theirs 6", "theirs 7"], "all of it is theirs");

        let mut let_go = short.clone();
        let_go.retain([7], &HashSet::new(), let_go.time);
        assert_eq!(told(&line, &known, &let_go), ["both 6 true", "theirs 7"]);
        let mut let_go = beneath;
        let_go.retain([7], &HashSet::new(), let_go.time);
        assert_eq!(told(&line, &known, &let_go), ["theirs 5", "theirs 6", "theirs 7"]);
        assert_eq!(told(&line, &since, &let_go), ["both 4 true", "theirs 5", "theirs 6", "theirs 7"]);
    }

    #[test]
    fn a_head_that_was_begun_anew_is_compared_whole() {
        let base = next(&Head::empty("work", Uuid::nil(), "box"), 1);
        let since = Since::version(1);
        let mut other = Head::empty("work", Uuid::nil(), "box");
        for key in 200..203 {
            other = other.next(Uuid::nil(), "box", layer(&head::layer_key(Uuid::from_u128(key))));
        }
        assert_eq!(told(&base, &since, &other), ["both 1 true", "both 2 false", "both 3 false"]);
        let empty = Head::empty("work", Uuid::nil(), "box");
        let told = told(&empty, &Since::version(0), &other);
        assert_eq!(told, ["theirs 1", "theirs 2", "theirs 3"], "who has nothing yet");
    }

    #[test]
    fn a_head_that_went_back_or_has_another_version_for_ours_is_another_history() {
        let one = next(&Head::empty("work", Uuid::nil(), "box"), 1);
        let (two, three) = (next(&one, 1), next(&next(&one, 1), 1));
        let is_other =
            |line: &Head, theirs: &Head| is_other_history(line, &Since::version(line.version), theirs);
        assert!(is_other(&three, &one) && is_other(&three, &two));
        assert!(!is_other(&two, &three) && !is_other(&two, &two));
        assert!(!is_other(&Head::empty("work", Uuid::nil(), "box"), &one), "who has nothing yet");
        // It went back, and another writer has gone on from there.
        let mut other = one;
        for key in 300..303 {
            other = other.next(Uuid::nil(), "box", layer(&head::layer_key(Uuid::from_u128(key))));
            assert!(is_other(&three, &other), "{}", other.version);
        }
        // What it had known of others counts as well.
        let known = Since { known: Some((3, Arc::default())), ..Since::version(2) };
        assert!(is_other_history(&two, &known, &two));
    }
}
