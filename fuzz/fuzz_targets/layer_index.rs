//! The end of a layer of any bytes is refused or understood, without a panic and within its bounds; and
//! where it is understood each entry can be read alone and is the one that its row says.
#![no_main]
use icecache::layer::table::{self, Counts};
use icecache::layer::{LayerIndex, LayerReader, Row, frame};
use libfuzzer_sys::fuzz_target;

/// The most frames of a stream that is only claimed: a row costs no more than the stream is long.
const FRAMES_MAX: u64 = 16;

/// All rows, checked as a user of them relies on it.
fn rows(tail: &[u8], layer_bytes: u64) -> Option<(LayerIndex, Vec<Row>)> {
    let (index, contents) = LayerIndex::read(tail, layer_bytes).ok()?;
    let rows: Vec<Row> = contents.collect::<Result<_, _>>().ok()?;
    assert_eq!(rows.len() as u64, index.entries());
    let mut at = 0;
    for row in &rows {
        assert_eq!(row.offset, at);
        at = row.span().end;
        let range = index.range(row.span());
        assert!(!range.is_empty() && range.end <= layer_bytes - tail.len() as u64);
    }
    assert!(at < index.raw_bytes());
    Some((index, rows))
}

/// A whole layer: what its rows say, against what its stream does.
fn whole(layer: &[u8]) {
    let Ok(tail) = LayerIndex::tail_bytes(layer) else { return };
    let Some(start) = usize::try_from(tail).ok().and_then(|tail| layer.len().checked_sub(tail)) else {
        return;
    };
    let Some((index, rows)) = rows(&layer[start..], layer.len() as u64) else { return };
    for row in rows {
        let range = index.range(row.span());
        let source = &layer[range.start as usize..range.end as usize];
        let Ok(mut reader) = LayerReader::section(source, &index, row.span()) else { continue };
        if let Ok(Some(entry)) = reader.next_entry() {
            // A digest holds, so the bytes are those of a writer; only that one knew both.
            assert_eq!(entry, row.entry);
        }
    }
}

/// A zstd frame with these bytes as they are: its size in four bytes, one raw block.
fn stored(raw: &[u8]) -> Vec<u8> {
    let block = (raw.len() as u32) << 3 | 1;
    let head =
        [&[0x28, 0xB5, 0x2F, 0xFD, 0xA0][..], &(raw.len() as u32).to_le_bytes(), &block.to_le_bytes()[..3]];
    [&head.concat(), raw].concat()
}

/// The rows of one piece behind a table that holds, so that they are reached.
fn sealed(data: &[u8]) {
    let Some((claimed, raw)) = data.split_first_chunk::<4>() else { return };
    if raw.len() < 16 || raw.len() > 64 << 10 {
        return;
    }
    let claimed = u64::from(u32::from_le_bytes(*claimed));
    let raw_bytes = 1024 + 512 * (claimed % (FRAMES_MAX << 11));
    let frames = raw_bytes.div_ceil(1 << 20);
    let entries = u64::from(raw[8]) | u64::from(raw[9]) << 8;
    let payload = stored(raw);
    let piece = [&0x184D_2A52u32.to_le_bytes()[..], &(payload.len() as u32).to_le_bytes(), &payload].concat();
    let mut list = Vec::new();
    for n in 0..frames {
        list.extend(table::row(9, (raw_bytes - (n << 20)).min(1 << 20) as u32, &[0; 32]));
    }
    list.extend(table::row(piece.len() as u32, raw.len() as u32, blake3::hash(&piece).as_bytes()));
    let counts = Counts { frames, entries, raw_bytes, pieces: 1, contents_bytes: piece.len() as u64 };
    let mut hasher = blake3::Hasher::new();
    hasher.update(&list);
    let header = table::header(frame::VERSION, counts).expect("few frames");
    let tail = [&piece[..], &header, &list, &table::footer(frame::VERSION, counts, &hasher)].concat();
    let layer_bytes = frame::PREAMBLE_BYTES as u64 + 9 * frames + tail.len() as u64;
    assert!(LayerIndex::read(&tail, layer_bytes).is_ok(), "the table itself holds");
    rows(&tail, layer_bytes);
}

fuzz_target!(|data: &[u8]| {
    whole(data);
    rows(data, data.len() as u64 + frame::PREAMBLE_BYTES as u64);
    sealed(data);
});
