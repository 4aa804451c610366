//! A manifest list for the snapshots of version 1 that name their manifests in the metadata itself.
use crate::avro::{container, put_bytes, put_long};

const SCHEMA: &str = r#"{"type":"record","name":"manifest_file","fields":[{"name":"manifest_path","type":"string","field-id":500},{"name":"manifest_length","type":"long","field-id":501},{"name":"partition_spec_id","type":"int","field-id":502},{"name":"added_snapshot_id","type":["null","long"],"default":null,"field-id":503},{"name":"added_data_files_count","type":["null","int"],"default":null,"field-id":504},{"name":"existing_data_files_count","type":["null","int"],"default":null,"field-id":505},{"name":"deleted_data_files_count","type":["null","int"],"default":null,"field-id":506},{"name":"partitions","type":["null",{"type":"array","items":{"type":"record","name":"r508","fields":[{"name":"contains_null","type":"boolean","field-id":509},{"name":"lower_bound","type":["null","bytes"],"default":null,"field-id":510},{"name":"upper_bound","type":["null","bytes"],"default":null,"field-id":511}]},"element-id":508}],"default":null,"field-id":507},{"name":"added_rows_count","type":["null","long"],"default":null,"field-id":512},{"name":"existing_rows_count","type":["null","long"],"default":null,"field-id":513},{"name":"deleted_rows_count","type":["null","long"],"default":null,"field-id":514}]}"#;

/// A list of version 1: paths, sizes and partition specs of its manifests; nothing that would let a reader leave
/// one out.
pub(crate) fn inline_list(snapshot: i64, manifests: &[(String, u64, i64)]) -> Vec<u8> {
    let mut content = Vec::new();
    for (uri, size, spec) in manifests {
        put_bytes(&mut content, uri.as_bytes());
        put_long(&mut content, *size as i64);
        put_long(&mut content, *spec);
        put_long(&mut content, 1);
        put_long(&mut content, snapshot);
        // Seven times null.
        content.extend_from_slice(&[0; 7]);
    }
    let id = snapshot.to_string();
    container(SCHEMA, &[("format-version", "1"), ("snapshot-id", &id)], manifests.len() as u64, &content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::read_list;

    #[test]
    fn the_list_reads_back() {
        let list = inline_list(
            7,
            &[("file:///m/a.avro".into(), 10, 0), ("file:///m/b.avro".into(), 4_000_000_000, 3)],
        );
        let read: Vec<_> =
            read_list(&list, "x").unwrap().into_iter().map(|m| (m.path, m.length, m.deletes)).collect();
        assert_eq!(
            read,
            [
                ("file:///m/a.avro".to_owned(), 10, false),
                ("file:///m/b.avro".to_owned(), 4_000_000_000, false)
            ]
        );
        assert!(read_list(&inline_list(7, &[]), "x").unwrap().is_empty());
    }
}
