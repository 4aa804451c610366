//! From an [`Entry`] to its headers.
use super::header::octal_max;
use super::pax::time_to_text;
use super::{BLOCK, COMMENT, FUZZY_RECORD, Header, Pax, REFERENCES_RECORD, SparseMap, TypeFlag};
use super::{PAX_BYTES_MAX, WHITEOUT_PREFIX, WHITEOUT_RECORD};
use crate::layer::{Entry, Kind, LayerError, Metadata};
use crate::path::{NAME_MAX_BYTES, RelPath};

/// Everything that stands before the data of `entry`: extended header, header, sparse map.
/// `map` is given for regular files.
pub(crate) fn encode(entry: &Entry, map: Option<&SparseMap>) -> Result<Vec<u8>, LayerError> {
    let mut pax = Pax::default();
    let mut sparse = None;
    let whiteout;
    let (meta, empty) = (&entry.meta, Metadata { mode: 0o644, ..Metadata::default() });
    let (header, meta) = match &entry.kind {
        Kind::File { size, fuzzy, refs } => {
            let mut h = Header::new(TypeFlag::FILE);
            h.name = name_of(entry, false)?;
            h.size = *size;
            if *fuzzy {
                pax.push(COMMENT, FUZZY_RECORD);
            }
            if !refs.is_empty() {
                let mut record = REFERENCES_RECORD.to_vec();
                record.extend(refs.encode().iter().flat_map(|b| hex(*b)));
                pax.push(COMMENT, record);
            }
            if let Some(map) = map.filter(|m| !m.is_dense()) {
                let bytes = map.encode();
                pax.push(*b"GNU.sparse.major", *b"1");
                pax.push(*b"GNU.sparse.minor", *b"0");
                pax.push(*b"GNU.sparse.name", h.name.as_slice());
                pax.push(*b"GNU.sparse.realsize", size.to_string());
                h.size = bytes.len() as u64 + map.data_len();
                h.name = b"GNUSparseFile.0/".to_vec();
                h.name.extend(entry.path.name().unwrap_or_default().iter().take(80));
                sparse = Some(bytes);
            }
            (h, meta)
        }
        Kind::Directory => {
            let mut h = Header::new(TypeFlag::DIRECTORY);
            h.name = name_of(entry, true)?;
            (h, meta)
        }
        Kind::Symlink { target } => {
            if target.is_empty() || target.contains(&0) {
                return Err(LayerError::unstorable("symlink target is empty or has a NUL", &entry.path));
            }
            let mut h = Header::new(TypeFlag::SYMLINK);
            h.name = name_of(entry, false)?;
            h.link.clone_from(target);
            (h, meta)
        }
        Kind::HardLink { target } => {
            if target.is_root() {
                return Err(LayerError::unstorable("hard link to the root", &entry.path));
            }
            let mut h = Header::new(TypeFlag::HARD_LINK);
            h.name = name_of(entry, false)?;
            h.link = target.as_bytes().to_vec();
            (h, &empty)
        }
        Kind::Fifo => {
            let mut h = Header::new(TypeFlag::FIFO);
            h.name = name_of(entry, false)?;
            (h, meta)
        }
        Kind::CharDevice { rdev } | Kind::BlockDevice { rdev } => {
            let char = matches!(entry.kind, Kind::CharDevice { .. });
            let mut h = Header::new(if char { TypeFlag::CHAR_DEVICE } else { TypeFlag::BLOCK_DEVICE });
            h.name = name_of(entry, false)?;
            h.rdev = *rdev;
            if u64::from(rdev.0.max(rdev.1)) > octal_max(8) {
                return Err(LayerError::unstorable("device number is too large", &entry.path));
            }
            (h, meta)
        }
        Kind::Whiteout => {
            name_of(entry, false)?;
            let name = entry.path.name().unwrap_or_default();
            whiteout = [WHITEOUT_RECORD, name].concat();
            pax.push(COMMENT, whiteout);
            let mut h = Header::new(TypeFlag::FILE);
            let dir = entry.path.parent().unwrap_or_default();
            h.name = dir.join(&whiteout_name(name)).as_bytes().to_vec();
            (h, &empty)
        }
    };
    finish(entry, header, meta, pax, sparse)
}

