//! [`Choice`]: which version of a name is meant.
use super::text;
use crate::{Error, ErrorKind, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Which version of a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// The newest one.
    Newest,
    /// The one that 'icecache log' lists under this number or with this tag.
    Version(String),
    /// The newest one that shows the tree as of this instant or earlier.
    At(Timestamp),
}

impl Choice {
    /// As the command line says it: without a word the newest one.
    pub fn of(version: Option<String>) -> Self {
        version.map_or(Self::Newest, Self::Version)
    }

    /// By a point in time: RFC 3339, or how long before `now`.
    pub fn at(text: &str, now: Timestamp) -> Result<Self> {
        let ago = text::duration(text).ok().or_else(|| text::age(text).ok().flatten());
        let ago = || ago.and_then(|ago| now.checked_sub(ago).ok());
        text.parse().ok().or_else(ago).map(Self::At).ok_or_else(|| {
            let expected =
                "expected a time such as 2026-11-21T14:00:00Z, or how long ago, such as 30m, 12h, 7d or 8w: ";
            Error::new(ErrorKind::Invalid, format!("{expected}{text}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_instants_or_how_long_ago() {
        let now: Timestamp = "2026-11-21T14:00:00Z".parse().expect("time");
        let at = |text: &str| Choice::at(text, now).map(|choice| format!("{choice:?}"));
        for (text, time) in [
            ("2026-11-20T10:00:00Z", "2026-11-20T10:00:00Z"),
            ("2026-11-20T10:00:00.5+02:00", "2026-11-20T08:00:00.5Z"),
            ("2h", "2026-11-21T12:00:00Z"),
            ("90", "2026-11-21T13:58:30Z"),
            ("25h", "2026-11-20T13:00:00Z"),
            ("2d", "2026-11-19T14:00:00Z"),
            ("8w", "2026-09-26T14:00:00Z"),
        ] {
            assert_eq!(at(text).expect("a time"), format!("At({time})"), "{text}");
        }
        for wrong in ["", "soon", "none", "9999999w", "2026-11-20", "2026-11-20T10:00:00", "-1s"] {
            let e = at(wrong).expect_err("not a time");
            assert_eq!(e.kind(), ErrorKind::Invalid);
            assert!(e.message().ends_with(&format!(": {wrong}")), "{e}");
        }
    }
}
