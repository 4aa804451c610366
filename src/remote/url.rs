//! [`RemoteUrl`]: what a person types to name a remote.
use super::key;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a remote is. Text forms: `file:///abs/path`, `s3://bucket/prefix` (the prefix may be missing),
/// `mem:name` (lives as long as the process; for tests). Nothing is percent-decoded: what is typed is
/// the path, the bucket and the prefix.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum RemoteUrl {
    /// A directory, by absolute path.
    File(PathBuf),
    /// A bucket of S3 or of something that speaks its protocol.
    S3 {
        /// The bucket.
        bucket: String,
        /// What every key begins with, without slashes at its ends; may be empty.
        prefix: String,
    },
    /// Memory of this process, shared by all who use the same name.
    Memory(String),
}

/// Why a text is not a [`RemoteUrl`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// No known scheme.
    #[error("remote must be file:///absolute/path or s3://bucket/prefix, not: {0}")]
    Scheme(String),
    /// `file://` with a host or a relative path.
    #[error("file remote needs an absolute path after file://, as in file:///srv/icecache, not: {0}")]
    Relative(String),
    /// `s3://` without a bucket, or with one no server accepts.
    #[error(
        "s3 remote needs a bucket of letters, digits, '.', '-' and '_', as in s3://bucket/prefix, not: {0}"
    )]
    Bucket(String),
    /// A user or password in the URL; the text is withheld because it may hold a secret.
    #[error(
        "credentials do not belong in the url of a remote; use the AWS environment variables or a profile"
    )]
    Credentials,
    /// A URL where the bucket should be; the text is withheld as above.
    #[error(
        "a url stands where the bucket of an s3 remote should: S3_BUCKET is the name of a bucket, without s3://"
    )]
    Nested,
    /// The path or prefix cannot be used.
    #[error("path of the remote cannot be used: {why}: {text}")]
    Path {
        /// What is wrong.
        why: &'static str,
        /// The URL.
        text: String,
    },
}

impl FromStr for RemoteUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let shown = || text.escape_debug().to_string();
        if let Some(rest) = text.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let is_scheme = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric());
            if rest.split_once("://").is_some_and(|(word, _)| is_scheme(word)) {
                return Err(UrlError::Nested);
            }
            if bucket.contains(['@', ':']) {
                return Err(UrlError::Credentials);
            }
            let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            if bucket.is_empty() || bucket.len() > 255 || !bucket.chars().all(ok) {
                return Err(UrlError::Bucket(shown()));
            }
            let prefix = prefix.trim_matches('/');
            if !prefix.is_empty()
                && let Some(why) = key::fault(prefix)
            {
                return Err(UrlError::Path { why, text: shown() });
            }
            return Ok(Self::S3 { bucket: bucket.into(), prefix: prefix.into() });
        }
        if let Some(path) = text.strip_prefix("file://") {
            if !path.starts_with('/') {
                return Err(UrlError::Relative(shown()));
            }
            let mut parts = path.split('/').filter(|c| !c.is_empty()).peekable();
            let why = if parts.peek().is_none() {
                Some("it is the root directory")
            } else if path.chars().any(char::is_control) {
                Some("it has a control character")
            } else if parts.any(|c| matches!(c, "." | "..")) {
                Some("it has a '.' or '..' component")
            } else {
                None
            };
            if let Some(why) = why {
                return Err(UrlError::Path { why, text: shown() });
            }
            return Ok(Self::File(PathBuf::from(path).components().collect()));
        }
        match text.strip_prefix("mem:") {
            Some(name) if !name.chars().any(char::is_control) => Ok(Self::Memory(name.into())),
            _ => Err(UrlError::Scheme(shown())),
        }
    }
}

impl fmt::Display for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file://{}", path.display()),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            Self::Memory(name) => write!(f, "mem:{name}"),
        }
    }
}

/// Endpoint and URL as one text. Neither has a blank at its beginning, and an endpoint has none at all.
pub(super) fn with_endpoint(endpoint: &str, url: &str) -> String {
    format!("{endpoint} {url}")
}

/// The URL in what [`ObjectStore::identity`](super::ObjectStore::identity) says.
pub fn url_of(identity: &str) -> &str {
    match identity.split_once(' ') {
        Some((endpoint, url)) if endpoint.starts_with("http") => url,
        _ => identity,
    }
}

impl TryFrom<String> for RemoteUrl {
    type Error = UrlError;

    fn try_from(text: String) -> Result<Self, UrlError> {
        text.parse()
    }
}

impl From<RemoteUrl> for String {
    fn from(url: RemoteUrl) -> Self {
        url.to_string()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::*;

    #[test]
    fn reads_and_shows() {
        for (text, shown) in [
            ("file:///srv/data/", "file:///srv/data"),
            ("file:///a b/ü", "file:///a b/ü"),
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket"),
            ("s3://my.bucket/a/b/", "s3://my.bucket/a/b"),
            ("mem:x", "mem:x"),
        ] {
            let url: RemoteUrl = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(url.to_string(), shown);
            assert_eq!(shown.parse(), Ok(url));
        }
    }

    #[test]
    fn an_identity_has_its_url() {
        for url in ["s3://bucket/a b", "file:///a b/c", "mem:x"] {
            assert_eq!(url_of(url), url);
            assert_eq!(url_of(&with_endpoint("https://host:9000", url)), url);
        }
    }

    #[test]
    fn refuses_with_a_reason() {
        let error = |text: &str| text.parse::<RemoteUrl>().map_err(|e| e.to_string()).unwrap_err();
        assert!(error("/srv/data").contains("file:///absolute/path"));
        assert!(error("http://x/y").contains("s3://bucket/prefix"));
        assert!(error("file://srv/data").contains("absolute"));
        assert!(error("file:///").contains("root directory"));
        assert!(error("file:///a/../b").contains("'..'"));
        assert!(error("s3:///prefix").contains("bucket"));
        assert!(error("s3://b/a//b").contains("empty component"));
        for nested in ["s3://s3://b", "s3://s3://b/p", "s3://https://b"] {
            assert!(error(nested).contains("S3_BUCKET"), "{nested}: {}", error(nested));
        }
    }

    #[test]
    fn never_repeats_a_secret() {
        let error = "s3://AKIA:hunter2@bucket/p".parse::<RemoteUrl>().map_err(|e| e.to_string()).unwrap_err();
        assert!(error.contains("credentials") && !error.contains("hunter2"));
        let nested = "s3://s3://AKIA:hunter2@b".parse::<RemoteUrl>().map_err(|e| e.to_string()).unwrap_err();
        assert!(!nested.contains("hunter2"), "{nested}");
    }
}
