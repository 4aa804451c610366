//! [`Header`]: one 512-byte ustar header.
use super::BLOCK;
use crate::layer::LayerError;

/// The type of an entry, as its byte in the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypeFlag(pub u8);

impl TypeFlag {
    /// A regular file.
    pub const FILE: Self = Self(b'0');
    /// Another name of an earlier file.
    pub const HARD_LINK: Self = Self(b'1');
    /// A symbolic link.
    pub const SYMLINK: Self = Self(b'2');
    /// A character device.
    pub const CHAR_DEVICE: Self = Self(b'3');
    /// A block device.
    pub const BLOCK_DEVICE: Self = Self(b'4');
    /// A directory.
    pub const DIRECTORY: Self = Self(b'5');
    /// A named pipe.
    pub const FIFO: Self = Self(b'6');
    /// PAX records for the next entry.
    pub const PAX: Self = Self(b'x');
    /// PAX records for all further entries.
    pub const PAX_GLOBAL: Self = Self(b'g');
}

/// The fields of a header. Numbers that do not fit their field are left to PAX records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The path (`prefix` and `name` joined).
    pub name: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Bytes that follow, without padding.
    pub size: u64,
    /// Seconds since 1970.
    pub mtime: i64,
    /// The type.
    pub kind: TypeFlag,
    /// Target of a link.
    pub link: Vec<u8>,
    /// Major and minor number of a device.
    pub rdev: (u32, u32),
}

/// The largest number of an octal field of `width` bytes with its terminator.
pub(super) const fn octal_max(width: u32) -> u64 {
    (1 << (3 * (width - 1))) - 1
}

impl Header {
    /// A header of this type with everything else empty.
    pub fn new(kind: TypeFlag) -> Self {
        Self {
            name: Vec::new(),
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 0,
            kind,
            link: Vec::new(),
            rdev: (0, 0),
        }
    }

    /// Where to split a path into `prefix` and `name`; `None` if it does not fit a header.
    pub(super) fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
        if path.len() <= 100 {
            return Some((b"", path));
        }
        // The name must not be empty, so the slash that ends a directory's path is no split point.
        let end = path.len() - 1;
        (0..end.min(156))
            .rev()
            .find(|&i| path[i] == b'/' && i > 0 && path.len() - i - 1 <= 100)
            .map(|i| (&path[..i], &path[i + 1..]))
    }

    /// The block. Fields that do not fit are cut or zero; the caller has a PAX record for them.
    pub fn encode(&self) -> [u8; BLOCK] {
        let mut b = [0u8; BLOCK];
        let (prefix, name) = Self::split(&self.name).unwrap_or((b"", &self.name));
        put(&mut b[0..100], name);
        octal(&mut b[100..108], u64::from(self.mode));
        octal(&mut b[108..116], self.uid);
        octal(&mut b[116..124], self.gid);
        octal(&mut b[124..136], self.size);
        octal(&mut b[136..148], u64::try_from(self.mtime).unwrap_or(0));
        b[156] = self.kind.0;
        put(&mut b[157..257], &self.link);
        b[257..265].copy_from_slice(b"ustar\x0000");
        octal(&mut b[329..337], u64::from(self.rdev.0));
        octal(&mut b[337..345], u64::from(self.rdev.1));
        put(&mut b[345..500], prefix);
        let sum = checksum(&b).0;
        b[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        b
    }

    /// Reads a block; `None` is a block of zeros (the end of the stream).
    pub fn parse(b: &[u8; BLOCK]) -> Result<Option<Self>, LayerError> {
        if b.iter().all(|x| *x == 0) {
            return Ok(None);
        }
        let (unsigned, signed) = checksum(b);
        let stated = number(&b[148..156])?;
        if stated != i64::from(unsigned) && stated != signed {
            return Err(LayerError::corrupt("tar header has a wrong checksum"));
        }
        let field = |what: &str, range: std::ops::Range<usize>| {
            u64::try_from(number(&b[range])?)
                .map_err(|_| LayerError::corrupt(format!("tar header has a negative {what}")))
        };
        let mut name = until_nul(&b[0..100]).to_vec();
        let posix = &b[257..263] == b"ustar\0";
        if posix && b[345] != 0 {
            let mut whole = until_nul(&b[345..500]).to_vec();
            whole.push(b'/');
            whole.append(&mut name);
            name = whole;
        }
        let narrow = |what: &str, range| {
            u32::try_from(field(what, range)?)
                .map_err(|_| LayerError::corrupt(format!("tar header has a {what} out of range")))
        };
        let gnu_or_posix = &b[257..262] == b"ustar";
        let rdev = if gnu_or_posix && matches!(b[156], b'3' | b'4') {
            (narrow("device number", 329..337)?, narrow("device number", 337..345)?)
        } else {
            (0, 0)
        };
        Ok(Some(Self {
            name,
            mode: (field("mode", 100..108)? & 0o7777) as u32,
            uid: field("owner", 108..116)?,
            gid: field("group", 116..124)?,
            size: field("size", 124..136)?,
            mtime: number(&b[136..148])?,
            kind: TypeFlag(b[156]),
            link: until_nul(&b[157..257]).to_vec(),
            rdev,
        }))
    }
}

fn put(field: &mut [u8], value: &[u8]) {
    let n = value.len().min(field.len());
    field[..n].copy_from_slice(&value[..n]);
}

fn octal(field: &mut [u8], value: u64) {
    let value = if value > octal_max(field.len() as u32) { 0 } else { value };
    let digits = format!("{value:0width$o}", width = field.len() - 1);
    put(field, digits.as_bytes());
}

pub(super) fn until_nul(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|b| *b == 0).unwrap_or(field.len())]
}

/// Octal digits, or GNU's base-256 form when the first bit is set.
pub(super) fn number(field: &[u8]) -> Result<i64, LayerError> {
    let bad = || LayerError::corrupt("tar header has a malformed number");
    if field[0] & 0x80 != 0 {
        // 0x80: positive, 0xff: negative two's complement.
        let negative = field[0] == 0xff;
        if !negative && field[0] != 0x80 {
            return Err(bad());
        }
        let mut value: i64 = if negative { -1 } else { 0 };
        for b in &field[1..] {
            value = value.checked_mul(256).ok_or_else(bad)?;
            value |= i64::from(*b);
        }
        return Ok(value);
    }
    let text = until_nul(field).trim_ascii();
    if text.is_empty() {
        return Ok(0);
    }
    let mut value: i64 = 0;
    for b in text {
        if !(b'0'..=b'7').contains(b) {
            return Err(bad());
        }
        value = value.checked_mul(8).ok_or_else(bad)? + i64::from(b - b'0');
    }
    Ok(value)
}

/// The sum over the block with the checksum field as spaces: bytes unsigned, and (old tars) signed.
fn checksum(b: &[u8; BLOCK]) -> (u32, i64) {
    let with_spaces = |i: usize, x: u8| if (148..156).contains(&i) { b' ' } else { x };
    b.iter().enumerate().fold((0, 0), |(u, s), (i, x)| {
        let x = with_spaces(i, *x);
        (u + u32::from(x), s + i64::from(x as i8))
    })
}
