//! Tables that Spark and PyIceberg have written (scripts/fixtures/tables), published and looked through.
mod deletes;
mod filter;
mod lake;
mod sweep;
mod versions;
mod views;

pub(super) use lake::{Lake, follow};

use lake::{contents, files_below, size};

#[tokio::test(flavor = "multi_thread")]
async fn no_location_is_left_and_every_length_is_exact() {
    let lake = Lake::new();
    for name in lake.expected.keys() {
        let publication = match lake.prepare(name, lake.location(name), "m").await {
            Ok(publication) => publication,
            Err(error) => panic!("{name}: {error}"),
        };
        let steps = publication.publish().await.unwrap_or_else(|error| panic!("{name}: {error}"));
        let place = publication.place();
        for step in &steps {
            assert_eq!(step.size, size(&place.folder.join(&step.path)), "{name}: {}", step.path);
        }
        for snapshot in &publication.metadata().snapshots {
            publication.snapshot(snapshot.id).await.unwrap();
        }
        for reference in publication.metadata().refs.keys() {
            publication.reference(reference).await.unwrap();
        }
        let hint = std::fs::read_to_string(place.folder.join("metadata/version-hint.text")).unwrap();
        assert_eq!(hint, publication.number().to_string(), "{name}");
        let met = follow(&lake, place, &place.folder.join(format!("metadata/v{hint}.metadata.json")), None);
        assert_eq!(met == 0, name == "empty", "{name}");
        for path in files_below(&place.folder) {
            let contents = contents(&path);
            for scheme in [&b"s3://"[..], b"s3a://", b"file:/var/tmp/raw"] {
                let left = contents.windows(scheme.len()).position(|window| window == scheme);
                assert_eq!(left, None, "{name}: {} in {}", scheme.escape_ascii(), path.display());
            }
        }
        // The same again has nothing to do.
        assert_eq!(publication.publish().await.unwrap(), [], "{name}");
        let again = lake.prepare(name, lake.location(name), "m").await.unwrap();
        assert_eq!(
            (again.number(), again.publish().await.unwrap()),
            (publication.number(), Vec::new()),
            "{name}"
        );
    }
}
