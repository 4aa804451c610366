//! From a URL to a store that is ready for use.
use super::url::UrlError;
use super::{Counted, Counters, DirectoryStore, Handed, KeySource, MemoryStore, RemoteError, RemoteUrl};
use super::{Retry, RetryPolicy, S3Options, S3Store, Store};
use crate::config::S3Settings;
use crate::{Error, ErrorKind};
use std::sync::Arc;

/// Opens the remote that settings name, counting into `counters`.
pub async fn open_configured(remote: &str, s3: &S3Settings, counters: Arc<Counters>) -> Result<Store, Error> {
    let (url, options) = parse(remote, s3)?;
    open_counted(&url, &options, counters).await
}

/// The same for a bucket whose credentials somebody lends.
pub async fn open_borrowing(
    remote: &str,
    s3: &S3Settings,
    source: Arc<dyn KeySource>,
    counters: Arc<Counters>,
) -> Result<Store, Error> {
    let (url, options) = parse(remote, s3)?;
    let RemoteUrl::S3 { bucket, prefix } = &url else {
        return Err(Error::new(ErrorKind::Invalid, format!("nobody lends credentials for this: {url}")));
    };
    let connected = S3Store::borrowing(bucket, prefix, &options, source, counters.clone()).await;
    Ok(patient(connected.map(|s| Arc::new(s) as Store).map_err(|e| unusable(&url, e))?, counters))
}

fn parse(remote: &str, s3: &S3Settings) -> Result<(RemoteUrl, S3Options), Error> {
    let url: RemoteUrl = remote
        .parse()
        .map_err(|e: UrlError| Error::new(ErrorKind::Invalid, "cannot use remote").with_source(e))?;
    let options = S3Options {
        endpoint: s3.endpoint.clone(),
        region: s3.region.clone(),
        path_style: s3.path_style,
        profile: s3.profile.clone(),
        part_mib: None,
    };
    Ok((url, options))
}

fn unusable(url: &RemoteUrl, error: RemoteError) -> Error {
    let message = format!("cannot use remote: {url}");
    match error {
        // Nothing was asked of a store yet: it is the URL or an option that is wrong.
        RemoteError::Refused { .. } => Error::new(ErrorKind::Invalid, message).with_source(error),
        error => Error::from(error).context(message),
    }
}

/// Counted and retried, and what is handed over is read from there.
fn patient(bare: Store, counters: Arc<Counters>) -> Store {
    let counted: Store = Arc::new(Counted::new(bare, counters));
    Arc::new(Handed::new(Arc::new(Retry::new(counted, RetryPolicy::default()))))
}

/// Opens a remote: retried and counted (see [`open_counted`] to see the counts). Sends no request; whether
/// the bucket is there and the credentials work shows at the first use.
pub async fn open(url: &RemoteUrl, options: &S3Options) -> Result<Store, Error> {
    open_counted(url, options, Arc::default()).await
}

/// Like [`open`], counting into `counters`.
pub async fn open_counted(
    url: &RemoteUrl,
    options: &S3Options,
    counters: Arc<Counters>,
) -> Result<Store, Error> {
    let bare: Result<Store, RemoteError> = match url {
        RemoteUrl::File(path) => DirectoryStore::open(path).map(|s| Arc::new(s) as Store),
        RemoteUrl::S3 { bucket, prefix } => {
            let connected = S3Store::connect(bucket, prefix, options, None, counters.clone()).await;
            connected.map(|s| Arc::new(s) as Store)
        }
        RemoteUrl::Memory(name) => Ok(Arc::new(MemoryStore::named(name))),
    };
    Ok(patient(bare.map_err(|e| unusable(url, e))?, counters))
}

impl From<RemoteError> for Error {
    /// Keeps the store's words as the source and puts advice in front where there is any.
    fn from(error: RemoteError) -> Self {
        let (kind, message) = match &error {
            RemoteError::NotFound { .. } => (ErrorKind::NotFound, "remote has no such object"),
            RemoteError::Precondition { .. } => (ErrorKind::Conflict, "another writer changed the remote"),
            RemoteError::Denied { .. } => (
                ErrorKind::Denied,
                "remote denies access; check credentials, their expiry and the policy (GetObject, PutObject)",
            ),
            RemoteError::NoBucket { .. } => (
                ErrorKind::Invalid,
                "remote does not exist; create the bucket or correct its name or endpoint",
            ),
            RemoteError::Unavailable { .. } => {
                (ErrorKind::Unavailable, "remote does not answer; try again later")
            }
            RemoteError::Refused { .. } => (ErrorKind::Unsupported, "remote cannot do this"),
        };
        Self::new(kind, message).with_source(error)
    }
}
