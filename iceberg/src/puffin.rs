//! Puffin files of deletion vectors: their footer names the data files that the vectors are for.
//!
//! ```text
//!  "PFA1"  blobs …  "PFA1"  footer (JSON)  its size: 4 bytes  flags: 4 bytes  "PFA1"
//! ```
//!
//! The blobs stay where they are, so that the offsets in manifests hold; only the footer changes.
use crate::document::Object;
use crate::error::TableError;

const MAGIC: &[u8; 4] = b"PFA1";
/// The footer's first magic, and what follows its JSON.
const FRAME_BYTES: usize = 4 + 4 + 4 + 4;
/// The flag of a compressed footer.
const COMPRESSED: u8 = 1;
const REFERENCED: &str = "referenced-data-file";
/// The most blobs of a file.
const BLOBS_MAX: usize = 1 << 20;

/// The same file, the data files in its footer mapped by `map`. `name` is for the errors.
pub fn rewrite_puffin(
    bytes: &[u8],
    name: &str,
    mut map: impl FnMut(&str) -> Result<String, String>,
) -> Result<Vec<u8>, TableError> {
    let fault = |why: &str| TableError::malformed(format!("Puffin file {name}"), why);
    let (blobs, json) = split(bytes).ok_or_else(|| fault("it does not end in a footer"))?;
    if json.flags[0] & COMPRESSED != 0 {
        return Err(TableError::Unsupported {
            what: format!("Puffin file {name}: a compressed footer"),
            advice: "no writer is known to make one; compact the deletes of the table",
        });
    }
    let mut footer: Object = serde_json::from_slice(json.text).map_err(|error| fault(&error.to_string()))?;
    let mut entries: Vec<Object> = footer.need("blobs").map_err(|why| fault(&why))?;
    if entries.len() > BLOBS_MAX {
        return Err(fault("it has too many blobs"));
    }
    for entry in &mut entries {
        change(entry, &mut map).map_err(|why| fault(&why))?;
    }
    footer.set("blobs", &entries).map_err(|why| fault(&why))?;
    let text = serde_json::to_vec(&footer).map_err(|error| fault(&error.to_string()))?;
    let length = u32::try_from(text.len()).map_err(|_| fault("its footer is too long"))?;
    let mut out = Vec::with_capacity(blobs.len() + text.len() + FRAME_BYTES);
    out.extend_from_slice(blobs);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&text);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&json.flags);
    out.extend_from_slice(MAGIC);
    Ok(out)
}

fn change(entry: &mut Object, map: &mut impl FnMut(&str) -> Result<String, String>) -> Result<(), String> {
    let Some(mut properties) = entry.get::<Object>("properties")? else { return Ok(()) };
    let Some(file) = properties.get::<String>(REFERENCED)? else { return Ok(()) };
    properties.set(REFERENCED, &map(&file)?)?;
    entry.set("properties", &properties)
}

struct Footer<'a> {
    text: &'a [u8],
    flags: [u8; 4],
}

/// The bytes before the footer, and the footer.
fn split(bytes: &[u8]) -> Option<(&[u8], Footer<'_>)> {
    let rest = bytes.strip_suffix(MAGIC)?;
    let (rest, flags) = rest.split_last_chunk::<4>()?;
    let (rest, length) = rest.split_last_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (rest, text) = rest.split_at_checked(rest.len().checked_sub(length)?)?;
    let blobs = rest.strip_suffix(MAGIC)?;
    blobs.starts_with(MAGIC).then_some((blobs, Footer { text, flags: *flags }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(json: &str, flags: [u8; 4]) -> Vec<u8> {
        let mut out = b"PFA1some blobPFA1".to_vec();
        out.extend_from_slice(json.as_bytes());
        out.extend_from_slice(&(json.len() as u32).to_le_bytes());
        out.extend_from_slice(&flags);
        out.extend_from_slice(b"PFA1");
        out
    }

    #[test]
    fn the_footer_changes_and_the_blobs_do_not() {
        let json = r#"{"blobs":[{"type":"deletion-vector-v1","snapshot-id":-1,"offset":4,"length":9,"properties":{"referenced-data-file":"s3://b/x","cardinality":"2"}},{"type":"other","offset":4,"length":9}],"properties":{"created-by":"me"}}"#;
        let out = rewrite_puffin(&file(json, [0; 4]), "p", |path| Ok(format!("<{path}>"))).unwrap();
        assert_eq!(out, file(&json.replace("s3://b/x", "<s3://b/x>"), [0; 4]));
    }

    #[test]
    fn what_is_no_puffin_file_is_refused() {
        let good = file(r#"{"blobs":[]}"#, [0; 4]);
        let keep = |path: &str| Ok(path.to_owned());
        assert!(rewrite_puffin(&good, "p", keep).is_ok());
        for cut in 0..good.len() {
            assert!(rewrite_puffin(&good[..cut], "p", keep).is_err(), "cut at {cut}");
        }
        let mut long = good;
        let at = long.len() - 12;
        long[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(rewrite_puffin(&long, "p", keep).is_err());
        let packed = file(r#"{"blobs":[]}"#, [1, 0, 0, 0]);
        assert!(matches!(rewrite_puffin(&packed, "p", keep), Err(TableError::Unsupported { .. })));
        assert!(rewrite_puffin(&file("{}", [0; 4]), "p", keep).is_err());
    }
}
