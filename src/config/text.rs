//! Text to values: durations, switches, words, numbers. Errors say what was expected.
use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::time::Duration;

/// No setting waits longer than a day.
pub const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// `500ms`, `1.5s`, `2m`, `1h`, or a bare number of seconds; at most [`DURATION_MAX`].
pub fn duration(text: &str) -> Result<Duration, String> {
    let expected = || format!("expected a duration such as 500ms, 1.5s or 2m: {text}");
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().map_err(|_| expected())?;
    let seconds = match unit.trim() {
        "ms" => number / 1000.0,
        "" | "s" => number,
        "m" | "min" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(expected()),
    };
    let duration = Duration::try_from_secs_f64(seconds).map_err(|_| expected())?;
    if duration > DURATION_MAX { Err(format!("longer than a day: {text}")) } else { Ok(duration) }
}

/// The shortest text that [`duration`] reads back.
pub fn show_duration(duration: Duration) -> String {
    match duration.as_millis() {
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    }
}

/// `on`, `off` and their synonyms.
pub fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Ok(true),
        "off" | "false" | "no" | "0" => Ok(false),
        _ => Err(format!("expected on or off: {text}")),
    }
}

/// Bytes a second: a number, with K, M or G in powers of 1024; or `unlimited`.
pub fn rate(text: &str) -> Result<Option<NonZeroU64>, String> {
    if text.eq_ignore_ascii_case("unlimited") {
        return Ok(None);
    }
    let expected = || format!("expected bytes a second such as 500K or 20M, or unlimited: {text}");
    let (number, shift) = match text.as_bytes().last().map(u8::to_ascii_uppercase) {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let bytes = number.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift));
    bytes.and_then(NonZeroU64::new).map(Some).ok_or_else(expected)
}

/// How old something may be: a number with h, d or w; or `none`.
pub fn age(text: &str) -> Result<Option<Duration>, String> {
    age_or("none", text)
}

/// The same with another word for "there is no such age".
pub fn age_or(word: &str, text: &str) -> Result<Option<Duration>, String> {
    if text.eq_ignore_ascii_case(word) {
        return Ok(None);
    }
    let expected = || format!("expected an age such as 12h, 7d or 8w, or {word}: {text}");
    let seconds = match text.as_bytes().last().map(u8::to_ascii_lowercase) {
        Some(b'h') => 3600,
        Some(b'd') => 86_400,
        Some(b'w') => 7 * 86_400,
        _ => return Err(expected()),
    };
    let number = text[..text.len() - 1].parse::<u32>().map_err(|_| expected())?;
    Ok(Some(Duration::from_secs(u64::from(number) * seconds)))
}

/// A whole number within a range.
pub fn number(text: &str, range: RangeInclusive<u32>) -> Result<u32, String> {
    let parsed = text.parse().ok().filter(|n| range.contains(n));
    parsed.ok_or_else(|| format!("expected a number from {} to {}: {text}", range.start(), range.end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("7"), Ok(Duration::from_secs(7)));
        for wrong in ["", "s", "1x", "-1s", "1e9h", "25h", "1..2s", "nan"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        for text in ["1s", "500ms", "90s"] {
            assert_eq!(duration(text).map(show_duration).as_deref(), Ok(text));
        }
    }

    #[test]
    fn ages() {
        let hours = |text| age(text).map(|age| age.map(|age| age.as_secs() / 3600));
        assert_eq!(hours("12h"), Ok(Some(12)));
        assert_eq!(hours("7d"), Ok(Some(168)));
        assert_eq!(hours("2W"), Ok(Some(336)));
        assert_eq!(hours("none"), Ok(None));
        assert_eq!(age_or("never", "Never"), Ok(None));
        assert!(age_or("never", "none").is_err_and(|e| e.contains("or never")));
        for wrong in ["", "d", "7", "-1d", "1.5h", "99999999999w", "\u{e9}", "7days"] {
            assert!(age(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rates() {
        let bytes = |text| rate(text).map(|rate| rate.map(NonZeroU64::get));
        assert_eq!(bytes("1"), Ok(Some(1)));
        assert_eq!(bytes("500K"), Ok(Some(500 << 10)));
        assert_eq!(bytes("20m"), Ok(Some(20 << 20)));
        assert_eq!(bytes("3G"), Ok(Some(3 << 30)));
        assert_eq!(bytes("unlimited"), Ok(None));
        for wrong in ["", "K", "0", "-1", "1.5M", "1T", "99999999999G", "\u{e9}", "none"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_stay_in_range() {
        assert_eq!(number("19", 1..=19), Ok(19));
        assert_eq!(number("20", 1..=19), Err("expected a number from 1 to 19: 20".to_owned()));
        assert!(number("-1", 1..=19).is_err());
    }
}
