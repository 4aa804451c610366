//! Files of deletes: what they become, and what manifests tell of them then.
use super::lake::{Lake, files_below, local};
use crate::avro::Container;
use crate::location::Location;
use crate::manifest::{Status, read_list, read_manifest};
use crate::metadata::Manifests;
use crate::objects::{Listing, LocalObjects, ObjectError, ObjectInfo, Objects};
use crate::publication::StepKind;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A table of which some deletes cannot be read is refused, and says why; nothing of the version is there to be opened.
#[tokio::test(flavor = "multi_thread")]
async fn deletes_that_cannot_be_read_refuse_the_table() {
    let lake = Lake::new();
    let data = lake.raw().join("s3/lake/wh/db/orc_deletes/data");
    let deletes = |path: &PathBuf| path.to_str().unwrap().ends_with("-deletes.orc");
    let file = files_below(&data).into_iter().find(deletes).unwrap();
    let good = std::fs::read(&file).unwrap();
    // The number of its codec is LZO's now: it stands in the last bytes, as `10 01 18` with the size of a chunk.
    let mut lzo = good.clone();
    let at = lzo.windows(3).rposition(|window| window == [0x10, 1, 0x18]).unwrap();
    lzo[at + 1] = 3;
    for (bytes, why) in [
        (&lzo[..], "LZO"),
        (&b"ORC"[..], "is not an ORC file"),
        (&good[..good.len() - 1], "is not an ORC file"),
    ] {
        std::fs::write(&file, bytes).unwrap();
        let publication = lake.prepare("orc_deletes", lake.location("orc_deletes"), "m").await.unwrap();
        let error = publication.publish().await.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert!(!publication.place().folder.join("metadata/version-hint.text").exists());
    }
    std::fs::write(&file, good).unwrap();
    let publication = lake.prepare("orc_deletes", lake.location("orc_deletes"), "m").await.unwrap();
    publication.publish().await.unwrap();
}

/// Objects whose files of deletes are given to two who ask at one time, and to nobody alone.
#[derive(Debug)]
struct Paired(LocalObjects, tokio::sync::Barrier);

#[async_trait::async_trait]
impl Objects for Paired {
    async fn get(&self, location: &Location, limit: u64) -> Result<Bytes, ObjectError> {
        if location.name().contains("-deletes.") {
            self.1.wait().await;
        }
        self.0.get(location, limit).await
    }
    async fn get_range(&self, location: &Location, range: Range<u64>) -> Result<Bytes, ObjectError> {
        self.0.get_range(location, range).await
    }
    async fn head(&self, location: &Location) -> Result<ObjectInfo, ObjectError> {
        self.0.head(location).await
    }
    async fn list(
        &self,
        at: &Location,
        by_folder: bool,
        after: Option<&str>,
    ) -> Result<Listing, ObjectError> {
        self.0.list(at, by_folder, after).await
    }
}

/// One manifest of this table lists two files of deletes.
#[tokio::test(flavor = "multi_thread")]
async fn deletes_of_one_manifest_are_fetched_at_once() {
    let lake = Lake::new();
    let objects = Arc::new(Paired(LocalObjects::with_buckets(lake.raw()), tokio::sync::Barrier::new(2)));
    let publication = lake.prepare_with(objects, "avro", lake.location("avro"), "m").await.unwrap();
    let published = tokio::time::timeout(Duration::from_secs(30), publication.publish()).await;
    let steps = published.unwrap().unwrap();
    assert_eq!(steps.iter().filter(|step| step.kind == StepKind::Deletes).count(), 2);
}

/// What a manifest tells of the columns of its first file: by the field of the entry, by the id of the column.
fn metrics(manifest: &[u8]) -> BTreeMap<i32, BTreeMap<i64, Vec<u8>>> {
    use crate::avro::{elements, long, walk};
    let file = Container::parse(manifest).unwrap();
    let mut found = BTreeMap::new();
    file.records(|content, at| {
        let mut data = None;
        let end = walk(&file.schema, file.schema.root(), content, at, |field, item| {
            data = data.take().or(Some(item).filter(|_| field.id == Some(2)));
            Ok(())
        })?;
        let data = data.unwrap();
        walk(&file.schema, data.node, content, data.range.start, |field, map| {
            let id = field.id.unwrap();
            if [108, 109, 110, 125, 128, 137].contains(&id)
                && !map.is_null(&file.schema)
                && !found.contains_key(&id)
            {
                let mut values = BTreeMap::new();
                elements(&file.schema, &map, content, |element| {
                    let (mut key, mut value) = (0, Vec::new());
                    walk(&file.schema, element.node, content, element.range.start, |field, item| {
                        if field.name == "key" {
                            key = long(&file.schema, &item, content)?;
                        } else {
                            value = match long(&file.schema, &item, content) {
                                Ok(number) => number.to_le_bytes().to_vec(),
                                Err(_) => content[item.range].to_vec(),
                            };
                        }
                        Ok(())
                    })?;
                    values.insert(key, value);
                    Ok(())
                })?;
                found.insert(id, values);
            }
            Ok(())
        })?;
        Ok(end)
    })
    .unwrap();
    found
}

