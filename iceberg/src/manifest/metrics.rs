//! What a manifest tells of the columns of a file: maps by field id.
use super::FILE_PATH_FIELD;
use crate::avro::{AvroError, Edits, Item, Kind, Schema, elements, long, put_bytes, put_long, walk};
use std::ops::Range;

const SIZES: i32 = 108;
pub(super) const VALUES: i32 = 109;
pub(super) const NULLS: i32 = 110;
pub(super) const LOWER: i32 = 125;
pub(super) const UPPER: i32 = 128;
pub(super) const NANS: i32 = 137;

/// What becomes of what is told of the columns of a file of position deletes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MetricsChange {
    /// The new bounds of the paths in it.
    pub bounds: Bounds,
    /// How many bytes each of its columns takes now, if that changes.
    pub sizes: Option<Vec<(i32, i64)>>,
    /// Whether it has lost columns: it has those of `sizes`, and nothing is told of others.
    pub fewer: bool,
}

/// What becomes of the bounds of the paths in a file of position deletes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Bounds {
    /// There are none, or they stay.
    #[default]
    Keep,
    /// They become these.
    Set(String, String),
    /// Not known: readers must not leave the file out.
    Drop,
}

/// Where the maps of an entry lie.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    sizes: Option<Item>,
    lower: Option<Item>,
    upper: Option<Item>,
    /// How many values, nulls and NaNs.
    counts: [Option<Item>; 3],
}

/// What becomes of what is told of one column.
enum Fate {
    Stays,
    Becomes(Vec<u8>),
    Goes,
}

impl Metrics {
    /// Takes a field of an entry, if it is one of these.
    pub fn found(&mut self, id: i32, item: Option<Item>) {
        match id {
            SIZES => self.sizes = item,
            LOWER => self.lower = item,
            UPPER => self.upper = item,
            VALUES => self.counts[0] = item,
            NULLS => self.counts[1] = item,
            NANS => self.counts[2] = item,
            _ => {}
        }
    }

    /// A map by its field.
    pub fn map(&self, id: i32) -> Option<&Item> {
        match id {
            SIZES => self.sizes.as_ref(),
            LOWER => self.lower.as_ref(),
            UPPER => self.upper.as_ref(),
            VALUES => self.counts[0].as_ref(),
            NULLS => self.counts[1].as_ref(),
            NANS => self.counts[2].as_ref(),
            _ => None,
        }
    }
}

impl MetricsChange {
    pub(super) fn apply(
        &self,
        schema: &Schema,
        content: &[u8],
        metrics: &Metrics,
        edits: &mut Edits,
    ) -> Result<(), AvroError> {
        // Most entries are data, of which nothing changes.
        if *self == Self::default() {
            return Ok(());
        }
        let mut change = |map: &Option<Item>, fate: &dyn Fn(i64) -> Fate| match map {
            Some(map) => change_map(schema, content, map, fate, edits),
            None => Ok(()),
        };
        let size = |id: i64| {
            self.sizes.iter().flatten().find(|(own, _)| i64::from(*own) == id).map(|(_, size)| *size)
        };
        let other = |id: i64| if self.fewer && size(id).is_none() { Fate::Goes } else { Fate::Stays };
        change(&metrics.sizes, &|id| match size(id) {
            Some(size) => {
                let mut by = Vec::new();
                put_long(&mut by, size);
                Fate::Becomes(by)
            }
            None => other(id),
        })?;
        for counts in &metrics.counts {
            change(counts, &other)?;
        }
        let (lower, upper) = match &self.bounds {
            Bounds::Set(lower, upper) => (Some(lower), Some(upper)),
            Bounds::Keep | Bounds::Drop => (None, None),
        };
        for (map, bound) in [(&metrics.lower, lower), (&metrics.upper, upper)] {
            change(map, &|id| match bound {
                _ if id != i64::from(FILE_PATH_FIELD) => other(id),
                Some(bound) => {
                    let mut by = Vec::new();
                    put_bytes(&mut by, bound.as_bytes());
                    Fate::Becomes(by)
                }
                None if self.bounds == Bounds::Drop => Fate::Goes,
                None => Fate::Stays,
            })?;
        }
        Ok(())
    }
}

