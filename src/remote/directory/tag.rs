//! Tags of objects that are files.
use super::super::{RemoteError, Tag, body};
use super::failed;
use bytes::Bytes;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Up to this size a tag is a hash of the content.
pub const HASHED_MAX_BYTES: u64 = 1 << 20;

fn tag_by_identity(meta: &Metadata) -> Tag {
    let (size, ino) = (meta.size(), meta.ino());
    let (mtime, changed) = ((meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()));
    Tag(format!("f{size:x}-{ino:x}-{:x}.{:09}-{:x}.{:09}", mtime.0, mtime.1, changed.0, changed.1))
}

pub(super) fn tag_by_content(bytes: &[u8]) -> Tag {
    Tag(format!("b{}", blake3::hash(bytes).to_hex()))
}

/// The tag of an open file, and its bytes if they had to be read for it.
pub(super) fn identify(file: &File, path: &Path) -> Result<(Tag, u64, Option<Bytes>), RemoteError> {
    let meta = file.metadata().map_err(|e| failed("look at", path, &e))?;
    if !meta.is_file() {
        let message = format!("not an object but a directory or special file: {}", path.display());
        return Err(RemoteError::Refused { message });
    }
    if meta.len() > HASHED_MAX_BYTES {
        return Ok((tag_by_identity(&meta), meta.len(), None));
    }
    let bytes = read_all(file, meta.len(), path)?;
    Ok((tag_by_content(&bytes), bytes.len() as u64, Some(bytes)))
}

/// Reads a file whose bytes never change (it is only ever replaced).
pub(super) fn read_all(mut file: &File, length: u64, path: &Path) -> Result<Bytes, RemoteError> {
    let mut bytes = Vec::with_capacity(length as usize);
    file.read_to_end(&mut bytes).map_err(|e| failed("read", path, &e))?;
    if bytes.len() as u64 != length {
        return Err(body::cut_short(&path.display().to_string(), bytes.len() as u64, length));
    }
    Ok(bytes.into())
}