/// Deletes in ORC are published in Parquet: the same rows, and what manifests tell of the file is of the new one.
#[tokio::test(flavor = "multi_thread")]
async fn deletes_in_orc_become_parquet() {
    use crate::deletes::facts;
    use ::parquet::file::reader::{FileReader, SerializedFileReader};
    let lake = Lake::new();
    let (mut met, mut bounded) = (0, 0);
    for name in
        ["orc_deletes", "orc_pos_file", "orc_pos_partition", "orc_pos_orc", "pos_file", "pos_partition"]
    {
        let publication = lake.prepare(name, lake.location(name), "m").await.unwrap();
        publication.publish().await.unwrap();
        let place = publication.place();
        let snapshot =
            publication.metadata().snapshot(publication.metadata().current_snapshot.unwrap()).unwrap();
        let Manifests::List(from) = &snapshot.manifests else { panic!("{name} has a list") };
        let raw = |location: &Location| {
            std::fs::read(lake.raw().join("s3").join(location.authority()).join(location.key())).unwrap()
        };
        for manifest in read_list(&raw(from), "list").unwrap().iter().filter(|manifest| manifest.deletes) {
            let location: Location = manifest.path.parse().unwrap();
            let old = raw(&location);
            let new = std::fs::read(
                place.folder.join(format!("metadata/{}", crate::mapping::rewritten_name(&location))),
            )
            .unwrap();
            let (old_entries, new_entries) =
                (read_manifest(&old, "old").unwrap().1, read_manifest(&new, "new").unwrap().1);
            for (n, (was, is)) in old_entries.iter().zip(&new_entries).enumerate() {
                assert_eq!((&*is.format, is.rows, &is.partition), ("PARQUET", was.rows, &was.partition));
                let path = local(&lake, place, &is.path);
                assert!(
                    path.starts_with(place.folder.join("deletes")) && path.extension().unwrap() == "parquet"
                );
                if is.status == Status::Deleted {
                    continue;
                }
                met += 1;
                let parquet = Bytes::from(std::fs::read(&path).unwrap());
                let file = SerializedFileReader::new(parquet.clone()).unwrap();
                let rows: Vec<String> =
                    file.get_row_iter(None).unwrap().map(|row| row.unwrap().to_string()).collect();
                assert_eq!(rows.len() as u64, is.rows);
                if &*was.format == "ORC" {
                    let expected: Vec<String> = crate::orc::tests::read(&raw(&was.path.parse().unwrap()))
                        .unwrap()
                        .iter()
                        .map(|(path, position)| {
                            let path = place.mapping.object_uri(&path.parse().unwrap());
                            format!("{{file_path: \"{path}\", pos: {position}}}")
                        })
                        .collect();
                    assert_eq!(rows, expected);
                }
                if n > 0 {
                    continue;
                }
                let facts = facts("PARQUET", parquet, "it").unwrap();
                let (was, is) = (metrics(&old), metrics(&new));
                assert_eq!(was.keys().collect::<Vec<_>>(), is.keys().collect::<Vec<_>>());
                for (id, size) in facts.sizes.unwrap() {
                    assert_eq!(is[&108][&i64::from(id)], size.to_le_bytes(), "{name}");
                }
                for (map, columns) in &is {
                    assert_eq!(
                        was[map].keys().collect::<Vec<_>>(),
                        columns.keys().collect::<Vec<_>>(),
                        "{name}, {map}"
                    );
                    assert!(columns.keys().all(|id| [2_147_483_546, 2_147_483_545].contains(id)));
                }
                if let Some(low) = is.get(&125).and_then(|columns| columns.get(&2_147_483_546)) {
                    let (first, last) = facts.bounds.unwrap();
                    assert!(low.ends_with(first.as_bytes()));
                    assert!(is[&128][&2_147_483_546].ends_with(last.as_bytes()));
                    bounded += 1;
                }
            }
        }
    }
    assert!(met > 10 && bounded > 2, "{met} files, {bounded} with bounds");
}
