//! [`Decoder`]: from a tar stream to entries.
use super::encode::whiteout_name;
use super::header::{number, until_nul};
use super::pax::{decimal, time_from_text};
use super::{BLOCK, COMMENT, EXTENTS_MAX, FUZZY_RECORD, PAX_BYTES_MAX, REFERENCES_RECORD};
use super::{Extent, Header, Pax, SparseMap, TypeFlag};
use super::{WHITEOUT_RECORD, padding};
use crate::clock::Timestamp;
use crate::layer::{Entry, Kind, LayerError, Metadata, References};
use crate::path::RelPath;
use std::io::Read;

/// How much is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// What this crate writes, and nothing else.
    Layer,
    /// Any ustar, PAX or GNU archive. Whiteouts have no meaning there.
    Foreign,
}

/// An entry and where its data goes. The data follows in the stream, then padding to a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// The entry.
    pub entry: Entry,
    /// The data of a regular file (empty for all other kinds).
    pub map: SparseMap,
}

/// Reads headers from a tar stream. The caller consumes the data between two calls.
#[derive(Debug)]
pub struct Decoder {
    dialect: Dialect,
    globals: Pax,
    /// Something was read: a foreign stream without its zero blocks may end here.
    begun: bool,
}

impl Decoder {
    /// Starts at the first header.
    pub fn new(dialect: Dialect) -> Self {
        Self { dialect, globals: Pax::default(), begun: false }
    }

    /// The next entry; `None` after the two zero blocks that end a tar.
    pub fn next(&mut self, input: &mut impl Read) -> Result<Option<Decoded>, LayerError> {
        let mut pax = Pax::default();
        let (mut long_name, mut long_link) = (None, None);
        loop {
            let block = match self.block(input)? {
                Some(block) => block,
                None => return Ok(None),
            };
            self.begun = true;
            let Some(mut header) = Header::parse(&block)? else {
                return self.end(input).map(|()| None);
            };
            match header.kind {
                TypeFlag::PAX => pax = Pax::parse(&body(input, header.size)?)?,
                TypeFlag::PAX_GLOBAL if self.dialect == Dialect::Foreign => {
                    self.globals = Pax::parse(&body(input, header.size)?)?;
                }
                TypeFlag(b'L') if self.dialect == Dialect::Foreign => {
                    long_name = Some(until_nul(&body(input, header.size)?).to_vec());
                }
                TypeFlag(b'K') if self.dialect == Dialect::Foreign => {
                    long_link = Some(until_nul(&body(input, header.size)?).to_vec());
                }
                TypeFlag(b'V') if self.dialect == Dialect::Foreign => {} // a label
                _ => {
                    header.name = long_name.unwrap_or(header.name);
                    header.link = long_link.unwrap_or(header.link);
                    let pax = pax.over(&self.globals);
                    return self.entry(header, &pax, &block, input).map(Some);
                }
            }
        }
    }

    /// A block, or `None` where a foreign stream ends without its zero blocks.
    fn block(&self, input: &mut impl Read) -> Result<Option<[u8; BLOCK]>, LayerError> {
        let mut block = [0; BLOCK];
        let mut n = 0;
        while n < BLOCK {
            match input.read(&mut block[n..]) {
                Ok(0) if n == 0 && self.begun && self.dialect == Dialect::Foreign => return Ok(None),
                Ok(0) => return Err(LayerError::truncated("tar stream")),
                Ok(more) => n += more,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(LayerError::from_stream("tar header", e)),
            }
        }
        Ok(Some(block))
    }

    fn end(&self, input: &mut impl Read) -> Result<(), LayerError> {
        match self.block(input)? {
            Some(second) if self.dialect == Dialect::Layer && second != [0; BLOCK] => {
                Err(LayerError::corrupt("tar stream has a lone zero block"))
            }
            _ => Ok(()),
        }
    }

