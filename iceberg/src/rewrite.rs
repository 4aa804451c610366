//! The rewriters alone, bytes to bytes: what fuzzing calls. A [`Publication`](crate::Publication) puts them
//! together.
use crate::deletes::{facts, new_format, rewrite_deletes};
use crate::error::TableError;
use crate::location::Location;
use crate::manifest::{
    Bounds, Entry, EntryChange, FILE_PATH_FIELD, MetricsChange, read_list, read_manifest, rewrite_list,
    rewrite_manifest,
};
use crate::metadata::{Manifests, Metadata, Paths, View};
use bytes::Bytes;
use std::collections::BTreeSet;

/// What every location becomes, where nothing depends on a mount; what has become it stays so.
fn moved(path: &str) -> Result<String, String> {
    path.parse::<Location>().map(|location| at(&location)).map_err(|error| error.to_string())
}

fn at(location: &Location) -> String {
    let key = location.key();
    format!("file:///m/{}", key.strip_prefix("m/").unwrap_or(key))
}

/// A metadata file, rewritten for the table and for each of its snapshots.
///
/// # Errors
/// As [`Metadata::parse`].
pub fn metadata(bytes: &[u8]) -> Result<Vec<u8>, TableError> {
    struct Fixed;
    impl Paths for Fixed {
        fn folder(&self) -> String {
            "file:///m/t".into()
        }
        fn list(&self, snapshot: i64, _: &Manifests) -> String {
            format!("file:///m/t/metadata/{snapshot}.avro")
        }
        fn object(&self, location: &Location) -> String {
            at(location)
        }
        fn source(&self) -> String {
            "objects".into()
        }
    }
    let metadata = Metadata::parse(bytes, "metadata.json")?;
    let none = BTreeSet::new();
    for snapshot in &metadata.snapshots {
        metadata.rewrite(View::Snapshot(snapshot.id), &none, &Fixed)?;
    }
    metadata.rewrite(View::Current, &none, &Fixed)
}

/// A manifest list, every manifest moved and one byte longer.
///
/// # Errors
/// [`TableError::Malformed`], [`TableError::Unsupported`], [`TableError::Encrypted`].
pub fn manifest_list(bytes: &[u8]) -> Result<Vec<u8>, TableError> {
    let listed = read_list(bytes, "list.avro")?;
    let moved: Vec<_> =
        listed.iter().map(|m| (format!("file:///m/{}", m.path), m.length.wrapping_add(1))).collect();
    rewrite_list(bytes, "list.avro", &moved)
}

/// A manifest, every file moved, what is told of its columns changed or dropped, as long as its path is.
///
/// # Errors
/// As [`manifest_list`].
pub fn manifest(bytes: &[u8]) -> Result<Vec<u8>, TableError> {
    let change = |entry: &Entry| {
        let n = entry.path.len();
        Ok(EntryChange {
            path: format!("file:///m/{}", entry.path),
            size: Some((entry.size + 1).min(i64::MAX as u64)),
            referenced: entry.referenced.as_ref().map(|path| format!("file:///m/{path}")),
            format: (n % 2 == 1).then_some("PARQUET"),
            splits: Some(vec![4; n % 3]),
            metrics: MetricsChange {
                bounds: [Bounds::Drop, Bounds::Keep, Bounds::Set("file:///a".into(), "file:///b".into())]
                    [n % 3]
                    .clone(),
                sizes: (!n.is_multiple_of(4)).then(|| vec![(1, 7), (FILE_PATH_FIELD, 1 << 40)]),
                fewer: n % 4 > 1,
            },
        })
    };
    let (out, made) = rewrite_manifest(bytes, "manifest.avro", change, |_| true)?;
    debug_assert_eq!(read_manifest(&out, "rewritten.avro").ok().map(|(_, entries)| entries), Some(made));
    Ok(out)
}

/// So many rows of deletes in ORC are read: as many as a manifest counts, and fuzzing should not read more.
const ROWS_MAX: u64 = 1 << 20;

/// A file of position deletes, every path in it moved; `format` as a manifest says it. What was in ORC is in Parquet.
///
/// # Errors
/// As [`manifest_list`].
pub fn deletes(format: &str, bytes: &[u8]) -> Result<Vec<u8>, TableError> {
    let out = rewrite_deletes(format, &Bytes::copy_from_slice(bytes), ROWS_MAX, "deletes", moved)?;
    facts(new_format(format).unwrap_or(format), Bytes::copy_from_slice(&out), "deletes")?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_written_is_read_again() {
        let list = crate::manifest::inline_list(1, &[("s3://b/m.avro".into(), 7, 0)]);
        let moved = manifest_list(&list).unwrap();
        assert_eq!(read_list(&moved, "x").unwrap()[0].path, "file:///m/s3://b/m.avro");
        assert_eq!(read_list(&moved, "x").unwrap()[0].length, 8);
        assert!(manifest(&list).is_err());
        assert!(deletes("ORC", b"").is_err());
    }

    /// The beginning of what fuzzing does, on the tables of the tests: a byte of each file is another.
    #[test]
    fn a_wrong_byte_is_refused_or_read_past() {
        let dir = tempfile::tempdir().unwrap();
        let tables = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tables.tar.zst");
        let unpacked =
            std::process::Command::new("tar").args(["--zstd", "-xf", tables, "-C"]).arg(dir.path()).status();
        assert!(unpacked.unwrap().success());
        let (mut folders, mut met) = (vec![dir.path().to_owned()], 0);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let name = path.file_name().unwrap().to_str().unwrap();
                let rewrite: fn(&[u8]) -> Result<Vec<u8>, TableError> = match name.rsplit('.').next() {
                    Some("avro") if name.starts_with("snap-") => manifest_list,
                    Some("avro") if name.contains("deletes") => |bytes| deletes("AVRO", bytes),
                    Some("orc") if name.ends_with("-deletes.orc") => |bytes| deletes("ORC", bytes),
                    Some("avro") if path.to_str().unwrap().contains("/metadata/") => manifest,
                    Some("json") => metadata,
                    Some("puffin") => |bytes| deletes("PUFFIN", bytes),
                    _ => continue,
                };
                let mut bytes = std::fs::read(&path).unwrap();
                rewrite(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
                met += 1;
                for at in (met % 61..bytes.len()).step_by(61) {
                    for wrong in [0x80, 0xff] {
                        bytes[at] ^= wrong;
                        let _ = rewrite(&bytes);
                        bytes[at] ^= wrong;
                    }
                }
            }
        }
        assert!(met > 100, "{met} files");
    }
}
