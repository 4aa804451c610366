//! Streams as writers compress them.
use crate::orc::codec::Codec;
use crate::orc::stream::Layout;
use std::io::Write;

/// A chunk of this content, without its header.
pub(in crate::orc) fn compress(codec: Codec, content: &[u8]) -> Vec<u8> {
    match codec {
        Codec::None => content.to_vec(),
        Codec::Zlib => {
            let mut out = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
            out.write_all(content).unwrap();
            out.finish().unwrap()
        }
        Codec::Snappy => snap::raw::Encoder::new().compress_vec(content).unwrap(),
        Codec::Lz4 => lz4_flex::block::compress(content),
        Codec::Zstd => zstd::encode_all(content, 1).unwrap(),
    }
}

/// A stream of this content. Chunks that do not become smaller stay as they are, as writers do it.
pub(in crate::orc) fn chunked(layout: Layout, content: &[u8]) -> Vec<u8> {
    if layout.codec == Codec::None {
        return content.to_vec();
    }
    let mut out = Vec::new();
    for chunk in content.chunks(layout.chunk) {
        let packed = compress(layout.codec, chunk);
        let (bytes, original) = if packed.len() < chunk.len() { (&packed[..], 0) } else { (chunk, 1) };
        out.extend_from_slice(&((bytes.len() as u32) << 1 | original).to_le_bytes()[..3]);
        out.extend_from_slice(bytes);
    }
    out
}
