//! Conditional requests, by RFC 9110, section 13.
use hyper::HeaderMap;
use hyper::header::{self, HeaderName};
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
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let etag = validators.etag.as_deref();
    let date = |text: &str| httpdate::parse_http_date(text).ok();
    let since = |name| text(name).and_then(date).zip(validators.modified);
    // A list may come in several lines.
    let list = |name: HeaderName| {
        let lines: Vec<_> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
        (!lines.is_empty()).then(|| lines.join(","))
    };
    let unmatched = match list(header::IF_MATCH) {
        Some(list) => !matches(&list, etag, true),
        None => since(header::IF_UNMODIFIED_SINCE).is_some_and(|(then, modified)| modified > then),
    };
    if unmatched {
        return Verdict::Failed;
    }
    let is_known = match list(header::IF_NONE_MATCH) {
        Some(list) => matches(&list, etag, false),
        None => since(header::IF_MODIFIED_SINCE).is_some_and(|(then, modified)| modified <= then),
    };
    if is_known {
        return Verdict::NotModified;
    }
    let ranges = text(header::IF_RANGE).is_none_or(|condition| match condition.trim() {
        tag if tag.starts_with('"') => Some(tag) == etag,
        // A weak tag proves nothing byte by byte.
        tag if tag.starts_with("W/") => false,
        when => date(when).is_some_and(|then| Some(then) == validators.modified),
    });
    Verdict::Proceed { ranges }
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
    use std::time::Duration;

    fn judged(headers: &[(&str, &str)]) -> Verdict {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_bytes(name.as_bytes()).expect("name"), value.parse().expect("value"));
        }
        // Sun, 06 Nov 1994 08:49:37 GMT
        let modified = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777));
        judge(&map, &Validators { etag: Some("\"abc\"".into()), modified })
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
            (&[("if-range", THEN)], proceed(true)),
            (&[("if-range", EARLIER)], proceed(false)),
            (&[("if-range", "nonsense")], proceed(false)),
        ] {
            assert_eq!(judged(headers), verdict, "{headers:?}");
        }
    }
}
