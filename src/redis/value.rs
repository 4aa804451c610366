//! The bytes of a value: a header, a checksum, and a chunk of a block, compressed if that pays. docs/FORMAT.md
//! has the table.
use crate::cache::codec::{Fields, Malformed};
use zstd::zstd_safe::{CCtx, DCtx};

/// First bytes of a value.
pub const MAGIC: &[u8; 8] = b"ICEVALUE";
/// The version written and understood; it is part of every key.
pub const VERSION: u32 = 1;
/// What comes before the chunk, in bytes.
pub const HEADER_BYTES: usize = 49;

/// The chunk as it is.
const PLAIN: u8 = 0;
/// One zstd frame.
const ZSTD: u8 = 1;
/// Every machine that reads a block decompresses it, and the network is quick: the fastest level that is one.
const LEVEL: i32 = 1;
/// Compression pays if at least an eighth is saved; less is not worth the time of all who read.
const PAYS: (usize, usize) = (7, 8);

/// The value of a chunk under this key. At most [`HEADER_BYTES`] longer than the chunk.
pub fn encode(key: &str, chunk: &[u8], compress: bool) -> Vec<u8> {
    let packed = if compress { pack(chunk) } else { None };
    let (encoding, payload) = packed.as_deref().map_or((PLAIN, chunk), |packed| (ZSTD, packed));
    let mut value = Vec::with_capacity(HEADER_BYTES + payload.len());
    value.extend_from_slice(MAGIC);
    value.extend_from_slice(&VERSION.to_le_bytes());
    value.push(encoding);
    value.extend_from_slice(&(chunk.len() as u32).to_le_bytes());
    let sum = checksum(key, &value, payload);
    value.extend_from_slice(&sum);
    value.extend_from_slice(payload);
    value
}

/// Appends the chunk of a value to `out`. The chunk must have `length` bytes; nothing is appended if anything
/// is wrong.
pub fn decode(key: &str, value: &[u8], length: usize, out: &mut Vec<u8>) -> Result<(), Malformed> {
    let mut fields = Fields(value);
    if &fields.array::<8>()? != MAGIC {
        return Err(Malformed("its magic is not ours"));
    }
    if fields.u32()? != VERSION {
        return Err(Malformed("its version is not known"));
    }
    let [encoding] = fields.array()?;
    let promised = fields.u32()? as usize;
    let header = &value[..value.len() - fields.0.len()];
    let sum: [u8; 32] = fields.array()?;
    let payload = fields.0;
    if sum != checksum(key, header, payload) {
        return Err(Malformed("its checksum is wrong"));
    }
    if promised != length {
        return Err(Malformed("it is of another length"));
    }
    match encoding {
        PLAIN if payload.len() == length => out.extend_from_slice(payload),
        PLAIN => return Err(Malformed("it is of another length")),
        ZSTD => {
            let start = out.len();
            let unpacked = unpack(payload, length, out);
            if unpacked.is_err() {
                out.truncate(start);
            }
            unpacked?;
        }
        _ => return Err(Malformed("its encoding is not known")),
    }
    Ok(())
}

/// BLAKE3 of the key with its length before it, the header and the payload: a value under another key is wrong.
fn checksum(key: &str, header: &[u8], payload: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u32).to_le_bytes()).update(key.as_bytes()).update(header).update(payload);
    *hasher.finalize().as_bytes()
}

/// The chunk compressed, if that pays.
fn pack(chunk: &[u8]) -> Option<Vec<u8>> {
    // Whoever does not fit into this room does not pay.
    let mut packed = Vec::with_capacity(chunk.len() / PAYS.1 * PAYS.0);
    CCtx::create().compress(&mut packed, chunk, LEVEL).ok()?;
    Some(packed)
}

fn unpack(payload: &[u8], length: usize, out: &mut Vec<u8>) -> Result<(), Malformed> {
    let mut chunk = Vec::with_capacity(length);
    let written = DCtx::create().decompress(&mut chunk, payload);
    if written.is_err() || chunk.len() != length {
        return Err(Malformed("it does not decompress"));
    }
    out.extend_from_slice(&chunk);
    Ok(())
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    fn decoded(key: &str, value: &[u8], length: usize) -> Result<Vec<u8>, Malformed> {
        let mut out = b"before".to_vec();
        let result = decode(key, value, length, &mut out);
        assert!(out.starts_with(b"before") && (result.is_ok() || out.len() == 6));
        result.map(|()| out.split_off(6))
    }

    #[test]
    fn a_value_is_these_bytes() {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        // Magic, version, encoding and length; checksum; the chunk.
        let golden = [
            "49434556414c5545010000000007000000",
            "5e439e3aa5abc87684248d80225c20a5990538ddcdd880f63e7fbaeb13befd20",
            "61206368756e6b",
        ];
        assert_eq!(hex(&encode("icecache:1:{k}:0", b"a chunk", true)), golden.concat());
    }

    #[test]
    fn what_goes_in_comes_out_and_is_compressed_only_if_that_pays() {
        let text = b"the same again and again; ".repeat(1000);
        let noise = noise(26_000);
        for (chunk, compress, smaller) in
            [(&text, true, true), (&text, false, false), (&noise, true, false), (&Vec::new(), true, false)]
        {
            let value = encode("key", chunk, compress);
            assert_eq!(value.len() < chunk.len(), smaller);
            assert!(value.len() <= chunk.len() + HEADER_BYTES);
            assert_eq!(decoded("key", &value, chunk.len()).as_ref(), Ok(chunk));
        }
    }

    #[test]
    fn what_is_not_right_is_refused() {
        let chunk = b"the same again and again; ".repeat(10);
        let value = encode("key", &chunk, true);
        assert_eq!(decoded("another", &value, chunk.len()), Err(Malformed("its checksum is wrong")));
        assert_eq!(decoded("key", &value, chunk.len() + 1), Err(Malformed("it is of another length")));
        for at in 0..value.len() {
            let mut flipped = value.clone();
            flipped[at] ^= 1;
            assert!(decoded("key", &flipped, chunk.len()).is_err(), "byte {at}");
            assert!(decoded("key", &value[..at], chunk.len()).is_err(), "cut at {at}");
        }
        // With a checksum that holds: what it promises is not true.
        let sealed = |encoding: u8, length: u32, payload: &[u8]| {
            let mut value = [&MAGIC[..], &VERSION.to_le_bytes(), &[encoding], &length.to_le_bytes()].concat();
            let sum = checksum("key", &value, payload);
            value.extend_from_slice(&sum);
            value.extend_from_slice(payload);
            value
        };
        let packed = pack(&chunk).expect("it pays");
        assert!(decoded("key", &sealed(PLAIN, 5, b"four"), 5).is_err());
        assert!(decoded("key", &sealed(ZSTD, 10, &packed), 10).is_err(), "longer than it promises");
        assert!(decoded("key", &sealed(ZSTD, 1000, &packed), 1000).is_err(), "shorter than it promises");
        assert!(decoded("key", &sealed(ZSTD, 4, b"none"), 4).is_err());
        assert!(decoded("key", &sealed(2, 4, b"none"), 4).is_err());
    }
}
