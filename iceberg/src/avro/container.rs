//! [`Container`]: an object container file.
use super::cursor::{number, put_long, sized};
use super::{AvroError, Codec, Schema};
use std::ops::Range;

const MAGIC: &[u8; 4] = b"Obj\x01";
const SYNC_BYTES: usize = 16;
/// The most content of one block. Writers begin a new one after 64 KiB or so.
const BLOCK_MAX_BYTES: usize = 256 << 20;
/// What is written anew has blocks of at least so much content, but for the last: PyIceberg makes one for each record,
/// which takes its readers ten times as long.
const BLOCK_BYTES: usize = 64 << 10;
/// The most content of one file.
const CONTENT_MAX_BYTES: usize = 2 << 30;
/// The most entries of a header.
const META_MAX: usize = 10_000;

/// A file: its header understood, its blocks not yet looked at.
#[derive(Debug)]
pub(crate) struct Container<'a> {
    /// The schema that its writer used.
    pub schema: Schema,
    bytes: &'a [u8],
    meta: Vec<(&'a str, &'a [u8])>,
    codec: Codec,
    sync: &'a [u8],
    /// Where the blocks begin.
    body: usize,
}

/// Replacements within one block: which bytes, and by which. In order and apart.
#[derive(Debug, Default)]
pub(crate) struct Edits(Vec<(Range<usize>, Vec<u8>)>);

impl Edits {
    /// Replaces `range` of the block.
    pub fn replace(&mut self, range: Range<usize>, by: Vec<u8>) {
        self.0.push((range, by));
    }

    /// Adds the block with its replacements to what there is.
    fn apply(&mut self, content: &[u8], out: &mut Vec<u8>) -> Result<(), AvroError> {
        self.0.sort_by_key(|(range, _)| range.start);
        out.reserve(content.len() + self.0.iter().map(|(_, by)| by.len()).sum::<usize>());
        let mut at = 0;
        for (range, by) in self.0.drain(..) {
            if range.start < at {
                return Err(AvroError::Malformed("a field is there twice"));
            }
            out.extend_from_slice(&content[at..range.start]);
            out.extend_from_slice(&by);
            at = range.end;
        }
        out.extend_from_slice(&content[at..]);
        Ok(())
    }
}

