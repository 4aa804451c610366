//! [`Location`]: a URI as tables write it.
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest location, in bytes. S3 has keys of 1,024.
pub const LOCATION_MAX_BYTES: usize = 8 << 10;

/// Where a file of a table is: scheme, authority (of S3 the bucket) and key.
///
/// The key is opaque: nothing in it is decoded, a percent sign is a percent sign, an empty component stays one.
/// `s3a` and `s3n` are `s3`; `file:/x`, `file:///x` and `/x` are the same file. Equal means the same object.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Location {
    text: Arc<str>,
    /// Where the scheme ends; the authority begins three bytes later.
    scheme: u16,
    /// Where the authority ends; the key begins one byte later.
    authority: u16,
}

/// Why a text is not a [`Location`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// No scheme and no leading slash: a path of format version 4, or none at all.
    #[error("location is neither a URI nor an absolute path: {0}")]
    Relative(String),
    /// `s3://` without a bucket, or `file://` with a host.
    #[error("location names no bucket, or a host that is not this one: {0}")]
    Authority(String),
    /// A key and a secret before the bucket; the text is withheld.
    #[error("location holds credentials, which do not belong there")]
    Credentials,
    /// Longer than [`LOCATION_MAX_BYTES`].
    #[error("location has {0} bytes, at most {LOCATION_MAX_BYTES} are possible")]
    TooLong(usize),
}

impl Location {
    /// Puts one together. The scheme is lower case and not an alias; a file has no authority.
    pub(crate) fn from_parts(scheme: &str, authority: &str, key: &str) -> Result<Self, LocationError> {
        let text: Arc<str> = format!("{scheme}://{authority}/{key}").into();
        if text.len() > LOCATION_MAX_BYTES {
            return Err(LocationError::TooLong(text.len()));
        }
        let end = scheme.len() + 3 + authority.len();
        Ok(Self { text, scheme: scheme.len() as u16, authority: end as u16 })
    }

    /// The whole, in its one form: `s3://bucket/key`, `file:///path`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The scheme: `s3`, `file`, `gs`, `abfss`, `hdfs`, … in lower case.
    pub fn scheme(&self) -> &str {
        &self.text[..usize::from(self.scheme)]
    }

    /// The bucket, container or host; empty for files.
    pub fn authority(&self) -> &str {
        &self.text[usize::from(self.scheme) + 3..usize::from(self.authority)]
    }

    /// What follows the slash after the authority; of a file its absolute path without the first slash.
    pub fn key(&self) -> &str {
        &self.text[usize::from(self.authority) + 1..]
    }

    /// The absolute path, if this is a file of this machine.
    pub fn file_path(&self) -> Option<&str> {
        (self.scheme() == "file").then(|| &self.text[usize::from(self.authority)..])
    }

    /// What follows the last slash of the key.
    pub fn name(&self) -> &str {
        self.key().rsplit('/').next().unwrap_or_default()
    }

    /// The location `relative` below this one, which is taken as a folder.
    ///
    /// # Errors
    /// [`LocationError::TooLong`].
    pub fn join(&self, relative: &str) -> Result<Self, LocationError> {
        let key = self.key().trim_end_matches('/');
        let slash = if key.is_empty() { "" } else { "/" };
        Self::from_parts(self.scheme(), self.authority(), &format!("{key}{slash}{relative}"))
    }

    /// The part of the key that lies below `folder`, if this location does.
    pub fn below<'a>(&'a self, folder: &Self) -> Option<&'a str> {
        let head = folder.text.trim_end_matches('/');
        self.text.strip_prefix(head)?.strip_prefix('/')
    }
}

