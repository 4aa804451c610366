//! One version after the other: what a commit costs, what it changes, and who stops on the way.
use super::lake::{Lake, follow, id, size};
use crate::manifest::read_list;
use crate::objects::{Listing, LocalObjects, ObjectInfo};
use crate::publication::{Publication, StepKind};
use crate::table::{Table, Token};
use crate::{ChangeKind, Location, ObjectError, Objects, write_next};
use bytes::Bytes;
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use tokio::sync::Barrier;

#[tokio::test(flavor = "multi_thread")]
async fn whoever_stops_anywhere_leaves_the_old_version_or_the_new_one() {
    let lake = Lake::new();
    for name in ["pos_file", "orc_pos_file", "dv", "expired", "outside"] {
        let versions = lake.versions(name);
        assert!(versions.len() >= 2, "{name}");
        let (old, new) = (versions[versions.len() - 2].clone(), versions[versions.len() - 1].clone());
        for stop in 1.. {
            let mount = format!("{name}-{stop}");
            let before = lake.prepare(name, old.clone(), &mount).await.unwrap();
            before.publish().await.unwrap();
            let after = lake.prepare(name, new.clone(), &mount).await.unwrap();
            assert!(after.number() > before.number());
            let mut left = stop;
            let steps = after
                .publish_while(|_| {
                    left -= 1;
                    if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                })
                .await
                .unwrap();
            // What a reader finds by the hint, and what one finds who looks for the version after it.
            let place = after.place();
            let hint: u64 = std::fs::read_to_string(place.folder.join("metadata/version-hint.text"))
                .unwrap()
                .parse()
                .unwrap();
            let done = steps.last().unwrap().kind == StepKind::Hint;
            assert_eq!(
                hint,
                if done { after.number() } else { before.number() },
                "{name} stopped after {stop}"
            );
            for number in [hint, hint + 1] {
                let metadata = place.folder.join(format!("metadata/v{number}.metadata.json"));
                if metadata.exists() {
                    let of = if number == before.number() { &before } else { &after };
                    assert!(follow(&lake, place, &metadata, of.metadata().current_snapshot) > 0);
                }
            }
            // A restart goes on.
            let again = lake.prepare(name, new.clone(), &mount).await.unwrap();
            assert_eq!(again.number(), after.number());
            again.publish().await.unwrap();
            let hint = std::fs::read_to_string(place.folder.join("metadata/version-hint.text")).unwrap();
            assert_eq!(hint, after.number().to_string());
            if done {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_costs_what_it_changed() {
    let lake = Lake::new();
    let versions = lake.versions("rolled");
    let mut published = Vec::new();
    for version in versions {
        let publication = lake.prepare("rolled", version, "m").await.unwrap();
        let steps = publication.publish().await.unwrap();
        published.push((publication, steps));
    }
    // An empty table, three commits, and a way back: nothing but metadata and hint.
    let kinds: Vec<Vec<StepKind>> =
        published.iter().map(|(_, steps)| steps.iter().map(|s| s.kind).collect()).collect();
    let commit = [StepKind::Manifest, StepKind::ManifestList, StepKind::Metadata, StepKind::Hint];
    assert_eq!(kinds[0], commit[2..]);
    assert!(kinds[1..4].iter().all(|kinds| kinds == &commit), "{kinds:?}");
    assert_eq!(kinds[4], commit[2..]);
    let mut changes = Vec::new();
    for pair in published.windows(2) {
        let difference = write_next(&pair[0].0, &pair[1].0).await.unwrap();
        changes.push((difference.kind, difference.added.len(), difference.removed.len()));
    }
    let append = (ChangeKind::Append, 1, 0);
    assert_eq!(changes, [append, append, append, (ChangeKind::Rollback, 0, 1)]);
}

/// A catalog that goes back to metadata of before, which does not know what was the current snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn metadata_of_before_is_a_way_back() {
    let lake = Lake::new();
    let versions = lake.versions("rolled");
    let old = lake.prepare("rolled", versions[3].clone(), "m").await.unwrap();
    old.publish().await.unwrap();
    let new = lake.prepare("rolled", versions[2].clone(), "m").await.unwrap();
    let difference = write_next(&old, &new).await.unwrap();
    assert_eq!((difference.kind, difference.removed.len()), (ChangeKind::Rollback, 1));
    assert!(new.number() > old.number());
}

/// What was shown is found again although a newer version was written, which never was.
#[tokio::test(flavor = "multi_thread")]
async fn the_version_that_is_shown_is_resumed() {
    let lake = Lake::new();
    let versions = lake.versions("rolled");
    let old = lake.prepare("rolled", versions[2].clone(), "m").await.unwrap();
    old.publish().await.unwrap();
    let new = lake.prepare("rolled", versions[3].clone(), "m").await.unwrap();
    new.write().await.unwrap();
    let resume = async |n: usize| {
        let (objects, metadata_location) =
            (Arc::new(LocalObjects::with_buckets(lake.raw())), versions[n].clone());
        let token = Token(String::new());
        let table =
            Table { id: id("rolled"), metadata_location, metadata: None, token, credentials: Vec::new() };
        let resumed = Publication::resume(objects, lake.place("rolled", "m"), &table).await.unwrap();
        resumed.map(|publication| publication.number())
    };
    assert_eq!(resume(1).await, None);
    assert_eq!(resume(2).await, Some(old.number()));
    assert_eq!(resume(3).await, Some(new.number()));
}

/// The manifests that a commit left alone are not looked into, neither to publish it nor to tell what it changed.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_commit_left_alone_is_not_read() {
    let lake = Lake::new();
    let versions = lake.versions("rolled");
    let old = lake.prepare("rolled", versions[2].clone(), "m").await.unwrap();
    old.publish().await.unwrap();
    let snapshot = old.metadata().current_snapshot.unwrap();
    for manifest in old.manifests(snapshot).await.unwrap() {
        let path = old.place().folder.join(manifest);
        let zeros = vec![0; size(&path) as usize];
        std::fs::write(&path, zeros).unwrap();
    }
    assert!(old.files(snapshot).await.is_err());
    let new = lake.prepare("rolled", versions[3].clone(), "m").await.unwrap();
    new.publish().await.unwrap();
    let difference = write_next(&old, &new).await.unwrap();
    assert_eq!((difference.added.len(), difference.removed.len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_have_their_kinds() {
    let lake = Lake::new();
    let mut kinds: BTreeMap<&str, Vec<ChangeKind>> = BTreeMap::new();
    for name in ["expired", "refs", "v1"] {
        let mut last: Option<Publication> = None;
        for version in lake.versions(name) {
            let next = lake.prepare(name, version, "m").await.unwrap();
            // Snapshots that were expired since have no files any more: only the last two can be compared.
            let kind = match &last {
                Some(last) if name != "expired" => Some(write_next(last, &next).await.unwrap().kind),
                _ => None,
            };
            kinds.entry(name).or_default().extend(kind);
            last = Some(next);
        }
    }
    use ChangeKind::{Append, Overwrite, References, Schema};
    assert_eq!(kinds["v1"], [Append, Append, Overwrite]);
    assert_eq!(kinds["refs"], [Append, References, References, Schema, References, Append]);
    // A table that was dropped and made again is another one.
    let one = lake.prepare("recreated", lake.location("recreated"), "m").await.unwrap();
    let other = lake.prepare("rolled", lake.location("rolled"), "m").await.unwrap();
    assert_eq!(write_next(&one, &other).await.unwrap().kind, ChangeKind::Replaced);
}

/// What is read in order to rewrite it tells the same of a commit as what is read back.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_commit_changed_is_told_whether_it_is_there_or_not() {
    let lake = Lake::new();
    let mut met = 0;
    for name in ["pos_file", "orc_pos_file", "dv", "expired", "outside", "odd", "v1", "rolled"] {
        let versions = lake.versions(name);
        let [.., old, new] = &versions[..] else { continue };
        let mut told = Vec::new();
        for mount in ["here", "there"] {
            let before = lake.prepare(name, old.clone(), mount).await.unwrap();
            before.publish().await.unwrap();
            let after = lake.prepare(name, new.clone(), mount).await.unwrap();
            if mount == "there" {
                after.publish().await.unwrap();
            }
            let difference = write_next(&before, &after).await.unwrap();
            assert_eq!(
                after.publish().await.unwrap().len(),
                usize::from(mount == "here"),
                "{name}: the hint"
            );
            let place = after.place();
            let metadata = place.folder.join(format!("metadata/v{}.metadata.json", after.number()));
            follow(&lake, place, &metadata, after.metadata().current_snapshot);
            let mut files = [difference.added, difference.removed];
            files.iter_mut().for_each(|files| files.sort_by(|one, other| one.location.cmp(&other.location)));
            told.push((difference.kind, files));
        }
        assert_eq!(told[0], told[1], "{name}");
        met += told[0].1.iter().map(Vec::len).sum::<usize>();
    }
    assert!(met > 5, "{met} files");
}

/// The objects of a lake. Whoever asks for one of these waits until all of them are asked for.
#[derive(Debug)]
struct AllAtOnce {
    objects: LocalObjects,
    of: HashSet<Location>,
    asked: Barrier,
}

#[async_trait::async_trait]
impl Objects for AllAtOnce {
    async fn get(&self, location: &Location, limit: u64) -> Result<Bytes, ObjectError> {
        if self.of.contains(location) {
            self.asked.wait().await;
        }
        self.objects.get(location, limit).await
    }

    async fn get_range(&self, location: &Location, range: Range<u64>) -> Result<Bytes, ObjectError> {
        self.objects.get_range(location, range).await
    }

    async fn head(&self, location: &Location) -> Result<ObjectInfo, ObjectError> {
        self.objects.head(location).await
    }

    async fn list(
        &self,
        prefix: &Location,
        by_folder: bool,
        after: Option<&str>,
    ) -> Result<Listing, ObjectError> {
        self.objects.list(prefix, by_folder, after).await
    }
}

/// However many manifests stand between them that it left alone.
#[tokio::test(flavor = "multi_thread")]
async fn all_manifests_that_a_commit_changed_are_asked_for_at_once() {
    let lake = Lake::new();
    let file = |location: &Location| lake.raw().join("s3").join(location.authority()).join(location.key());
    let from = lake.location("v1");
    let mut json: Value = serde_json::from_slice(&std::fs::read(file(&from)).unwrap()).unwrap();
    let snapshot = json["snapshots"].as_array_mut().unwrap().pop().unwrap();
    let list: Location = snapshot["manifest-list"].as_str().unwrap().parse().unwrap();
    let listed = read_list(&std::fs::read(file(&list)).unwrap(), "list").unwrap();
    let manifest = file(&listed[0].path.parse().unwrap());
    let mut version = |number: u64, manifests: &[Location]| {
        let mut snapshot = snapshot.clone();
        snapshot.as_object_mut().unwrap().remove("manifest-list");
        snapshot["manifests"] = manifests.iter().map(Location::as_str).collect();
        json["snapshots"] = vec![snapshot].into();
        let to: Location = format!("s3://lake/wh/db/v1/metadata/v{number}.metadata.json").parse().unwrap();
        std::fs::write(file(&to), serde_json::to_vec(&json).unwrap()).unwrap();
        to
    };
    let copy = |n: usize| {
        let to: Location = format!("s3://lake/wh/db/v1/metadata/copy-{n}.avro").parse().unwrap();
        std::fs::copy(&manifest, file(&to)).unwrap();
        to
    };
    let all: Vec<Location> = (0..100).map(copy).collect();
    let (new, kept): (Vec<_>, Vec<_>) =
        all.iter().cloned().enumerate().partition(|(n, _)| [0, 40, 41, 99].contains(n));
    let of: HashSet<Location> = new.into_iter().map(|(_, location)| location).collect();
    let kept: Vec<Location> = kept.into_iter().map(|(_, location)| location).collect();
    let old = lake.prepare("v1", version(90, &kept), "m").await.unwrap();
    old.publish().await.unwrap();
    let asked = Barrier::new(of.len());
    let objects = AllAtOnce { objects: LocalObjects::with_buckets(lake.raw()), of, asked };
    let new = lake.prepare_with(Arc::new(objects), "v1", version(91, &all), "m").await.unwrap();
    let steps = new.publish().await.unwrap();
    assert_eq!(steps.iter().filter(|step| step.kind == StepKind::Manifest).count(), 4);
}

/// Only the hint is not synced: a loss of power may leave the one of before, or one that says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_hint_that_was_lost_is_written_anew() {
    let lake = Lake::new();
    let table = lake.prepare("refs", lake.location("refs"), "m").await.unwrap();
    table.publish().await.unwrap();
    let snapshot = table.metadata().current_snapshot.unwrap();
    for lost in ["", "1"] {
        let views = ["", &table.snapshot(snapshot).await.unwrap(), &table.reference("main").await.unwrap()];
        let hints = views.map(|view| table.place().folder.join(view).join("metadata/version-hint.text"));
        let all = || hints.each_ref().map(|hint| std::fs::read_to_string(hint).unwrap());
        let said = all();
        hints.iter().for_each(|hint| std::fs::write(hint, lost).unwrap());
        let again = lake.prepare("refs", lake.location("refs"), "m").await.unwrap();
        again.publish().await.unwrap();
        again.snapshot(snapshot).await.unwrap();
        again.reference("main").await.unwrap();
        assert_eq!(all(), said);
    }
}
