//! What a person can do about an error.
use crate::ErrorKind;

/// One line for each kind that has a usual way out.
pub fn advice(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::Invalid => Some("'icecache config DIR' shows each setting and where it comes from"),
        ErrorKind::NotFound => {
            Some("'icecache status' lists what is mounted, 'icecache log' what a name has")
        }
        ErrorKind::Busy => Some("'icecache status' shows who holds it; 'icecache unmount DIR' ends it"),
        ErrorKind::Conflict => Some("look at both sides with 'icecache log' before you decide"),
        ErrorKind::Unavailable => Some("check network, endpoint and region, then try again; nothing is lost"),
        ErrorKind::Denied => {
            Some("a remote: check credentials and the bucket's policy; a path: check its owner and modes")
        }
        ErrorKind::Corrupt => Some("restore an older version: 'icecache log' lists them"),
        ErrorKind::Full => Some("free some space and try again"),
        ErrorKind::Unsupported => Some("docs/SEMANTICS.md says what kernel and store must be able to do"),
        ErrorKind::Io => None,
    }
}
