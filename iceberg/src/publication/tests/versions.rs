//! One version after the other: what a commit costs, what it changes, and who stops on the way.
use super::lake::{Lake, follow, size};
use crate::publication::{Publication, StepKind};
use crate::{ChangeKind, difference};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

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
        let difference = difference(&pair[0].0, &pair[1].0).await.unwrap();
        changes.push((difference.kind, difference.added.len(), difference.removed.len()));
    }
    let append = (ChangeKind::Append, 1, 0);
    assert_eq!(changes, [append, append, append, (ChangeKind::Rollback, 0, 1)]);
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
    let difference = difference(&old, &new).await.unwrap();
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
                Some(last) if name != "expired" => Some(difference(last, &next).await.unwrap().kind),
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
    assert_eq!(difference(&one, &other).await.unwrap().kind, ChangeKind::Replaced);
}
