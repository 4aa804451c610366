//! What a sweep leaves.
use super::lake::{Lake, files_below, follow, id};
use crate::mapping::escape_name;
use crate::objects::LocalObjects;
use crate::publication::{Place, Publication, Retention, Swept};
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
    let all = Retention { versions: usize::MAX, ..Retention::default() };
    let hour = Duration::from_secs(3600);
    for roomy in [Retention { age: Some(hour), ..all }, Retention { bytes: Some(1 << 30), ..all }] {
        assert_eq!(table.sweep(roomy).await.unwrap(), Swept::default());
    }
    // All snapshots are kept by the table: only older metadata goes, here and in the reference.
    let newest = Retention { versions: 1, ..all };
    let swept = table.sweep(newest).await.unwrap();
    assert_eq!(swept.files, 2 * (table.number() - 1) - 1);
    assert_eq!(follow(&lake, table.place(), &metadata, None), met);
    assert_eq!(table.sweep(newest).await.unwrap(), Swept::default());
    assert_eq!(table.publish().await.unwrap(), []);
    // One byte is had by the newest alone, and every older one was the current one at some time before now.
    for narrow in [Retention { bytes: Some(1), ..all }, Retention { age: Some(Duration::ZERO), ..all }] {
        table.reference("main").await.ok();
        let old = folder.join("metadata/v1.metadata.json");
        std::fs::write(&old, std::fs::read(&metadata).unwrap()).unwrap();
        assert!(table.sweep(narrow).await.unwrap().files > 0 && !old.exists(), "{narrow:?}");
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
    empty.sweep(newest).await.unwrap();
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
