//! Numbers as writers pack them, by all the ways that there are.
use crate::orc::packed::WIDTHS;

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn zigzag(value: i64, signed: bool) -> u64 {
    if signed { (value << 1 ^ value >> 63) as u64 } else { value as u64 }
}

/// How many numbers from the first on have the same distance, at most `limit`.
fn even_steps(numbers: &[i64], limit: usize) -> usize {
    let steps: Vec<i64> = numbers.windows(2).take(limit - 1).map(|w| w[1].wrapping_sub(w[0])).collect();
    1 + steps.iter().take_while(|step| **step == steps[0]).count()
}

/// Runs of version 1.
pub(in crate::orc) fn simple_runs(numbers: &[i64], signed: bool) -> Vec<u8> {
    let (mut out, mut at, mut literals) = (Vec::new(), 0, Vec::new());
    let flush = |out: &mut Vec<u8>, literals: &mut Vec<i64>| {
        if !literals.is_empty() {
            out.push((literals.len() as u8).wrapping_neg());
            literals.drain(..).for_each(|number| put_varint(out, zigzag(number, signed)));
        }
    };
    while at < numbers.len() {
        let run = even_steps(&numbers[at..], 130);
        let step = numbers.get(at + 1).map_or(0, |next| next.wrapping_sub(numbers[at]));
        match i8::try_from(step) {
            Ok(step) if run >= 3 => {
                flush(&mut out, &mut literals);
                out.extend_from_slice(&[run as u8 - 3, step as u8]);
                put_varint(&mut out, zigzag(numbers[at], signed));
                at += run;
            }
            _ => {
                literals.push(numbers[at]);
                at += 1;
                if literals.len() == 128 {
                    flush(&mut out, &mut literals);
                }
            }
        }
    }
    flush(&mut out, &mut literals);
    out
}

/// The code of the smallest width that has so many bits.
fn width_code(bits: u32) -> u8 {
    WIDTHS.iter().position(|width| *width >= bits.max(1)).unwrap() as u8
}

fn bits(value: u64) -> u32 {
    64 - value.leading_zeros()
}

fn put_packed(out: &mut Vec<u8>, numbers: impl Iterator<Item = u64>, width: u32) {
    let (mut byte, mut used) = (0_u8, 0);
    for number in numbers {
        for bit in (0..width).rev() {
            byte = byte << 1 | (number >> bit & 1) as u8;
            used += 1;
            if used == 8 {
                out.push(byte);
                (byte, used) = (0, 0);
            }
        }
    }
    if used > 0 {
        out.push(byte << (8 - used));
    }
}

fn put_head(out: &mut Vec<u8>, encoding: u8, code: u8, length: usize) {
    let length = length - 1;
    out.extend_from_slice(&[encoding << 6 | code << 1 | (length >> 8) as u8, length as u8]);
}

fn put_direct(out: &mut Vec<u8>, numbers: &[i64], signed: bool) {
    let code = width_code(numbers.iter().map(|n| bits(zigzag(*n, signed))).max().unwrap());
    put_head(out, 1, code, numbers.len());
    put_packed(out, numbers.iter().map(|n| zigzag(*n, signed)), WIDTHS[usize::from(code)]);
}

/// A short repeat of the first numbers, if they are one; says how many.
fn put_repeat(out: &mut Vec<u8>, numbers: &[i64], signed: bool) -> Option<usize> {
    let count = numbers.iter().take(10).take_while(|n| **n == numbers[0]).count();
    let value = zigzag(numbers[0], signed);
    let bytes = bits(value).div_ceil(8).max(1);
    if count < 3 {
        return None;
    }
    out.push((bytes as u8 - 1) << 3 | (count as u8 - 3));
    out.extend_from_slice(&value.to_be_bytes()[8 - bytes as usize..]);
    Some(count)
}

