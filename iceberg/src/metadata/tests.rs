use super::*;
use std::io::Write;

const V2: &str = r#"{"format-version":2,"table-uuid":"u-1","location":"s3://b/wh/t","last-sequence-number":3,"last-updated-ms":3000,"last-column-id":1,
"current-schema-id":1,"schemas":[{"schema-id":0,"type":"struct","fields":[]},{"schema-id":1,"type":"struct","fields":[{"id":1}]}],
"default-spec-id":0,"partition-specs":[],"last-partition-id":999,"odd":12345678901234567890123,
"properties":{"write.data.path":"s3://b/else","write.format.default":"orc","py-io-impl":"evil","owner":"me"},
"current-snapshot-id":9007199254740993,
"snapshots":[{"snapshot-id":1,"timestamp-ms":1000,"sequence-number":1,"summary":{"operation":"append"},"manifest-list":"s3a://b/wh/t/metadata/snap-1.avro","schema-id":0},
{"snapshot-id":9007199254740993,"parent-snapshot-id":1,"timestamp-ms":2000,"sequence-number":2,"summary":{"operation":"overwrite","x":"y"},"manifest-list":"s3://b/wh/t/metadata/snap-2.avro","schema-id":1}],
"refs":{"main":{"snapshot-id":9007199254740993,"type":"branch"},"old":{"snapshot-id":1,"type":"tag"},"dev":{"snapshot-id":1,"type":"branch"}},
"snapshot-log":[{"timestamp-ms":1000,"snapshot-id":1},{"timestamp-ms":2000,"snapshot-id":9007199254740993}],
"metadata-log":[{"timestamp-ms":1000,"metadata-file":"s3://b/wh/t/metadata/00000-x.metadata.json"}],
"statistics":[{"snapshot-id":1,"statistics-path":"s3://b/wh/t/metadata/s.stats","file-size-in-bytes":10}],
"partition-statistics":[{"snapshot-id":1,"statistics-path":"s3://b/wh/t/metadata/p.parquet","file-size-in-bytes":10}]}"#;

struct TestPaths;

impl Paths for TestPaths {
    fn folder(&self) -> String {
        "file:///m/t".into()
    }
    fn list(&self, snapshot: i64, _: &Manifests) -> String {
        format!("file:///m/t/metadata/{snapshot}.avro")
    }
    fn object(&self, location: &Location) -> String {
        format!("file:///m/objects/{}", location.key())
    }
    fn source(&self) -> String {
        "objects/s3/b/wh/t/x#1".into()
    }
}

fn parse(text: &str) -> Result<Metadata, TableError> {
    Metadata::parse(text.as_bytes(), "x.metadata.json")
}