    fn entry(
        &self,
        mut h: Header,
        pax: &Pax,
        block: &[u8; BLOCK],
        input: &mut impl Read,
    ) -> Result<Decoded, LayerError> {
        if let Some(size) = pax_number(pax, b"size")? {
            h.size = size;
        }
        if let Some(link) = pax.get(b"linkpath") {
            h.link = link.to_vec();
        }
        let sparse = pax.get(b"GNU.sparse.major").map(|major| (major, pax.get(b"GNU.sparse.minor")));
        if let Some(path) = pax.get(b"GNU.sparse.name").or_else(|| pax.get(b"path")) {
            h.name = path.to_vec();
        }
        let path = self.path(&h.name)?;
        let meta = metadata(&h, pax).map_err(|e| e.in_entry(&path))?;
        let whiteout = self.comment(pax).find_map(|c| c.strip_prefix(WHITEOUT_RECORD));
        if let Some(name) = whiteout {
            let path = whiteout_path(&path, name, &h)?;
            let kind = Kind::Whiteout;
            return Ok(Decoded {
                entry: Entry { path, kind, meta: Metadata::default() },
                map: SparseMap::dense(0),
            });
        }
        if self.dialect == Dialect::Layer && h.size != 0 && h.kind != TypeFlag::FILE {
            return Err(LayerError::corrupt("entry without content has a size").in_entry(&path));
        }
        if path.is_root() && h.kind != TypeFlag::DIRECTORY {
            return Err(LayerError::corrupt("the root is not a directory"));
        }
        let mut map = SparseMap::dense(0);
        let kind = match h.kind {
            TypeFlag::DIRECTORY => Kind::Directory,
            TypeFlag::FILE | TypeFlag(b'\0' | b'7' | b'S') => {
                if h.kind != TypeFlag::FILE && self.dialect == Dialect::Layer {
                    return Err(unknown(h.kind).in_entry(&path));
                }
                if h.kind == TypeFlag(b'\0') && h.name.ends_with(b"/") {
                    Kind::Directory // archives older than POSIX
                } else {
                    map = self.map(&h, pax, sparse, block, input).map_err(|e| e.in_entry(&path))?;
                    let refs = self.references(pax, &map).map_err(|e| e.in_entry(&path))?;
                    Kind::File { size: map.size, fuzzy: self.comment(pax).any(|c| c == FUZZY_RECORD), refs }
                }
            }
            TypeFlag::SYMLINK if !h.link.is_empty() && !h.link.contains(&0) => {
                Kind::Symlink { target: h.link }
            }
            TypeFlag::SYMLINK => return Err(LayerError::corrupt("bad symlink target").in_entry(&path)),
            TypeFlag::HARD_LINK => {
                let target = self.path(&h.link).map_err(|e| e.in_entry(&path))?;
                return Ok(Decoded {
                    entry: Entry { path, kind: Kind::HardLink { target }, meta: Metadata::default() },
                    map,
                });
            }
            TypeFlag::FIFO => Kind::Fifo,
            TypeFlag::CHAR_DEVICE => Kind::CharDevice { rdev: h.rdev },
            TypeFlag::BLOCK_DEVICE => Kind::BlockDevice { rdev: h.rdev },
            other => return Err(unknown(other).in_entry(&path)),
        };
        Ok(Decoded { entry: Entry { path, kind, meta }, map })
    }

    /// Our own records; in a foreign archive a comment is a comment.
    fn comment<'a>(&self, pax: &'a Pax) -> impl Iterator<Item = &'a [u8]> {
        let ours = self.dialect == Dialect::Layer;
        pax.iter().filter(move |(key, _)| ours && *key == COMMENT).map(|(_, value)| value)
    }

    /// The parts of a file that stand elsewhere: in what the map shows as holes.
    fn references(&self, pax: &Pax, map: &SparseMap) -> Result<References, LayerError> {
        let Some(hex) = self.comment(pax).find_map(|c| c.strip_prefix(REFERENCES_RECORD)) else {
            return Ok(References::none());
        };
        let bytes = from_hex(hex).ok_or_else(|| LayerError::corrupt("references are not in hex"))?;
        let refs = References::decode(&bytes, map.size)?;
        let mut data = map.extents.iter().peekable();
        for part in refs.iter() {
            while data.next_if(|extent| extent.offset + extent.len <= part.at).is_some() {}
            if data.peek().is_some_and(|extent| extent.offset < part.end()) {
                return Err(LayerError::corrupt("references and data overlap"));
            }
        }
        Ok(refs)
    }

    fn path(&self, name: &[u8]) -> Result<RelPath, LayerError> {
        let refused = |e: crate::path::PathError| LayerError::Refused {
            what: e.to_string(),
            entry: name.escape_ascii().to_string(),
        };
        if self.dialect == Dialect::Layer {
            return match name {
                b"./" => Ok(RelPath::root()),
                _ => RelPath::new(name.strip_suffix(b"/").unwrap_or(name)).map_err(refused).and_then(|p| {
                    if p.is_root() { Err(LayerError::corrupt("entry without a name")) } else { Ok(p) }
                }),
            };
        }
        if name.first() == Some(&b'/') {
            return Err(refused(crate::path::PathError::Absolute));
        }
        let parts: Vec<&[u8]> = name.split(|b| *b == b'/').filter(|c| !c.is_empty() && *c != b".").collect();
        RelPath::new(parts.join(&b'/')).map_err(refused)
    }

    fn map(
        &self,
        h: &Header,
        pax: &Pax,
        sparse: Option<(&[u8], Option<&[u8]>)>,
        block: &[u8; BLOCK],
        input: &mut impl Read,
    ) -> Result<SparseMap, LayerError> {
        if h.kind == TypeFlag(b'S') {
            return old_gnu_map(h, block, input);
        }
        match sparse {
            Some((b"1", Some(b"0"))) => {
                let size = pax_number(pax, b"GNU.sparse.realsize")?
                    .ok_or_else(|| LayerError::corrupt("sparse file without its size"))?;
                Ok(SparseMap::read(input, size, h.size)?.0)
            }
            None if pax.get(b"GNU.sparse.map").is_none() && pax.get(b"GNU.sparse.numblocks").is_none() => {
                Ok(SparseMap::dense(h.size))
            }
            _ => Err(LayerError::corrupt("sparse format other than 1.0 is not supported")),
        }
    }
}

