//! [`locate`]: where in an entry of a layer the content of its file stands.
use super::tar::{BLOCK, Decoder, Dialect, SparseMap};
use super::{Kind, LayerError, References};

/// Where the content of a file stands within its entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Which parts of the file there are; they follow each other in the stream.
    pub map: SparseMap,
    /// Bytes of the entry before the first of them: headers and sparse map.
    pub headers: u64,
    /// The parts that stand in other layers.
    pub refs: References,
}

/// Reads the headers of an entry. `bytes` are those of the tar stream from where the entry begins; `None`
/// if they end within the headers.
///
/// # Errors
/// What is wrong with the headers.
pub fn locate(bytes: &[u8]) -> Result<Option<Located>, LayerError> {
    let mut left = bytes;
    match Decoder::new(Dialect::Layer).next(&mut left) {
        Ok(Some(decoded)) => {
            let headers = (bytes.len() - left.len()) as u64;
            debug_assert!(headers.is_multiple_of(BLOCK as u64));
            let refs = match decoded.entry.kind {
                Kind::File { refs, .. } => refs,
                _ => References::none(),
            };
            Ok(Some(Located { map: decoded.map, headers, refs }))
        }
        Ok(None) => Err(LayerError::corrupt("no entry stands where the contents say")),
        Err(LayerError::Truncated { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use crate::layer::tar::Extent;
    use crate::layer::{Entry, LayerIndex, LayerReader, LayerWriter, Metadata, PackOptions};
    use crate::path::RelPath;
    use std::io::Read;
    use std::os::unix::fs::FileExt;

    /// A layer with one file of `size` bytes that has data at these places only.
    fn layer(size: u64, data: &[(u64, &[u8])]) -> Vec<u8> {
        let file = tempfile::tempfile().expect("file");
        for (at, bytes) in data {
            file.write_all_at(bytes, *at).expect("write");
        }
        file.set_len(size).expect("length");
        let mut writer = LayerWriter::new(Vec::new(), PackOptions::default());
        let meta = Metadata {
            mode: 0o600,
            xattrs: vec![(b"user.long".to_vec(), vec![b'x'; 3000])],
            ..Metadata::default()
        };
        let path = RelPath::new("a/file").expect("path");
        let entry = Entry { path, kind: Kind::File { size, fuzzy: false, refs: References::none() }, meta };
        writer.append(&entry, Some(&file)).expect("append");
        writer.finish().expect("finish").0
    }

    fn stream(layer: &[u8]) -> (Vec<u8>, LayerIndex) {
        let end = &layer[layer.len() - crate::layer::table::FOOTER_BYTES..];
        let tail = LayerIndex::tail_bytes(end).expect("tail") as usize;
        let (index, _) = LayerIndex::read(&layer[layer.len() - tail..], layer.len() as u64).expect("index");
        let mut raw = Vec::new();
        for frame in index.covering(&(0..index.raw_bytes())) {
            let stored = index.stored(frame..frame + 1);
            let content = index.unpack(frame, &layer[stored.start as usize..stored.end as usize], None);
            let content = content.expect("frame");
            assert_eq!(index.span_of(frame).start, raw.len() as u64);
            raw.extend(content);
            assert_eq!(index.span_of(frame).end, raw.len() as u64);
        }
        (raw, index)
    }

    #[test]
    fn content_is_found_and_headers_cut_short_are_told() {
        let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n >> 5) as u8).collect();
        for (size, data) in [
            (3_000_000, vec![(0, &bytes[..])]),
            (9_000_000, vec![(4096, &bytes[..8192]), (8_192_000, &bytes[100..4196])]),
            (5_000_000, vec![]),
        ] {
            let layer = layer(size, &data);
            let (raw, _) = stream(&layer);
            let found = locate(&raw).expect("located").expect("whole");
            assert_eq!(found.map.size, size);
            let mut file = vec![0; size as usize];
            let mut at = found.headers as usize;
            for Extent { offset, len } in &found.map.extents {
                file[*offset as usize..(offset + len) as usize].copy_from_slice(&raw[at..at + *len as usize]);
                at += *len as usize;
            }
            let mut expected = vec![0; size as usize];
            for (at, bytes) in &data {
                expected[*at as usize..*at as usize + bytes.len()].copy_from_slice(bytes);
            }
            assert!(file == expected, "another content at the places of {size}");
            for end in (0..found.headers as usize).step_by(100) {
                assert_eq!(locate(&raw[..end]).expect("headers cut short"), None, "{end}");
            }
            let mut reader = LayerReader::new(&layer[..]).expect("reader");
            assert!(reader.next_entry().expect("entry").is_some());
            let mut content = Vec::new();
            reader.read_content(&mut content, u64::MAX).expect("content");
            assert!(content == expected);
        }
    }

    #[test]
    fn another_frame_than_that_of_the_index_is_refused() {
        let bytes: Vec<u8> = (0..4_000_000u32).map(|n| n.wrapping_mul(2_654_435_761) as u8).collect();
        let layer = layer(4_000_000, &[(0, &bytes)]);
        let (_, index) = stream(&layer);
        let stored = index.stored(1..2);
        let mut frame = Vec::new();
        let range = stored.start as usize..stored.end as usize;
        (&layer[range]).read_to_end(&mut frame).expect("frame");
        assert!(index.unpack(1, &frame, None).is_ok());
        assert!(index.unpack(0, &frame, None).is_err() && index.unpack(1 << 40, &frame, None).is_err());
        frame[20] ^= 1;
        assert!(index.unpack(1, &frame, None).is_err());
    }
}
