//! The `Range` header, by RFC 9110, section 14.
use std::ops::Range;

/// So many ranges are answered at most; with more all of it is sent, which the standard permits.
pub const RANGES_MAX: usize = 16;

/// What a `Range` header asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ranges {
    /// All of it: the header is none that we must honour.
    Whole,
    /// Nothing that there is.
    Unsatisfiable,
    /// These parts, in this order, each with at least a byte.
    Parts(Vec<Range<u64>>),
}

/// What `header` asks of a content of `size` bytes.
pub fn parse(header: &str, size: u64) -> Ranges {
    let Some((unit, set)) = header.split_once('=') else { return Ranges::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Ranges::Whole;
    }
    let (mut parts, mut count) = (Vec::new(), 0);
    for spec in set.split(',').map(str::trim).filter(|spec| !spec.is_empty()) {
        count += 1;
        match one(spec, size) {
            None => return Ranges::Whole,
            Some(part) if part.is_empty() => {}
            Some(part) => parts.push(part),
        }
    }
    // Parts that overlap would make a small request cost a lot.
    let bytes: u64 = parts.iter().map(|part| part.end - part.start).fold(0, u64::saturating_add);
    match parts.len() {
        _ if count == 0 || count > RANGES_MAX => Ranges::Whole,
        0 => Ranges::Unsatisfiable,
        1 => Ranges::Parts(parts),
        _ if bytes > size => Ranges::Whole,
        _ => Ranges::Parts(parts),
    }
}

/// One of the set, cut off at the end; empty if it lies behind that. `None`: it is none.
fn one(spec: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = spec.split_once('-')?;
    let (first, last) = (first.trim(), last.trim());
    // More digits than any size has, but digits: beyond the end.
    let number = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
        true => Some(text.parse::<u64>().unwrap_or(u64::MAX)),
        false => None,
    };
    if first.is_empty() {
        let suffix = number(last)?;
        return Some(size.saturating_sub(suffix)..size);
    }
    let start = number(first)?;
    let end = if last.is_empty() { u64::MAX } else { number(last)? };
    if end < start {
        return None;
    }
    Some(start.min(size)..end.saturating_add(1).min(size))
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_the_standard() {
        for (header, parts) in [
            ("bytes=0-0", vec![0..1]),
            ("bytes=0-499", vec![0..500]),
            ("bytes=9500-", vec![9500..10_000]),
            ("bytes=-500", vec![9500..10_000]),
            ("bytes=-20000", vec![0..10_000]),
            ("Bytes = 0-0 , -1", vec![0..1, 9999..10_000]),
            ("bytes=500-600,601-999", vec![500..601, 601..1000]),
            ("bytes=9000-99999999999999999999999", vec![9000..10_000]),
            ("bytes=0-1,20000-", vec![0..2]),
            ("bytes=,0-1,", vec![0..2]),
        ] {
            assert_eq!(parse(header, 10_000), Ranges::Parts(parts), "{header}");
        }
        for header in ["bytes=10000-", "bytes=10000-20000", "bytes=-0", "bytes=10000-,-0"] {
            assert_eq!(parse(header, 10_000), Ranges::Unsatisfiable, "{header}");
        }
        for header in [
            "",
            "bytes",
            "bytes=",
            "lines=0-1",
            "bytes=2-1",
            "bytes=a-",
            "bytes=-",
            "bytes=1",
            "bytes=0-1,x",
            "bytes=+1-2",
        ] {
            assert_eq!(parse(header, 10_000), Ranges::Whole, "{header}");
        }
        assert_eq!(parse("bytes=-1", 0), Ranges::Unsatisfiable);
        assert_eq!(parse("bytes=0-", 0), Ranges::Unsatisfiable);
    }

    #[test]
    fn nobody_gets_more_than_there_is() {
        let many = format!("bytes={}", vec!["0-0"; RANGES_MAX + 1].join(","));
        assert_eq!(parse(&many, 100), Ranges::Whole);
        assert_eq!(parse("bytes=0-,0-,0-", 100), Ranges::Whole);
        assert_eq!(parse("bytes=0-98,99-", 100), Ranges::Parts(vec![0..99, 99..100]));
    }

    proptest::proptest! {
        #[test]
        fn no_header_leads_beyond_the_end(header in "(bytes=)?[-0-9, a]{0,40}", size in 0u64..1000) {
            if let Ranges::Parts(parts) = parse(&header, size) {
                assert!(!parts.is_empty() && parts.iter().all(|part| part.start < part.end && part.end <= size));
            }
        }
    }
}