/// A run of steps in one direction from the first number on.
fn put_delta(out: &mut Vec<u8>, numbers: &[i64], signed: bool, even: bool) -> usize {
    let mut body = Vec::new();
    put_varint(&mut body, zigzag(numbers[0], signed));
    let step = numbers.get(1).map_or(0, |next| next.wrapping_sub(numbers[0]));
    put_varint(&mut body, zigzag(step, true));
    let (mut count, mut code) = (even_steps(numbers, 512), 0);
    if !even {
        let mut steps = Vec::new();
        for pair in numbers[..numbers.len().min(512)].windows(2).skip(1) {
            let by = pair[1].checked_sub(pair[0]).filter(|by| if step < 0 { *by <= 0 } else { *by >= 0 });
            match by {
                Some(by) => steps.push(by.unsigned_abs()),
                None => break,
            }
        }
        count = numbers.len().min(2) + steps.len();
        code = width_code(bits(steps.iter().copied().max().unwrap_or(0)).max(2));
        put_packed(&mut body, steps.into_iter(), WIDTHS[usize::from(code)]);
    }
    put_head(out, 3, code, count);
    out.extend_from_slice(&body);
    count
}

/// A run above its smallest number, with patches; `None` where that cannot be.
fn put_patched(out: &mut Vec<u8>, numbers: &[i64]) -> Option<()> {
    let base = *numbers.iter().min()?;
    let above: Vec<u64> =
        numbers.iter().map(|n| n.checked_sub(base).map(|n| n as u64)).collect::<Option<_>>()?;
    let mut sorted = above.clone();
    sorted.sort_unstable();
    let code = width_code(bits(sorted[sorted.len() * 9 / 10]));
    let width = WIDTHS[usize::from(code)];
    let most = bits(*sorted.last()?).checked_sub(width).filter(|most| *most > 0)?;
    let patch_code = width_code(most);
    let patch_width = WIDTHS[usize::from(patch_code)];
    let (mut patches, mut last) = (Vec::new(), 0);
    for (at, number) in above.iter().enumerate().filter(|(_, n)| bits(**n) > width) {
        let mut gap = at - last;
        while gap > 255 {
            patches.push((255, 0));
            gap -= 255;
        }
        patches.push((gap as u64, number >> width));
        last = at;
    }
    let gap_width = bits(patches.iter().map(|(gap, _)| *gap).max()?).max(1);
    if patches.len() > 31 || patch_width + gap_width > 64 || base == i64::MIN {
        return None;
    }
    let bytes = (bits(base.unsigned_abs()) + 1).div_ceil(8);
    let sign = if base < 0 { 1 << (bytes * 8 - 1) } else { 0 };
    put_head(out, 2, code, numbers.len());
    out.push((bytes as u8 - 1) << 5 | patch_code);
    out.push((gap_width as u8 - 1) << 5 | patches.len() as u8);
    out.extend_from_slice(&(base.unsigned_abs() | sign).to_be_bytes()[8 - bytes as usize..]);
    let mask = u64::MAX >> (64 - width);
    put_packed(out, above.iter().map(|n| n & mask), width);
    let both = WIDTHS[usize::from(width_code(patch_width + gap_width))];
    put_packed(out, patches.into_iter().map(|(gap, patch)| gap << patch_width | patch), both);
    Some(())
}

/// Runs of version 2; `ways` says by which of the encodings that are possible.
pub(in crate::orc) fn packed_runs(numbers: &[i64], signed: bool, ways: u64) -> Vec<u8> {
    let (mut out, mut at, mut ways) = (Vec::new(), 0, ways | 1);
    while at < numbers.len() {
        let mut random = || {
            ways = ways.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (ways >> 33) as usize
        };
        let rest = &numbers[at..];
        let some = &rest[..rest.len().min(1 + random() % 512)];
        at += match random() % 5 {
            0 => put_repeat(&mut out, rest, signed).unwrap_or(0),
            1 => put_delta(&mut out, some, signed, true),
            2 => put_delta(&mut out, some, signed, false),
            3 => put_patched(&mut out, some).map_or(0, |()| some.len()),
            _ => {
                put_direct(&mut out, some, signed);
                some.len()
            }
        };
    }
    out
}