fn rewritten(metadata: &Metadata, view: View<'_>) -> Value {
    let bytes = metadata.rewrite(view, &BTreeSet::new(), &TestPaths).unwrap();
    let text = std::str::from_utf8(&bytes).unwrap();
    assert!(!text.contains("s3://") && !text.contains("s3a://"), "{text}");
    assert!(text.contains("12345678901234567890123"), "{text}");
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_table_is_understood() {
    let table = parse(V2).unwrap();
    assert_eq!((table.format_version, table.uuid.as_deref()), (2, Some("u-1")));
    assert_eq!(table.location.as_str(), "s3://b/wh/t");
    assert_eq!(table.current_snapshot, Some(9007199254740993));
    assert_eq!(table.snapshots.len(), 2);
    assert_eq!(
        table.snapshots[0].manifests,
        Manifests::List("s3://b/wh/t/metadata/snap-1.avro".parse().unwrap())
    );
    assert_eq!(table.snapshots[1].operation.as_deref(), Some("overwrite"));
    assert_eq!(table.refs["old"], Reference { snapshot: 1, is_branch: false });
    assert_eq!(
        [999, 1000, 1999, 2000].map(|ms| table.snapshot_at(ms)),
        [None, Some(1), Some(1), Some(9007199254740993)]
    );
}

#[test]
fn every_location_is_replaced_and_nothing_else() {
    let table = parse(V2).unwrap();
    let json = rewritten(&table, View::Current);
    assert_eq!(json["location"], "file:///m/t");
    assert_eq!(json["snapshots"][1]["manifest-list"], "file:///m/t/metadata/9007199254740993.avro");
    assert_eq!(json["snapshots"][1]["summary"]["x"], "y");
    assert_eq!(json["metadata-log"], serde_json::json!([]));
    assert_eq!(json["statistics"][0]["statistics-path"], "file:///m/objects/wh/t/metadata/s.stats");
    assert_eq!(
        json["partition-statistics"][0]["statistics-path"],
        "file:///m/objects/wh/t/metadata/p.parquet"
    );
    let properties = serde_json::json!({"write.format.default":"orc","owner":"me","icecache.source":"objects/s3/b/wh/t/x#1"});
    assert_eq!(json["properties"], properties);
    let original: Value = serde_json::from_str(V2).unwrap();
    for name in [
        "refs",
        "snapshot-log",
        "schemas",
        "current-schema-id",
        "last-sequence-number",
        "current-snapshot-id",
    ] {
        assert_eq!(json[name], original[name], "{name}");
    }
}

#[test]
fn a_view_has_one_current_snapshot_and_its_schema() {
    let table = parse(V2).unwrap();
    let json = rewritten(&table, View::Snapshot(1));
    assert_eq!((&json["current-snapshot-id"], &json["current-schema-id"]), (&1.into(), &0.into()));
    assert_eq!(json["refs"], serde_json::json!({"main":{"snapshot-id":1,"type":"branch"}}));
    assert_eq!(json["snapshot-log"].as_array().unwrap().len(), 1);
    // A tag has the schema of its snapshot, a branch that of the table.
    assert_eq!(rewritten(&table, View::Reference("old"))["current-schema-id"], 0);
    assert_eq!(rewritten(&table, View::Reference("dev"))["current-schema-id"], 1);
    assert!(table.rewrite(View::Snapshot(7), &BTreeSet::new(), &TestPaths).is_err());
    assert!(table.rewrite(View::Reference("none"), &BTreeSet::new(), &TestPaths).is_err());
}

#[test]
fn version_1_may_list_its_manifests_itself() {
    let table = parse(
        r#"{"format-version":1,"location":"s3://b/t","last-updated-ms":1,"schema":{},"current-snapshot-id":-1,"snapshots":[{"snapshot-id":5,"timestamp-ms":1,"manifests":["s3://b/t/m1.avro","s3://b/t/m2.avro"]}]}"#,
    )
    .unwrap();
    assert_eq!((table.current_snapshot, table.uuid.is_none()), (None, true));
    let json: Value =
        serde_json::from_slice(&table.rewrite(View::Snapshot(5), &BTreeSet::new(), &TestPaths).unwrap())
            .unwrap();
    assert_eq!(json["snapshots"][0]["manifest-list"], "file:///m/t/metadata/5.avro");
    assert_eq!(json["snapshots"][0].get("manifests"), None);
    assert_eq!(json.get("refs"), None);
}

#[test]
fn compressed_files_are_known_by_their_first_bytes() {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(V2.as_bytes()).unwrap();
    let bytes = out.finish().unwrap();
    assert_eq!(Metadata::parse(&bytes, "x").unwrap().snapshots.len(), 2);
    assert!(matches!(Metadata::parse(&bytes[..bytes.len() / 2], "x"), Err(TableError::Malformed { .. })));
}

#[test]
fn what_cannot_be_shown_is_refused_by_name() {
    let with = |from: &str, to: &str| parse(&V2.replacen(from, to, 1)).map(|_| ());
    let keys = with(r#""odd":"#, r#""encryption-keys":[{"key-id":"k"}],"odd":"#);
    assert!(matches!(keys, Err(TableError::Encrypted { .. })), "{keys:?}");
    let key = with(r#""owner":"me""#, r#""encryption.key-id":"k""#);
    assert!(matches!(key, Err(TableError::Encrypted { .. })), "{key:?}");
    let snapshot = with(r#""sequence-number":1,"#, r#""sequence-number":1,"key-id":"k","#);
    assert!(matches!(snapshot, Err(TableError::Encrypted { .. })), "{snapshot:?}");
    let v4 = with(r#""format-version":2"#, r#""format-version":4"#);
    assert!(matches!(v4, Err(TableError::Unsupported { .. })), "{v4:?}");
    for (from, to) in [
        (r#""location":"s3://b/wh/t""#, r#""location":"data/t""#),
        (r#""format-version":2,"#, ""),
        (r#""manifest-list":"s3a:"#, r#""manifest-list":"#),
        (r#""current-snapshot-id":9007199254740993"#, r#""current-snapshot-id":77"#),
        (r#""type":"tag""#, r#""type":"twig""#),
        ("}", ""),
    ] {
        let result = with(from, to);
        assert!(matches!(result, Err(TableError::Malformed { .. })), "{from}: {result:?}");
    }
}

/// Readers refuse metadata with a reference to nothing.
#[test]
fn a_reference_to_no_snapshot_is_left_out() {
    let text = V2.replacen(r#""old":{"snapshot-id":1"#, r#""old":{"snapshot-id":77"#, 1);
    let table = parse(&text).unwrap();
    assert_eq!(table.dangling.keys().collect::<Vec<_>>(), ["old"]);
    let json = rewritten(&table, View::Current);
    assert!(json["refs"].get("old").is_none() && json["refs"].get("dev").is_some(), "{}", json["refs"]);
}

/// Manifests of the snapshot are written by the spec of a column that its schema has no more.
#[test]
fn a_snapshot_keeps_the_spec_of_a_column_that_was_dropped_before_it() {
    let text = r#"{"format-version":2,"location":"s3://b/t","last-sequence-number":2,"last-updated-ms":2,"last-column-id":3,
"current-schema-id":2,"schemas":[{"schema-id":0,"type":"struct","fields":[{"id":1,"name":"n","type":"long"},{"id":2,"name":"day","type":"string"}]},
{"schema-id":1,"type":"struct","fields":[{"id":1,"name":"n","type":"long"}]},
{"schema-id":2,"type":"struct","fields":[{"id":1,"name":"n","type":"long"},{"id":3,"name":"d","type":"date"}]}],
"default-spec-id":2,"partition-specs":[{"spec-id":0,"fields":[{"source-id":2,"field-id":1000,"transform":"identity","name":"day"}]},{"spec-id":1,"fields":[]},
{"spec-id":2,"fields":[{"source-id":3,"field-id":1001,"transform":"day","name":"d"}]}],
"odd":12345678901234567890123,"current-snapshot-id":1,
"snapshots":[{"snapshot-id":1,"timestamp-ms":1,"sequence-number":1,"summary":{"operation":"append"},"manifest-list":"s3://b/1.avro","schema-id":1}]}"#;
    let json = rewritten(&parse(text).unwrap(), View::Snapshot(1));
    let specs = json["partition-specs"].as_array().unwrap().iter().map(|spec| spec["spec-id"].as_i64());
    assert_eq!(specs.collect::<Vec<_>>(), [Some(0), Some(1)]);
    assert_eq!(json["default-spec-id"], 1);
}

/// A column that came, by which the table was partitioned, and which went again: the schema has its first number back.
/// Whatever the number says, the manifests are written by that spec; it is no default without its column.
#[test]
fn a_snapshot_keeps_the_specs_of_its_manifests() {
    let text = r#"{"format-version":2,"location":"s3://b/t","last-sequence-number":3,"last-updated-ms":3,"last-column-id":3,
"current-schema-id":2,"schemas":[{"schema-id":0,"type":"struct","fields":[{"id":1,"name":"x","type":"long"}]},
{"schema-id":1,"type":"struct","fields":[{"id":1,"name":"x","type":"long"},{"id":2,"name":"c","type":"string"}]},
{"schema-id":2,"type":"struct","fields":[{"id":1,"name":"x","type":"long"},{"id":3,"name":"d","type":"date"}]}],
"default-spec-id":2,"partition-specs":[SPECS{"spec-id":1,"fields":[{"source-id":2,"field-id":1000,"transform":"identity","name":"c"}]},
{"spec-id":2,"fields":[{"source-id":3,"field-id":1001,"transform":"day","name":"d"}]}],
"odd":12345678901234567890123,"current-snapshot-id":3,
"snapshots":[{"snapshot-id":3,"timestamp-ms":3,"sequence-number":3,"summary":{"operation":"append"},"manifest-list":"s3://b/3.avro","schema-id":0}]}"#;
    let shown = |specs: &str, used: &[i64]| -> (Vec<i64>, i64) {
        let table = parse(&text.replace("SPECS", specs)).unwrap();
        let used = used.iter().copied().collect();
        let json: Value =
            serde_json::from_slice(&table.rewrite(View::Snapshot(3), &used, &TestPaths).unwrap()).unwrap();
        let specs = json["partition-specs"].as_array().unwrap();
        let ids = specs.iter().map(|spec| spec["spec-id"].as_i64().unwrap()).collect();
        (ids, json["default-spec-id"].as_i64().unwrap())
    };
    let first = r#"{"spec-id":0,"fields":[]},"#;
    assert_eq!(shown(first, &[0, 1]), (vec![0, 1], 0));
    assert_eq!(shown(first, &[0]), (vec![0], 0), "what none of its manifests needs came later");
    // Without a spec that its columns can do, it gets one.
    assert_eq!(shown("", &[1]), (vec![1, 3], 3));
}

#[test]
fn what_says_how_to_read_is_told_from_what_writers_note() {
    let with = |property: &str| parse(&V2.replace(r#""owner":"me""#, property)).unwrap().read_properties();
    assert_eq!(with(r#""owner":"me""#), with(r#""commit":"2""#));
    for property in [r#""schema.name-mapping.default":"[]""#, r#""read.split.target-size":"1""#] {
        assert_ne!(with(r#""owner":"me""#), with(property));
    }
    let order = [r#""read.a":"1","read.b":"2""#, r#""read.b":"2","x":"y","read.a":"1""#];
    assert_eq!(with(order[0]), with(order[1]));
}

/// Partitioned, then sorted, by columns that came later; what is nested counts.
#[test]
fn a_snapshot_has_no_specs_and_orders_of_later_columns() {
    let text = r#"{"format-version":2,"location":"s3://b/t","last-sequence-number":2,"last-updated-ms":2,"last-column-id":6,
"current-schema-id":1,"schemas":[{"schema-id":0,"type":"struct","fields":[{"id":1,"name":"s","type":{"type":"struct","fields":[{"id":2,"name":"n","type":"long"}]}}]},
{"schema-id":1,"type":"struct","fields":[{"id":1,"name":"s","type":{"type":"struct","fields":[{"id":2,"name":"n","type":"long"}]}},{"id":3,"name":"d","type":"date"}]}],
"default-spec-id":2,"partition-specs":[{"spec-id":0,"fields":[]},{"spec-id":1,"fields":[{"source-id":2,"field-id":1000,"transform":"identity","name":"n"}]},
{"spec-id":2,"fields":[{"source-id":3,"field-id":1001,"transform":"day","name":"d"}]}],"last-partition-id":1001,
"default-sort-order-id":1,"sort-orders":[{"order-id":1,"fields":[{"source-id":3,"transform":"identity","direction":"asc","null-order":"nulls-first"}]}],
"odd":12345678901234567890123,"current-snapshot-id":2,
"snapshots":[{"snapshot-id":1,"timestamp-ms":1,"sequence-number":1,"summary":{"operation":"append"},"manifest-list":"s3://b/1.avro","schema-id":0},
{"snapshot-id":2,"timestamp-ms":2,"sequence-number":2,"summary":{"operation":"append"},"manifest-list":"s3://b/2.avro","schema-id":1}]}"#;
    let table = parse(text).unwrap();
    let specs = |json: &Value| -> Vec<i64> {
        json["partition-specs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|spec| spec["spec-id"].as_i64().unwrap())
            .collect()
    };
    let before = rewritten(&table, View::Snapshot(1));
    assert_eq!((specs(&before), &before["default-spec-id"]), (vec![0, 1], &1.into()));
    assert_eq!(before["default-sort-order-id"], 0);
    assert_eq!(before["sort-orders"], serde_json::json!([{ "order-id": 0, "fields": [] }]));
    for view in [View::Snapshot(2), View::Current] {
        let now = rewritten(&table, view);
        assert_eq!((specs(&now), &now["default-spec-id"]), (vec![0, 1, 2], &2.into()));
        assert_eq!(now["default-sort-order-id"], 1);
    }
}

#[test]
fn names_of_files_without_ids_are_known() {
    let mapping = r#"[{\"field-id\":1,\"names\":[\"new\",\"old\"]},{\"names\":[\"gone\"]},
        {\"field-id\":2,\"names\":[],\"fields\":[{\"field-id\":3,\"names\":[\"x\"]}]}]"#
        .replace('\n', "");
    let mapped = |property: &str| parse(&V2.replace(r#""owner":"me""#, property)).unwrap().mapped_names();
    let names = mapped(&format!(r#""schema.name-mapping.default":"{mapping}""#));
    assert_eq!(names.len(), 2);
    assert_eq!((&names[&1], &names[&2]), (&vec!["new".to_owned(), "old".to_owned()], &vec![]));
    assert!(mapped(r#""owner":"me""#).is_empty());
    assert!(mapped(r#""schema.name-mapping.default":"nonsense""#).is_empty());
}