impl<'a> Container<'a> {
    /// Reads the header.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, AvroError> {
        if !bytes.starts_with(MAGIC) {
            return Err(AvroError::Malformed("it is not an Avro file"));
        }
        let mut at = MAGIC.len();
        let mut meta = Vec::new();
        loop {
            let count = number(bytes, &mut at)?;
            if count == 0 {
                break;
            }
            if count < 0 {
                number(bytes, &mut at)?;
            }
            for _ in 0..count.unsigned_abs() {
                let key = sized(bytes, &mut at)?;
                let value = sized(bytes, &mut at)?;
                let key = std::str::from_utf8(&bytes[key])
                    .map_err(|_| AvroError::Malformed("header is not UTF-8"))?;
                meta.push((key, &bytes[value]));
                if meta.len() > META_MAX {
                    return Err(AvroError::Malformed("header has too many entries"));
                }
            }
        }
        let find = |name: &str| meta.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        let codec = Codec::by_name(find("avro.codec"))?;
        let schema = Schema::parse(find("avro.schema").ok_or(AvroError::Malformed("header has no schema"))?)?;
        let sync = bytes.get(at..at + SYNC_BYTES).ok_or(AvroError::Malformed("it ends within its header"))?;
        Ok(Self { schema, bytes, meta, codec, sync, body: at + SYNC_BYTES })
    }

    /// An entry of the header, `avro.…` as well as what Iceberg puts there.
    pub fn meta(&self, name: &str) -> Option<&'a [u8]> {
        self.meta.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)
    }

    /// Goes through the records: `each` is told the content of the block and where in it the record begins, and
    /// returns where it ends.
    pub fn records(
        &self,
        mut each: impl FnMut(&[u8], usize) -> Result<usize, AvroError>,
    ) -> Result<(), AvroError> {
        self.blocks(|count, content| {
            let mut at = 0;
            for _ in 0..count {
                at = each(&content, at)?;
            }
            finished(at, &content)
        })
    }

    /// The same file with changes: `each` goes through a record as in [`records`](Self::records), and says what
    /// to replace. Header, order and codec stay; small blocks become larger ones.
    pub fn rewrite(
        &self,
        mut each: impl FnMut(&[u8], usize, &mut Edits) -> Result<usize, AvroError>,
    ) -> Result<Vec<u8>, AvroError> {
        let mut out = self.bytes[..self.body].to_vec();
        let mut edits = Edits::default();
        let (mut gathered, mut records) = (Vec::new(), 0);
        self.blocks(|count, content| {
            let mut at = 0;
            for _ in 0..count {
                at = each(&content, at, &mut edits)?;
            }
            finished(at, &content)?;
            edits.apply(&content, &mut gathered)?;
            records += count;
            if gathered.len() >= BLOCK_BYTES {
                self.put_block(&mut out, std::mem::take(&mut records), std::mem::take(&mut gathered))?;
            }
            Ok(())
        })?;
        if records > 0 {
            self.put_block(&mut out, records, gathered)?;
        }
        Ok(out)
    }

    fn put_block(&self, out: &mut Vec<u8>, records: u64, content: Vec<u8>) -> Result<(), AvroError> {
        let block = self.codec.compress(content)?;
        put_long(out, records as i64);
        put_long(out, block.len() as i64);
        out.extend_from_slice(&block);
        out.extend_from_slice(self.sync);
        Ok(())
    }

    fn blocks(&self, mut each: impl FnMut(u64, Vec<u8>) -> Result<(), AvroError>) -> Result<(), AvroError> {
        let mut at = self.body;
        let mut left = CONTENT_MAX_BYTES;
        let mut decoder = self.codec.decoder();
        while at < self.bytes.len() {
            let count = u64::try_from(number(self.bytes, &mut at)?)
                .map_err(|_| AvroError::Malformed("block has a negative count"))?;
            let block = sized(self.bytes, &mut at)?;
            let sync = self.bytes.get(at..at + SYNC_BYTES);
            if sync != Some(self.sync) {
                return Err(AvroError::Malformed("block does not end in the mark of the file"));
            }
            at += SYNC_BYTES;
            let content = decoder.decompress(&self.bytes[block], BLOCK_MAX_BYTES.min(left))?;
            left -= content.len();
            // No record of Iceberg is without bytes.
            if count > content.len() as u64 {
                return Err(AvroError::Malformed("block counts more records than it can hold"));
            }
            each(count, content)?;
        }
        Ok(())
    }
}

fn finished(at: usize, content: &[u8]) -> Result<(), AvroError> {
    if at == content.len() {
        Ok(())
    } else {
        Err(AvroError::Malformed("block has more bytes than its records"))
    }
}

