//! [`Container`]: an object container file.
#[cfg(test)]
mod tests;

use super::cursor::{number, put_long, sized};
use super::{AvroError, Codec, Schema};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const MAGIC: &[u8; 4] = b"Obj\x01";
const SYNC_BYTES: usize = 16;
/// The most content of one block. Writers begin a new one after 64 KiB or so.
const BLOCK_MAX_BYTES: usize = 256 << 20;
/// What is written anew has blocks of at least so much content, but for the last: PyIceberg makes one for each record,
/// which takes its readers ten times as long.
const BLOCK_BYTES: usize = 64 << 10;
/// What one processor gets of a file has so many bytes before it is decompressed, but for the last: enough to be worth
/// the way to another one, and so little that all have something to do.
const RUN_BYTES: usize = 128 << 10;
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

/// Blocks that follow each other.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// Where in the file they lie.
    bytes: Range<usize>,
    /// How many records they count.
    pub records: u64,
}

/// How much content of one file may still be decompressed, whoever does it.
#[derive(Debug)]
pub(crate) struct Room(AtomicUsize);

impl Default for Room {
    fn default() -> Self {
        Self(AtomicUsize::new(CONTENT_MAX_BYTES))
    }
}

impl Room {
    fn left(&self) -> usize {
        self.0.load(Relaxed)
    }

    fn take(&self, bytes: usize) -> Result<(), AvroError> {
        let taken = self.0.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes));
        taken.map(drop).map_err(|_| AvroError::TooLarge { limit: CONTENT_MAX_BYTES })
    }
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

    /// What stands before the blocks.
    pub fn head(&self) -> &'a [u8] {
        &self.bytes[..self.body]
    }

    /// All blocks.
    fn whole(&self) -> Run {
        Run { bytes: self.body..self.bytes.len(), records: 0 }
    }

    /// The blocks in parts that can be looked at beside each other. Where one ends is up to the file alone, and not to who
    /// looks at it: what is made of the parts is the same on every machine.
    pub fn runs(&self) -> Result<Vec<Run>, AvroError> {
        let (mut runs, mut at) = (Vec::new(), self.body);
        let mut run = Run { bytes: at..at, records: 0 };
        while at < self.bytes.len() {
            let (records, _) = self.block(&mut at)?;
            run.records = run.records.saturating_add(records);
            run.bytes.end = at;
            if run.bytes.len() >= RUN_BYTES {
                runs.push(std::mem::replace(&mut run, Run { bytes: at..at, records: 0 }));
            }
        }
        if !run.bytes.is_empty() {
            runs.push(run);
        }
        Ok(runs)
    }

    /// Goes through the records: `each` is told the content of the block and where in it the record begins, and
    /// returns where it ends.
    pub fn records(
        &self,
        each: impl FnMut(&[u8], usize) -> Result<usize, AvroError>,
    ) -> Result<(), AvroError> {
        self.records_of(&self.whole(), &Room::default(), each)
    }

    /// The same for a part. `room` is that of the file.
    pub fn records_of<E: From<AvroError>>(
        &self,
        run: &Run,
        room: &Room,
        mut each: impl FnMut(&[u8], usize) -> Result<usize, E>,
    ) -> Result<(), E> {
        self.blocks(run, room, |count, content| {
            let mut at = 0;
            for _ in 0..count {
                at = each(content, at)?;
            }
            Ok(finished(at, content)?)
        })
    }

    /// The same file with changes: `each` goes through a record as in [`records`](Self::records), and says what
    /// to replace. Header, order and codec stay; small blocks become larger ones.
    pub fn rewrite(
        &self,
        each: impl FnMut(&[u8], usize, &mut Edits) -> Result<usize, AvroError>,
    ) -> Result<Vec<u8>, AvroError> {
        let blocks = self.rewrite_run(&self.whole(), &Room::default(), each)?;
        Ok([self.head(), &blocks].concat())
    }

    /// The blocks of a part with changes. [`head`](Self::head) and what becomes of all parts are the file.
    pub fn rewrite_run<E: From<AvroError>>(
        &self,
        run: &Run,
        room: &Room,
        mut each: impl FnMut(&[u8], usize, &mut Edits) -> Result<usize, E>,
    ) -> Result<Vec<u8>, E> {
        let mut out = Vec::with_capacity(run.bytes.len());
        let mut edits = Edits::default();
        let (mut gathered, mut records) = (Vec::new(), 0);
        self.blocks(run, room, |count, content| {
            let mut at = 0;
            for _ in 0..count {
                at = each(content, at, &mut edits)?;
            }
            finished(at, content)?;
            edits.apply(content, &mut gathered)?;
            records += count;
            if gathered.len() >= BLOCK_BYTES {
                self.put_block(&mut out, std::mem::take(&mut records), std::mem::take(&mut gathered))?;
            }
            Ok::<_, E>(())
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

    fn blocks<E: From<AvroError>>(
        &self,
        run: &Run,
        room: &Room,
        mut each: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut at = run.bytes.start;
        let mut decoder = self.codec.decoder();
        let mut content = Vec::new();
        while at < run.bytes.end {
            let (count, block) = self.block(&mut at)?;
            decoder.decompress(&self.bytes[block], room.left().min(BLOCK_MAX_BYTES), &mut content)?;
            room.take(content.len())?;
            // No record of Iceberg is without bytes.
            if count > content.len() as u64 {
                return Err(AvroError::Malformed("block counts more records than it can hold").into());
            }
            each(count, &content)?;
        }
        Ok(())
    }

    /// The block that begins at `at`, and moves that past it: how many records it has, and where they are.
    fn block(&self, at: &mut usize) -> Result<(u64, Range<usize>), AvroError> {
        let count = u64::try_from(number(self.bytes, at)?)
            .map_err(|_| AvroError::Malformed("block has a negative count"))?;
        let block = sized(self.bytes, at)?;
        if self.bytes.get(*at..*at + SYNC_BYTES) != Some(self.sync) {
            return Err(AvroError::Malformed("block does not end in the mark of the file"));
        }
        *at += SYNC_BYTES;
        Ok((count, block))
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
