//! Which keys every store accepts: what is safe as a path of a directory store is safe as an S3 key. What others have
//! written into a bucket may have any key that S3 takes.
use super::RemoteError;

/// The longest key, prefix included, in bytes (the limit of S3).
pub const KEY_MAX_BYTES: usize = 1024;
/// The longest component of a key, in bytes (the limit of Linux file names).
pub const COMPONENT_MAX_BYTES: usize = 255;
/// Names that begin so belong to the directory store itself.
pub const RESERVED: &str = ".icecache";

/// Says what is wrong with a key of S3, or nothing.
pub fn fault_of_any(key: &str) -> Option<&'static str> {
    match key.len() {
        0 => Some("it is empty"),
        1..=KEY_MAX_BYTES => None,
        _ => Some("it is longer than 1024 bytes"),
    }
}

/// Says what is wrong with a key (or prefix), or nothing.
pub fn fault(key: &str) -> Option<&'static str> {
    if let Some(why) = fault_of_any(key) {
        return Some(why);
    }
    if key.chars().any(char::is_control) {
        return Some("it has a control character");
    }
    for component in key.split('/') {
        match component {
            "" => return Some("it has an empty component (leading, trailing or double slash)"),
            "." | ".." => return Some("it has a '.' or '..' component"),
            c if c.len() > COMPONENT_MAX_BYTES => return Some("a component is longer than 255 bytes"),
            c if c.starts_with(RESERVED) => return Some("names beginning with '.icecache' are reserved"),
            _ => {}
        }
    }
    None
}

/// Refuses a key that not every store accepts.
pub fn check(key: &str) -> Result<(), RemoteError> {
    refuse(fault(key), key)
}

/// Refuses a key that no object of a bucket has.
pub fn check_any(key: &str) -> Result<(), RemoteError> {
    refuse(fault_of_any(key), key)
}

fn refuse(fault: Option<&str>, key: &str) -> Result<(), RemoteError> {
    match fault {
        None => Ok(()),
        Some(why) => Err(RemoteError::Refused { message: format!("bad key: {why}: {}", key.escape_debug()) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_the_layout_uses() {
        for key in ["a", "name/HEAD", "layers/0197-x.tar.zst", "mit Leer/ünïcode", "..a", ".hidden"] {
            assert_eq!(fault(key), None, "{key}");
        }
    }

    #[test]
    fn refuses_what_leaves_the_root_or_is_ambiguous() {
        let long = "x".repeat(256);
        for key in ["", "/a", "a/", "a//b", "a/../b", "./a", "a\0b", "a\nb", ".icecache.lock", long.as_str()]
        {
            assert!(fault(key).is_some(), "{key:?}");
        }
        assert!(fault(&"abcdefg/".repeat(140)).is_some());
    }

    #[test]
    fn a_bucket_may_have_what_the_layout_would_not_use() {
        let long = "x".repeat(1024);
        for key in ["/a", "a/", "a//b", "a/../b", "./a", "a\nb", ".icecache.lock", long.as_str()] {
            assert!(check_any(key).is_ok(), "{key:?}");
        }
        assert!(check_any("").is_err() && check_any(&"x".repeat(1025)).is_err());
    }
}
