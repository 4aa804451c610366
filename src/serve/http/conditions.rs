//! Conditional requests, by RFC 9110, section 13.
use hyper::HeaderMap;
use hyper::header::{self, HeaderName};
use std::borrow::Cow;
use std::time::SystemTime;

/// What tells one version of a content from another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Validators {
    /// A strong entity tag, with its quotation marks.
    pub etag: Option<String>,
    /// To the second.
    pub modified: Option<SystemTime>,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is answered; its ranges count only if this is said.
    Proceed {
        /// Whether `Range` is to be honoured.
        ranges: bool,
    },
    /// 304: whoever asks has it.
    NotModified,
    /// 412: it is another one by now.
    Failed,
}

/// In the order of section 13.2.2.
pub fn judge(headers: &HeaderMap, validators: &Validators) -> Verdict {
    let etag = validators.etag.as_deref();
    if is_unmatched(headers, Some(validators)) {
        return Verdict::Failed;
    }
    let is_known = match list(headers, header::IF_NONE_MATCH) {
        Some(list) => matches(&list, etag, false),
        None => since(headers, header::IF_MODIFIED_SINCE, validators)
            .is_some_and(|(then, modified)| modified <= then),
    };
    if is_known {
        return Verdict::NotModified;
    }
    // A date proves nothing: of two versions within a second, which we may have had, it is the same. Nor does a
    // weak tag.
    let ranges = text(headers, header::IF_RANGE).is_none_or(|condition| Some(condition.trim()) == etag);
    Verdict::Proceed { ranges }
}

/// Whether a write depends on what is there.
pub fn is_conditional(headers: &HeaderMap) -> bool {
    [header::IF_MATCH, header::IF_NONE_MATCH, header::IF_UNMODIFIED_SINCE]
        .iter()
        .any(|name| headers.contains_key(name))
}

/// Whether a write must not happen where this is, or nothing.
pub fn forbid(headers: &HeaderMap, current: Option<&Validators>) -> bool {
    let is_there = |list: String| current.is_some_and(|v| matches(&list, v.etag.as_deref(), false));
    is_unmatched(headers, current) || list(headers, header::IF_NONE_MATCH).is_some_and(is_there)
}

/// Whether it is another one than whoever asks has in mind.
fn is_unmatched(headers: &HeaderMap, current: Option<&Validators>) -> bool {
    match (list(headers, header::IF_MATCH), current) {
        (Some(list), Some(current)) => !matches(&list, current.etag.as_deref(), true),
        (Some(_), None) => true,
        (None, Some(current)) => since(headers, header::IF_UNMODIFIED_SINCE, current)
            .is_some_and(|(then, modified)| modified > then),
        (None, None) => false,
    }
}

/// What is no text is a text that equals nothing.
fn text(headers: &HeaderMap, name: HeaderName) -> Option<Cow<'_, str>> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()))
}

/// A list may come in several lines.
fn list(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    let lines = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    let lines: Vec<_> = lines.collect();
    (!lines.is_empty()).then(|| lines.join(","))
}

/// A date that was given, and when it was changed.
fn since(headers: &HeaderMap, name: HeaderName, validators: &Validators) -> Option<(SystemTime, SystemTime)> {
    let then = text(headers, name).and_then(|text| httpdate::parse_http_date(&text).ok());
    then.zip(validators.modified)
}

