//! Numbers as bytes: unsigned LEB128 in its shortest form, and signed ones folded into it.

/// Seven bits a byte, the lowest first, the high bit set in all but the last.
pub(super) fn put(out: &mut Vec<u8>, mut n: u64) {
    while n > 0x7F {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// What took a number from the front of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bad {
    /// The bytes end within it.
    Short,
    /// It is longer than 64 bits, or not in its shortest form.
    Malformed,
}

/// Takes a number from the front of `bytes`.
pub(super) fn take(bytes: &mut &[u8]) -> Result<u64, Bad> {
    let mut n = 0;
    for shift in (0..64).step_by(7) {
        let (b, rest) = bytes.split_first().ok_or(Bad::Short)?;
        *bytes = rest;
        let bits = u64::from(b & 0x7F);
        // One number has one form: no bit is lost, no byte is idle.
        if bits << shift >> shift != bits || (*b == 0 && shift > 0) {
            break;
        }
        n |= bits << shift;
        if b & 0x80 == 0 {
            return Ok(n);
        }
    }
    Err(Bad::Malformed)
}

/// Small numbers of either sign become small ones.
pub(super) fn zigzag(n: i64) -> u64 {
    (n << 1 ^ n >> 63) as u64
}

/// The way back.
pub(super) fn unzigzag(n: u64) -> i64 {
    (n >> 1) as i64 ^ -((n & 1) as i64)
}