/// A new file without compression: for lists that the table never had.
pub(crate) fn container(schema: &str, meta: &[(&str, &str)], records: u64, content: &[u8]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    put_long(&mut out, meta.len() as i64 + 2);
    for (key, value) in [("avro.schema", schema), ("avro.codec", "null")].iter().chain(meta) {
        super::put_bytes(&mut out, key.as_bytes());
        super::put_bytes(&mut out, value.as_bytes());
    }
    put_long(&mut out, 0);
    // The mark may be anything that content does not look like.
    let sync = blake3::hash(content);
    let sync = &sync.as_bytes()[..SYNC_BYTES];
    out.extend_from_slice(sync);
    if records > 0 {
        put_long(&mut out, records as i64);
        put_long(&mut out, content.len() as i64);
        out.extend_from_slice(content);
        out.extend_from_slice(sync);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::{put_bytes, text, walk};
    use super::*;

    const SCHEMA: &str = r#"{"type":"record","name":"r","fields":[{"name":"p","type":"string","field-id":1,"odd":"kept"},{"name":"n","type":"long"}]}"#;

    fn file(codec: &str, blocks: &[&[&str]]) -> Vec<u8> {
        let mut out = container(SCHEMA, &[("own", "kept")], 0, b"");
        let name = out.windows(4).position(|w| w == b"null").unwrap();
        out[name - 1] = (codec.len() * 2) as u8;
        out.splice(name..name + 4, codec.bytes());
        let sync = out[out.len() - SYNC_BYTES..].to_vec();
        for block in blocks {
            let mut content = Vec::new();
            for value in *block {
                put_bytes(&mut content, value.as_bytes());
                put_long(&mut content, 42);
            }
            let packed = Codec::by_name(Some(codec.as_bytes())).unwrap().compress(content).unwrap();
            put_long(&mut out, block.len() as i64);
            put_long(&mut out, packed.len() as i64);
            out.extend_from_slice(&packed);
            out.extend_from_slice(&sync);
        }
        out
    }

    fn values(bytes: &[u8]) -> Result<Vec<String>, AvroError> {
        let file = Container::parse(bytes)?;
        let mut out = Vec::new();
        file.records(|content, at| {
            walk(&file.schema, file.schema.root(), content, at, |field, item| {
                if field.id == Some(1) {
                    out.push(text(&file.schema, &item, content)?.to_owned());
                }
                Ok(())
            })
        })?;
        Ok(out)
    }

    #[test]
    fn a_rewrite_changes_what_it_is_told_to_and_nothing_else() {
        for codec in ["null", "deflate", "snappy", "zstandard"] {
            let bytes = file(codec, &[&["a", "bb"], &["ccc"]]);
            let container = Container::parse(&bytes).unwrap();
            assert_eq!(container.meta("own"), Some(&b"kept"[..]));
            let out = container
                .rewrite(|content, at, edits| {
                    walk(&container.schema, container.schema.root(), content, at, |field, item| {
                        if field.id == Some(1) {
                            let mut by = Vec::new();
                            put_bytes(
                                &mut by,
                                format!("<{}>", text(&container.schema, &item, content)?).as_bytes(),
                            );
                            edits.replace(item.range, by);
                        }
                        Ok(())
                    })
                })
                .unwrap();
            assert_eq!(values(&out).unwrap(), ["<a>", "<bb>", "<ccc>"], "{codec}");
            assert!(out.starts_with(&bytes[..container.body]), "{codec}");
            assert_eq!(out, file(codec, &[&["<a>", "<bb>", "<ccc>"]]), "{codec}");
        }
    }

    /// As PyIceberg writes them: a block for each record.
    #[test]
    fn small_blocks_become_larger_ones_and_large_ones_stay() {
        let small = ["x".repeat(1 << 10), "y".repeat(1 << 10)];
        let large = "z".repeat(BLOCK_BYTES);
        let mut blocks: Vec<&[&str]> = Vec::new();
        let (one, other, big) = ([&*small[0]], [&*small[1]], [&*large]);
        for _ in 0..100 {
            blocks.extend([&one[..], &other[..]]);
        }
        blocks.extend([&big[..], &big[..], &[][..], &one[..]]);
        for codec in ["null", "deflate", "snappy", "zstandard"] {
            let bytes = file(codec, &blocks);
            let container = Container::parse(&bytes).unwrap();
            let end = |content: &[u8], at| {
                walk(&container.schema, container.schema.root(), content, at, |_, _| Ok(()))
            };
            let out = container.rewrite(|content, at, _| end(content, at)).unwrap();
            assert_eq!(values(&out).unwrap(), values(&bytes).unwrap(), "{codec}");
            let mut found = Vec::new();
            Container::parse(&out)
                .unwrap()
                .blocks(|count, content| {
                    found.push((count, content.len()));
                    Ok(())
                })
                .unwrap();
            // 3 full ones of 64, the rest with the first large one, the second large one, the last.
            let counts: Vec<u64> = found.iter().map(|(count, _)| *count).collect();
            assert_eq!(counts, [64, 64, 64, 9, 1, 1], "{codec}");
            assert!(found.iter().rev().skip(1).all(|(_, bytes)| *bytes >= BLOCK_BYTES), "{codec}");
        }
    }

    #[test]
    fn damage_is_an_error() {
        let bytes = file("deflate", &[&["a", "bb"], &["ccc"]]);
        let body = Container::parse(&bytes).unwrap().body;
        let blocks_end: Vec<usize> = {
            let mut at = body;
            let mut ends = vec![body];
            while at < bytes.len() {
                number(&bytes, &mut at).unwrap();
                sized(&bytes, &mut at).unwrap();
                at += SYNC_BYTES;
                ends.push(at);
            }
            ends
        };
        for cut in 0..bytes.len() {
            if !blocks_end.contains(&cut) {
                assert!(values(&bytes[..cut]).is_err(), "cut at {cut}");
            }
        }
        let mut more = bytes;
        more[body] = 6; // three records where there are two
        assert!(values(&more).is_err());
    }
}
