//! What a person can do about an error.
use crate::{Error, ErrorKind};

/// How the refusal of an archive's entry reads, also when it comes from a daemon, which sends text alone.
const REFUSED_ENTRY: &str = "entry refused: ";

/// One line for each kind that has a usual way out.
pub fn advice(error: &Error) -> Option<&'static str> {
    match error.kind() {
        ErrorKind::Denied if error.to_string().contains(REFUSED_ENTRY) => Some(
            "nothing is ever written outside of the directory: 'tar -tvf' shows the entry; pack the archive \
             without it (device nodes: as root)",
        ),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::LayerError;
    use crate::path::RelPath;

    #[test]
    fn a_refused_entry_is_no_matter_of_credentials() {
        let refused = LayerError::refused("a part of its path is not a directory", &RelPath::root());
        let refused = Error::from(refused);
        // As it comes from a daemon.
        let sent = Error::new(refused.kind(), refused.to_string());
        for error in [refused, sent] {
            let advice = advice(&error).expect("advice");
            assert!(advice.contains("tar") && !advice.contains("credentials"), "{error}: {advice}");
        }
        let denied = Error::new(ErrorKind::Denied, "remote denies access");
        assert!(advice(&denied).is_some_and(|advice| advice.contains("credentials")));
    }
}