fn finish(
    entry: &Entry,
    mut h: Header,
    meta: &Metadata,
    mut pax: Pax,
    sparse: Option<Vec<u8>>,
) -> Result<Vec<u8>, LayerError> {
    h.mode = meta.mode & 0o7777;
    (h.uid, h.gid) = (u64::from(meta.uid), u64::from(meta.gid));
    h.mtime = meta.mtime.sec;
    if Header::split(&h.name).is_none() {
        pax.push(*b"path", h.name.as_slice());
        h.name.truncate(100);
    }
    if h.link.len() > 100 {
        pax.push(*b"linkpath", h.link.as_slice());
    }
    for (key, value) in [(&b"uid"[..], h.uid), (b"gid", h.gid)] {
        if value > octal_max(8) {
            pax.push(key, value.to_string());
        }
    }
    if h.size > octal_max(12) {
        pax.push(*b"size", h.size.to_string());
    }
    if meta.mtime.nsec != 0 || u64::try_from(h.mtime).map_or(true, |s| s > octal_max(12)) {
        pax.push(*b"mtime", time_to_text(meta.mtime));
    }
    for (name, value) in &meta.xattrs {
        let mut key = b"SCHILY.xattr.".to_vec();
        for b in name {
            match b {
                b'%' => key.extend_from_slice(b"%25"),
                b'=' => key.extend_from_slice(b"%3D"),
                _ => key.push(*b),
            }
        }
        pax.push(key, value.as_slice());
    }
    let names = [&b"path"[..], b"linkpath", b"GNU.sparse.name"];
    if pax.iter().any(|(key, value)| names.contains(&key) && std::str::from_utf8(value).is_err()) {
        // Else bsdtar fails; GNU tar says that it does not know the key, and goes on.
        let mut first = Pax::default();
        first.push(*b"hdrcharset", *b"BINARY");
        pax = pax.over(&first);
    }
    let mut out = Vec::with_capacity(BLOCK);
    if !pax.is_empty() {
        let records = pax.encode();
        if records.len() as u64 > PAX_BYTES_MAX {
            return Err(LayerError::unstorable("attributes exceed 8 MiB", &entry.path));
        }
        let mut x = Header::new(TypeFlag::PAX);
        x.name = b"PaxHeaders/entry".to_vec();
        x.mode = 0o644;
        x.size = records.len() as u64;
        out.extend_from_slice(&x.encode());
        out.extend_from_slice(&records);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }
    out.extend_from_slice(&h.encode());
    out.extend(sparse.into_iter().flatten());
    Ok(out)
}

fn hex(b: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]
}

/// The path as tar has it; only a directory may be the root.
fn name_of(entry: &Entry, directory: bool) -> Result<Vec<u8>, LayerError> {
    let mut name = entry.path.as_bytes().to_vec();
    match (entry.path.is_root(), directory) {
        (true, true) => name.extend_from_slice(b"./"),
        (true, false) => return Err(LayerError::unstorable("the root is a directory", &RelPath::root())),
        (false, true) => name.push(b'/'),
        (false, false) => {}
    }
    Ok(name)
}

/// The file name that stands for the absence of `name`; names too long for it are shortened, with
/// a digest that keeps them apart.
pub(super) fn whiteout_name(name: &[u8]) -> Vec<u8> {
    let whole = [WHITEOUT_PREFIX, name].concat();
    if whole.len() <= NAME_MAX_BYTES {
        return whole;
    }
    let digest = blake3::hash(name).to_hex();
    [&whole[..NAME_MAX_BYTES - 17], b"~", &digest.as_bytes()[..16]].concat()
}