fn from_hex(hex: &[u8]) -> Option<Vec<u8>> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = hex.as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
    if rest.is_empty() { bytes } else { None }
}

fn unknown(kind: TypeFlag) -> LayerError {
    LayerError::corrupt(format!("entry has an unknown type '{}'", [kind.0].escape_ascii()))
}

fn metadata(h: &Header, pax: &Pax) -> Result<Metadata, LayerError> {
    let id = |key: &[u8], field: u64| {
        u32::try_from(pax_number(pax, key)?.unwrap_or(field))
            .map_err(|_| LayerError::corrupt("owner or group out of range"))
    };
    let mtime = match pax.get(b"mtime") {
        Some(text) => time_from_text(text).ok_or_else(|| LayerError::corrupt("malformed mtime"))?,
        None => Timestamp { sec: h.mtime, nsec: 0 },
    };
    let mut xattrs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for (key, value) in pax.iter() {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            let name = unescape(name);
            if name.is_empty() || name.len() > 255 || name.contains(&0) {
                return Err(LayerError::corrupt("bad name of an extended attribute"));
            }
            xattrs.push((name, value.to_vec()));
        }
    }
    // Later records overrule earlier ones; a stable sort keeps them in order for `dedup_by`.
    xattrs.sort_by(|a, b| a.0.cmp(&b.0));
    xattrs.dedup_by(|later, kept| {
        let same = later.0 == kept.0;
        if same {
            std::mem::swap(&mut later.1, &mut kept.1);
        }
        same
    });
    Ok(Metadata { mode: h.mode, uid: id(b"uid", h.uid)?, gid: id(b"gid", h.gid)?, mtime, xattrs })
}

fn unescape(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, tail)) = rest.split_first() {
        let (b, tail) = match rest {
            [b'%', b'2', b'5', tail @ ..] => (b'%', tail),
            [b'%', b'3', b'D', tail @ ..] => (b'=', tail),
            _ => (*first, tail),
        };
        out.push(b);
        rest = tail;
    }
    out
}

fn whiteout_path(stored: &RelPath, name: &[u8], h: &Header) -> Result<RelPath, LayerError> {
    let ok = h.kind == TypeFlag::FILE
        && h.size == 0
        && !name.contains(&b'/')
        && RelPath::new(name).is_ok_and(|n| !n.is_root())
        && stored.name() == Some(&whiteout_name(name));
    if !ok {
        return Err(LayerError::corrupt("malformed whiteout").in_entry(stored));
    }
    Ok(stored.parent().unwrap_or_default().join(name))
}

fn pax_number(pax: &Pax, key: &[u8]) -> Result<Option<u64>, LayerError> {
    pax.get(key)
        .map(|text| decimal(text).ok_or_else(|| LayerError::corrupt("malformed number in extended header")))
        .transpose()
}

/// The bytes of an extended header, with their padding consumed.
fn body(input: &mut impl Read, size: u64) -> Result<Vec<u8>, LayerError> {
    if size > PAX_BYTES_MAX {
        return Err(LayerError::corrupt("extended header is longer than 8 MiB"));
    }
    let mut bytes = vec![0; size as usize + padding(size)];
    input.read_exact(&mut bytes).map_err(|e| LayerError::from_stream("extended header", e))?;
    bytes.truncate(size as usize);
    Ok(bytes)
}

/// GNU's own sparse format: four extents in the header, 21 in each block that follows.
fn old_gnu_map(h: &Header, block: &[u8; BLOCK], input: &mut impl Read) -> Result<SparseMap, LayerError> {
    let field = |bytes: &[u8]| {
        u64::try_from(number(bytes)?).map_err(|_| LayerError::corrupt("negative number in sparse map"))
    };
    let mut extents = Vec::new();
    let take = |area: &[u8], extents: &mut Vec<Extent>| -> Result<(), LayerError> {
        for pair in area.chunks_exact(24) {
            if pair[12] == 0 {
                break;
            }
            extents.push(Extent { offset: field(&pair[..12])?, len: field(&pair[12..])? });
        }
        Ok(())
    };
    take(&block[386..482], &mut extents)?;
    let mut more = block[482] != 0;
    while more {
        let mut next = [0; BLOCK];
        input.read_exact(&mut next).map_err(|e| LayerError::from_stream("sparse map", e))?;
        take(&next[..504], &mut extents)?;
        if extents.len() > 2 * EXTENTS_MAX {
            return Err(LayerError::corrupt("sparse map has too many extents"));
        }
        more = next[504] != 0;
    }
    let map = SparseMap::checked(field(&block[483..495])?, extents)?;
    if map.data_len() != h.size {
        return Err(LayerError::corrupt("sparse map does not agree with the stored size"));
    }
    Ok(map)
}
