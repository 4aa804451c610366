//! What a sweep leaves.
use super::lake::{Lake, files_below, follow, id};
use crate::mapping::escape_name;
use crate::objects::LocalObjects;
use crate::publication::{Place, Publication, Reach, Retention, Swept};
use crate::table::{Table, Token};
use std::sync::Arc;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_leaves_what_is_needed_and_nothing_else() {
    let lake = Lake::new();
    let mut last = None;
    for version in lake.versions("pos_file") {
        let publication = lake.prepare("pos_file", version, "m").await.unwrap();
        publication.publish().await.unwrap();
        for snapshot in &publication.metadata().snapshots {
            publication.snapshot(snapshot.id).await.unwrap();
        }
        publication.reference("main").await.ok();
        last = Some(publication);
    }
    let table = last.unwrap();
    let folder = &table.place().folder;
    let metadata = folder.join(format!("metadata/v{}.metadata.json", table.number()));
    let met = follow(&lake, table.place(), &metadata, None);
    let reach = Arc::<Reach>::default();
    let all = Retention { versions: usize::MAX, ..Retention::default() };
    let hour = Duration::from_secs(3600);
    for roomy in [Retention { age: Some(hour), ..all }, Retention { bytes: Some(1 << 30), ..all }] {
        assert_eq!(table.sweep(roomy, &reach).await.unwrap(), Swept::default());
    }
    // All snapshots are kept by the table: only older metadata goes, here and in the reference.
    let newest = Retention { versions: 1, ..all };
    assert!(table.may_exceed(newest).await.unwrap() && !table.may_exceed(all).await.unwrap());
    let swept = table.sweep(newest, &reach).await.unwrap();
    assert_eq!(swept.files, 2 * (table.number() - 1) - 1);
    assert_eq!(follow(&lake, table.place(), &metadata, None), met);
    assert_eq!(table.sweep(newest, &reach).await.unwrap(), Swept::default());
    assert!(!table.may_exceed(newest).await.unwrap());
    assert_eq!(table.publish().await.unwrap(), []);
    // One byte is had by the newest alone, and every older one was the current one at some time before now.
    for narrow in [Retention { bytes: Some(1), ..all }, Retention { age: Some(Duration::ZERO), ..all }] {
        table.reference("main").await.ok();
        let old = folder.join("metadata/v1.metadata.json");
        std::fs::write(&old, std::fs::read(&metadata).unwrap()).unwrap();
        assert!(table.sweep(narrow, &reach).await.unwrap().files > 0 && !old.exists(), "{narrow:?}");
        assert_eq!(follow(&lake, table.place(), &metadata, None), met);
    }

    // Another table in its place needs nothing of it.
    let other = Place { path: table.place().path.clone(), ..table.place().clone() };
    let token = Token(String::new());
    let empty = Table {
        id: id("empty"),
        metadata_location: lake.location("empty"),
        metadata: None,
        token,
        credentials: Vec::new(),
    };
    let empty =
        Publication::prepare(Arc::new(LocalObjects::with_buckets(lake.raw())), other, &empty).await.unwrap();
    empty.publish().await.unwrap();
    // Two branches whose names are longer than that of a folder, and begin alike.
    for end in ["a", "b"] {
        let branch = folder.join("refs").join(escape_name(&format!("{}{end}", "x".repeat(600))));
        std::fs::create_dir_all(branch.join("metadata")).unwrap();
        std::fs::write(branch.join("metadata/version-hint.text"), "1").unwrap();
    }
    empty.sweep(newest, &reach).await.unwrap();
    assert!(!folder.join("refs").exists());
    let mut left: Vec<_> = files_below(folder)
        .iter()
        .map(|path| path.strip_prefix(folder).unwrap().display().to_string())
        .collect();
    left.sort();
    assert_eq!(
        left,
        [format!("metadata/v{}.metadata.json", empty.number()), "metadata/version-hint.text".to_owned()]
    );
}

/// The one that is shown stays, also while newer ones are there that could not be shown, and what a sweep has seen of it
/// is not read again.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_shown_stays_although_it_is_not_the_newest() {
    let lake = Lake::new();
    let versions = lake.versions("rolled");
    let mut published = Vec::new();
    for version in &versions[..4] {
        let publication = lake.prepare("rolled", version.clone(), "m").await.unwrap();
        publication.write().await.unwrap();
        published.push(publication);
    }
    let shown = &published[2];
    shown.flip().await.unwrap();
    let metadata = |n: usize| {
        let name = format!("metadata/v{}.metadata.json", published[n].number());
        shown.place().folder.join(name)
    };
    let (one, reach) = (Retention { versions: 1, ..Retention::default() }, Arc::<Reach>::default());
    shown.sweep(one, &reach).await.unwrap();
    let there: Vec<bool> = (0..4).map(|n| metadata(n).exists()).collect();
    assert_eq!(there, [false, false, true, true]);
    let met = follow(&lake, shown.place(), &metadata(2), shown.metadata().current_snapshot);
    assert!(met > 0);
    // What it leads to is known.
    let bytes = std::fs::read(metadata(2)).unwrap();
    std::fs::write(metadata(2), "no metadata").unwrap();
    assert_eq!(shown.sweep(one, &reach).await.unwrap(), Swept::default());
    assert!(shown.sweep(one, &Arc::default()).await.is_err());
    std::fs::write(metadata(2), bytes).unwrap();
}

/// A branch that has not moved is left alone, and stays although the versions of its time have gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_reference_that_has_not_moved_stays() {
    let lake = Lake::new();
    let versions = lake.versions("refs");
    let [.., old, new] = &versions[..] else { panic!("the table has versions") };
    let old = lake.prepare("refs", old.clone(), "m").await.unwrap();
    old.publish().await.unwrap();
    old.reference("first").await.unwrap();
    let new = lake.prepare("refs", new.clone(), "m").await.unwrap();
    new.publish().await.unwrap();
    assert!(new.has_still(&old, "first") && !new.has_still(&old, "main") && !new.has_still(&old, "none"));
    let one = Retention { versions: 1, ..Retention::default() };
    new.sweep(one, &Arc::default()).await.unwrap();
    let metadata = new.place().folder.join(format!("refs/first/metadata/v{}.metadata.json", old.number()));
    assert!(metadata.exists());
    let snapshot = new.metadata().refs["first"].snapshot;
    assert!(follow(&lake, new.place(), &metadata, Some(snapshot)) > 0);
}