/// Whether a list of tags, or `*`, names this one; a weak tag only where the comparison is not `strong`.
fn matches(list: &str, etag: Option<&str>, strong: bool) -> bool {
    if list.trim() == "*" {
        return true;
    }
    let Some(etag) = etag else { return false };
    let mut rest = list.trim_start();
    while !rest.is_empty() {
        let (weak, tag) = match rest.strip_prefix("W/") {
            Some(tag) => (true, tag),
            None => (false, rest),
        };
        // Whoever leaves out the quotation marks means the same.
        let end = match tag.strip_prefix('"') {
            Some(inner) => inner.find('"').map_or(tag.len(), |end| end + 2),
            None => tag.find(',').unwrap_or(tag.len()),
        };
        let (tag, after) = tag.split_at(end);
        let tag = tag.trim().trim_matches('"');
        if tag == etag.trim_matches('"') && !(strong && weak) {
            return true;
        }
        rest = after.trim_start_matches([' ', '\t', ',']);
    }
    false
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use hyper::header::HeaderValue;
    use std::time::Duration;

    fn map(headers: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_bytes(name.as_bytes()).expect("name"), value.parse().expect("value"));
        }
        map
    }

    fn ours() -> Validators {
        // Sun, 06 Nov 1994 08:49:37 GMT
        let modified = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777));
        Validators { etag: Some("\"abc\"".into()), modified }
    }

    fn judged(headers: &[(&str, &str)]) -> Verdict {
        judge(&map(headers), &ours())
    }

    #[test]
    fn conditions_are_those_of_the_standard() {
        const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
        const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
        let proceed = |ranges| Verdict::Proceed { ranges };
        for (headers, verdict) in [
            (&[][..], proceed(true)),
            (&[("if-none-match", "\"abc\"")], Verdict::NotModified),
            (&[("if-none-match", "\"x,y\", W/\"abc\"")], Verdict::NotModified),
            (&[("if-none-match", "abc")], Verdict::NotModified),
            (&[("if-none-match", "\"x\""), ("if-none-match", "\"abc\"")], Verdict::NotModified),
            (&[("if-none-match", "*")], Verdict::NotModified),
            (&[("if-none-match", "\"abcd\", \"\"")], proceed(true)),
            (&[("if-modified-since", THEN)], Verdict::NotModified),
            (&[("if-modified-since", EARLIER)], proceed(true)),
            (&[("if-modified-since", "yesterday")], proceed(true)),
            (&[("if-none-match", "\"x\""), ("if-modified-since", THEN)], proceed(true)),
            (&[("if-match", "\"abc\"")], proceed(true)),
            (&[("if-match", "W/\"abc\"")], Verdict::Failed),
            (&[("if-match", "\"x\"")], Verdict::Failed),
            (&[("if-unmodified-since", EARLIER)], Verdict::Failed),
            (&[("if-unmodified-since", THEN)], proceed(true)),
            (&[("if-range", "\"abc\"")], proceed(true)),
            (&[("if-range", "W/\"abc\"")], proceed(false)),
            (&[("if-range", "\"x\"")], proceed(false)),
            (&[("if-range", THEN)], proceed(false)),
            (&[("if-range", EARLIER)], proceed(false)),
            (&[("if-range", "nonsense")], proceed(false)),
        ] {
            assert_eq!(judged(headers), verdict, "{headers:?}");
        }
    }

    #[test]
    fn writes_happen_only_where_they_are_meant_to() {
        const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
        let is = ours();
        for (name, value, there, absent) in [
            ("if-match", "\"abc\"", false, true),
            ("if-match", "\"x\", \"abc\"", false, true),
            ("if-match", "W/\"abc\"", true, true),
            ("if-match", "\"x\"", true, true),
            ("if-match", "*", false, true),
            ("if-none-match", "*", true, false),
            ("if-none-match", "W/\"abc\"", true, false),
            ("if-none-match", "\"x\"", false, false),
            ("if-unmodified-since", EARLIER, true, false),
            ("if-unmodified-since", "Sun, 06 Nov 1994 08:49:37 GMT", false, false),
            // These are for those who read.
            ("if-modified-since", EARLIER, false, false),
            ("if-range", "\"x\"", false, false),
        ] {
            let headers = map(&[(name, value)]);
            let found = (forbid(&headers, Some(&is)), forbid(&headers, None));
            assert_eq!(found, (there, absent), "{name}: {value}");
            assert_eq!(is_conditional(&headers), !matches!(name, "if-modified-since" | "if-range"), "{name}");
        }
        // What is no text is no condition that holds.
        let mut headers = HeaderMap::new();
        headers.append(header::IF_MATCH, HeaderValue::from_bytes(b"\"\xff\"").expect("value"));
        assert!(forbid(&headers, Some(&is)));
    }
}