/// Gives each value of a map by field ids its fate.
fn change_map(
    schema: &Schema,
    content: &[u8],
    map: &Item,
    fate: &dyn Fn(i64) -> Fate,
    edits: &mut Edits,
) -> Result<(), AvroError> {
    let mut kept: Vec<Range<usize>> = Vec::new();
    let mut replaced = Vec::new();
    let mut gone = false;
    elements(schema, map, content, |element| {
        let (mut key, mut value) = (None, None);
        walk(schema, element.node, content, element.range.start, |field, item| {
            match (field.name.as_str(), schema.kind(item.node)) {
                ("key", Kind::Long) => key = Some(long(schema, &item, content)?),
                ("value", Kind::Bytes | Kind::Long) => value = Some(item.range),
                _ => {}
            }
            Ok(())
        })?;
        match (key.map(fate), value) {
            (Some(Fate::Goes), Some(_)) => {
                gone = true;
                return Ok(());
            }
            (Some(Fate::Becomes(by)), Some(value)) => replaced.push((value, by)),
            _ => {}
        }
        kept.push(element.range);
        Ok(())
    })?;
    if !gone && replaced.is_empty() {
        return Ok(());
    }
    // Counted anew, in one block: a block may state its size, too.
    let mut out = Vec::new();
    if !kept.is_empty() {
        put_long(&mut out, kept.len() as i64);
    }
    let mut replaced = replaced.into_iter().peekable();
    for element in kept {
        let mut at = element.start;
        if let Some((value, by)) = replaced.next_if(|(value, _)| value.end <= element.end) {
            out.extend_from_slice(&content[at..value.start]);
            out.extend_from_slice(&by);
            at = value.end;
        }
        out.extend_from_slice(&content[at..element.end]);
    }
    put_long(&mut out, 0);
    edits.replace(map.range.clone(), out);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{EntryChange, read_manifest, rewrite_manifest};
    use super::*;
    use crate::avro::{Container, container};

    const PATHS: i64 = FILE_PATH_FIELD as i64;

    fn schema() -> String {
        let map = |name: &str, id: i32, value: &str| {
            format!(
                r#"{{"name":"{name}","field-id":{id},"default":null,"type":["null",{{"type":"array","logicalType":"map","items":{{"type":"record","name":"kv{id}","fields":[{{"name":"key","type":"int"}},{{"name":"value","type":"{value}"}}]}}}}]}}"#
            )
        };
        format!(
            r#"{{"type":"record","name":"manifest_entry","fields":[{{"name":"status","type":"int","field-id":0}},{{"name":"data_file","field-id":2,"type":{{"type":"record","name":"r2","fields":[{{"name":"content","type":"int","field-id":134}},{{"name":"file_path","type":"string","field-id":100}},{{"name":"file_format","type":"string","field-id":101}},{{"name":"file_size_in_bytes","type":"long","field-id":104}},{},{},{},{}]}}}}]}}"#,
            map("column_sizes", SIZES, "long"),
            map("value_counts", VALUES, "long"),
            map("lower_bounds", LOWER, "bytes"),
            map("upper_bounds", UPPER, "bytes"),
        )
    }

    fn rewritten(manifest: &[u8], change: &EntryChange) -> Vec<u8> {
        rewrite_manifest(manifest, "m", |_| Ok(change.clone()), |_| false).unwrap().0
    }

    type Map<'a> = Option<&'a [(i64, &'a [u8])]>;

    /// A manifest of one entry. Maps are of two blocks, the first of which states its size.
    fn manifest(format: &str, size: i64, maps: [Map<'_>; 4], blocks: bool) -> Vec<u8> {
        let mut content = Vec::new();
        put_long(&mut content, 1);
        put_long(&mut content, 1);
        put_bytes(&mut content, b"s3://b/d");
        put_bytes(&mut content, format.as_bytes());
        put_long(&mut content, size);
        for map in maps {
            let Some(map) = map else {
                put_long(&mut content, 0);
                continue;
            };
            put_long(&mut content, 1);
            let first = if blocks { 1.min(map.len()) } else { map.len() };
            for (n, part) in [&map[..first], &map[first..]].into_iter().enumerate() {
                let mut block = Vec::new();
                for (key, value) in part {
                    put_long(&mut block, *key);
                    block.extend_from_slice(value);
                }
                let sized = blocks && n == 0;
                if !part.is_empty() {
                    put_long(&mut content, if sized { -(part.len() as i64) } else { part.len() as i64 });
                }
                if !part.is_empty() && sized {
                    put_long(&mut content, block.len() as i64);
                }
                content.extend_from_slice(&block);
            }
            put_long(&mut content, 0);
        }
        container(&schema(), &[], 1, &content)
    }

    fn number(value: i64) -> Vec<u8> {
        let mut out = Vec::new();
        put_long(&mut out, value);
        out
    }

    fn string(value: &str) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, value.as_bytes());
        out
    }

    #[test]
    fn what_is_told_of_columns_follows_the_file() {
        let (ten, two, seven) = (number(10), number(2), number(7));
        let (a, b, pos) = (string("s3://a"), string("s3://b"), string("\0"));
        let (new_a, new_b) = (string("file:///a"), string("file:///b"));
        let (ten, two, seven) = (&ten[..], &two[..], &seven[..]);
        let (a, b, pos, new_a, new_b) = (&a[..], &b[..], &pos[..], &new_a[..], &new_b[..]);
        let set = Bounds::Set("file:///a".into(), "file:///b".into());
        for blocks in [false, true] {
            let old = manifest(
                "ORC",
                9,
                [
                    Some(&[(1, two), (PATHS, ten), (PATHS - 1, ten)]),
                    Some(&[(PATHS - 1, two), (PATHS, two), (1, two), (2, two)]),
                    Some(&[(PATHS, a), (PATHS - 1, pos), (1, pos)]),
                    Some(&[(1, pos), (PATHS, b)]),
                ],
                blocks,
            );
            let change = |metrics| {
                let change = EntryChange {
                    path: "s3://b/d".into(),
                    size: None,
                    referenced: None,
                    format: Some("PARQUET"),
                    splits: None,
                    metrics,
                };
                let new = rewritten(&old, &change);
                assert_eq!(&*read_manifest(&new, "m").unwrap().1[0].format, "PARQUET");
                new
            };
            let sizes = Some(vec![(FILE_PATH_FIELD, 7), (FILE_PATH_FIELD - 1, 7)]);
            let fewer = MetricsChange { bounds: set.clone(), sizes: sizes.clone(), fewer: true };
            let expected: [Map<'_>; 4] = [
                Some(&[(PATHS, seven), (PATHS - 1, seven)]),
                Some(&[(PATHS - 1, two), (PATHS, two)]),
                Some(&[(PATHS, new_a), (PATHS - 1, pos)]),
                Some(&[(PATHS, new_b)]),
            ];
            assert_same(&change(fewer), &manifest("PARQUET", 9, expected, false));

            let same = MetricsChange { bounds: Bounds::Drop, sizes, fewer: false };
            let expected: [Map<'_>; 4] = [
                Some(&[(1, two), (PATHS, seven), (PATHS - 1, seven)]),
                Some(&[(PATHS - 1, two), (PATHS, two), (1, two), (2, two)]),
                Some(&[(PATHS - 1, pos), (1, pos)]),
                Some(&[(1, pos)]),
            ];
            let new = change(same);
            if blocks {
                // Maps of which nothing changes keep their blocks.
                assert!(read_manifest(&new, "m").is_ok());
            } else {
                assert_same(&new, &manifest("PARQUET", 9, expected, false));
            }
        }
    }

    #[test]
    fn what_is_not_told_stays_untold() {
        let old = manifest("ORC", 9, [None, Some(&[]), None, None], false);
        let change = EntryChange {
            path: "s3://b/d".into(),
            size: Some(8),
            referenced: None,
            format: None,
            splits: Some(vec![4]),
            metrics: MetricsChange {
                bounds: Bounds::Set("a".into(), "b".into()),
                sizes: Some(vec![(FILE_PATH_FIELD, 7)]),
                fewer: true,
            },
        };
        let new = rewritten(&old, &change);
        assert_same(&new, &manifest("ORC", 8, [None, Some(&[]), None, None], false));
    }

    /// The records of two manifests.
    fn assert_same(one: &[u8], other: &[u8]) {
        let content = |bytes: &[u8]| {
            let file = Container::parse(bytes).unwrap();
            let mut all = Vec::new();
            file.records(|content, at| {
                all = content.to_vec();
                walk(&file.schema, file.schema.root(), content, at, |_, _| Ok(()))
            })
            .unwrap();
            all
        };
        assert_eq!(content(one), content(other));
    }
}