impl FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        if text.len() > LOCATION_MAX_BYTES {
            return Err(LocationError::TooLong(text.len()));
        }
        if let Some(path) = text.strip_prefix('/') {
            return Self::from_parts("file", "", path);
        }
        let relative = || LocationError::Relative(text.escape_debug().to_string());
        let (scheme, rest) = text.split_once(':').ok_or_else(relative)?;
        let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '.' | '-');
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.chars().all(named) {
            return Err(relative());
        }
        let scheme = match scheme.to_ascii_lowercase() {
            s if s == "s3a" || s == "s3n" => "s3".to_owned(),
            s => s,
        };
        let (authority, key) = match rest.strip_prefix("//") {
            Some(rest) => rest.split_once('/').unwrap_or((rest, "")),
            // The short form of Hadoop, without any authority.
            None => ("", rest.strip_prefix('/').ok_or_else(relative)?),
        };
        let shown = || LocationError::Authority(text.escape_debug().to_string());
        match scheme.as_str() {
            "s3" if authority.contains('@') => Err(LocationError::Credentials),
            "s3" if authority.is_empty() => Err(shown()),
            "file" if authority.is_empty() || authority == "localhost" => Self::from_parts("file", "", key),
            "file" => Err(shown()),
            // A user may stand before the host (a container of Azure does), a password may not.
            _ if authority.split_once('@').is_some_and(|(user, _)| user.contains(':')) => {
                Err(LocationError::Credentials)
            }
            _ => Self::from_parts(&scheme, authority, key),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.text.escape_debug())
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(text: &str) -> Location {
        text.parse().expect("a location")
    }

    #[test]
    fn every_way_to_write_it_is_one_form() {
        for text in ["s3://b/k/x%20y", "s3a://b/k/x%20y", "S3N://b/k/x%20y"] {
            assert_eq!(location(text).as_str(), "s3://b/k/x%20y", "{text}");
        }
        for text in ["/x/y", "file:/x/y", "file:///x/y", "file://localhost/x/y"] {
            assert_eq!(location(text).as_str(), "file:///x/y", "{text}");
            assert_eq!(location(text).file_path(), Some("/x/y"));
        }
        let azure = location("abfss://box@account.dfs.core.windows.net/a//b/");
        assert_eq!(azure.scheme(), "abfss");
        assert_eq!(azure.authority(), "box@account.dfs.core.windows.net");
        assert_eq!(azure.key(), "a//b/");
        assert_eq!(location("hdfs:/x").as_str(), "hdfs:///x");
        assert_eq!(location("s3://b").key(), "");
    }

    #[test]
    fn what_is_no_location_is_refused() {
        assert!(matches!("data/x.parquet".parse::<Location>(), Err(LocationError::Relative(_))));
        assert!(matches!("a b:c".parse::<Location>(), Err(LocationError::Relative(_))));
        assert!(matches!("file:x".parse::<Location>(), Err(LocationError::Relative(_))));
        assert!(matches!("".parse::<Location>(), Err(LocationError::Relative(_))));
        assert!(matches!("s3:///k".parse::<Location>(), Err(LocationError::Authority(_))));
        assert!(matches!("file://other/x".parse::<Location>(), Err(LocationError::Authority(_))));
        assert_eq!("s3://key:secret@b/k".parse::<Location>(), Err(LocationError::Credentials));
        assert_eq!("wasb://u:p@h/k".parse::<Location>(), Err(LocationError::Credentials));
        let long = format!("s3://b/{}", "k".repeat(LOCATION_MAX_BYTES));
        assert!(matches!(long.parse::<Location>(), Err(LocationError::TooLong(_))));
    }

    #[test]
    fn folders_and_what_is_below() {
        let table = location("s3://b/wh/t/");
        assert_eq!(location("s3://b/wh/t/data/x").below(&table), Some("data/x"));
        assert_eq!(location("s3://b/wh/tt/data/x").below(&table), None);
        assert_eq!(
            table.join("metadata/version-hint.text").unwrap().key(),
            "wh/t/metadata/version-hint.text"
        );
        assert_eq!(location("s3://b").join("x").unwrap().as_str(), "s3://b/x");
        assert_eq!(location("/wh").join("x").unwrap().as_str(), "file:///wh/x");
        assert_eq!(location("s3://b/x/y.avro").name(), "y.avro");
    }
}
