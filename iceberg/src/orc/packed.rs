//! Runs of numbers of as many bits as the largest of them needs (specification: Integer Run Length Encoding, version 2).
//!
//! ```text
//!  short repeat   one number, three to ten times
//!  direct         numbers of so many bits each
//!  patched base   the same above the smallest of them; the highest bits of a few stand behind
//!  delta          a number, and by how much each is more (or less) than the one before it
//! ```
use super::OrcError;
use super::integers::number;
use super::stream::{Stream, signed};

/// What five bits mean as a number of bits.
pub(super) const WIDTHS: [u32; 32] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 26, 28, 30, 32,
    40, 48, 56, 64,
];
const REPEAT_MIN: usize = 3;
/// A gap that goes on in the next patch, if that is 0.
const GAP_MAX: u64 = 255;
const PATCH: OrcError = OrcError::Malformed("a run of numbers has a patch that does not fit it");

/// Appends the next run: 1 to 512 numbers.
pub(super) fn run(stream: &mut Stream<'_>, is_signed: bool, out: &mut Vec<i64>) -> Result<(), OrcError> {
    let first = stream.byte()?;
    let encoding = first >> 6;
    if encoding == 0 {
        return short_repeat(stream, first, is_signed, out);
    }
    let code = usize::from(first >> 1 & 31);
    let length = usize::from(first & 1) << 8 | usize::from(stream.byte()?);
    let length = length + 1;
    match encoding {
        1 => unpack(stream, WIDTHS[code], length, |number| {
            out.push(if is_signed { signed(number) } else { number as i64 });
        }),
        2 => patched_base(stream, WIDTHS[code], length, out),
        _ => delta(stream, code, length, is_signed, out),
    }
}

fn short_repeat(
    stream: &mut Stream<'_>,
    first: u8,
    is_signed: bool,
    out: &mut Vec<i64>,
) -> Result<(), OrcError> {
    let number = big_endian(stream, (first >> 3 & 7) + 1)?;
    let number = if is_signed { signed(number) } else { number as i64 };
    out.extend(std::iter::repeat_n(number, usize::from(first & 7) + REPEAT_MIN));
    Ok(())
}

fn patched_base(
    stream: &mut Stream<'_>,
    width: u32,
    length: usize,
    out: &mut Vec<i64>,
) -> Result<(), OrcError> {
    let (third, fourth) = (stream.byte()?, stream.byte()?);
    let base_bytes = (third >> 5) + 1;
    let patch_width = WIDTHS[usize::from(third & 31)];
    let gap_width = u32::from(fourth >> 5) + 1;
    let count = usize::from(fourth & 31);
    // The highest bit is the sign, the others are what it goes for.
    let base = big_endian(stream, base_bytes)?;
    let sign = 1_u64 << (u32::from(base_bytes) * 8 - 1);
    let base = if base & sign == 0 { base as i64 } else { ((base & !sign) as i64).wrapping_neg() };
    let mut numbers = Vec::with_capacity(length);
    unpack(stream, width, length, |number| numbers.push(number))?;
    // The two stand in as many bits as a number may have that is as wide as both.
    let both = WIDTHS.into_iter().find(|&w| w >= patch_width + gap_width).ok_or(PATCH)?;
    let (mut at, mut fits) = (0_usize, count > 0);
    unpack(stream, both, count, |entry| {
        let (gap, patch) = (entry >> patch_width, entry & (u64::MAX >> (64 - patch_width)));
        at += gap as usize;
        if gap == GAP_MAX && patch == 0 {
            return;
        }
        match (numbers.get_mut(at), patch.checked_shl(width)) {
            (Some(number), Some(patch)) => *number |= patch,
            _ => fits = false,
        }
    })?;
    if !fits {
        return Err(PATCH);
    }
    out.extend(numbers.into_iter().map(|number| base.wrapping_add(number as i64)));
    Ok(())
}

fn delta(
    stream: &mut Stream<'_>,
    code: usize,
    length: usize,
    is_signed: bool,
    out: &mut Vec<i64>,
) -> Result<(), OrcError> {
    let mut at = number(stream, is_signed)?;
    let step = number(stream, true)?;
    if code == 0 {
        // Here alone 0 is no width: the step stays as it is.
        out.extend((0..length as i64).map(|n| at.wrapping_add(n.wrapping_mul(step))));
        return Ok(());
    }
    out.push(at);
    if length > 1 {
        at = at.wrapping_add(step);
        out.push(at);
    }
    unpack(stream, WIDTHS[code], length.saturating_sub(2), |by| {
        at = if step < 0 { at.wrapping_sub(by as i64) } else { at.wrapping_add(by as i64) };
        out.push(at);
    })
}

fn big_endian(stream: &mut Stream<'_>, bytes: u8) -> Result<u64, OrcError> {
    (0..bytes).try_fold(0, |number, _| Ok(number << 8 | u64::from(stream.byte()?)))
}

/// So many numbers of so many bits, most significant first; what is left of the last byte is skipped.
fn unpack(
    stream: &mut Stream<'_>,
    width: u32,
    count: usize,
    mut each: impl FnMut(u64),
) -> Result<(), OrcError> {
    let (mut byte, mut left) = (0_u8, 0);
    for _ in 0..count {
        let (mut number, mut wanted) = (0_u64, width);
        while wanted > 0 {
            if left == 0 {
                (byte, left) = (stream.byte()?, 8);
            }
            let now = wanted.min(left);
            let bits = u64::from(byte) >> (left - now) & ((1 << now) - 1);
            number = number << now | bits;
            (wanted, left) = (wanted - now, left - now);
        }
        each(number);
    }
    Ok(())
}
