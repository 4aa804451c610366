//! [`Lent`]: credentials that a catalog lends for the files of a table, and where those files are.
use crate::config::S3Settings;
use crate::remote::{KeySource, LentKeys, RemoteError, S3Keys};
use crate::sync::Mutex;
use async_trait::async_trait;
use icecache_iceberg::{Catalog, Location, StorageCredential, Table, TableId};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Credentials whose catalog does not say until when they are good are asked for again after so long.
const GOOD_FOR: Duration = Duration::from_secs(15 * 60);

/// So many tables are asked for credentials of one prefix, one after the other.
const LENDERS_MAX: usize = 4;

/// Credentials for the files below a prefix.
#[derive(Debug, Clone)]
pub(super) struct Lent {
    /// Locations that begin with it are opened with them.
    pub prefix: String,
    /// Where the store is, as far as the catalog says.
    pub s3: S3Settings,
    /// Who lends them.
    pub source: Arc<Lenders>,
}

/// What a catalog lends along with a table. What was lent before the start comes without its keys (`is_remembered`): the
/// catalog is asked for new ones by whoever needs any.
pub(super) fn lent(catalog: &Arc<dyn Catalog>, table: &Table, is_remembered: bool) -> Vec<Lent> {
    let all = table.credentials.iter().map(|credential| (credential, keys(credential)));
    let lent = all.filter(|(_, keys)| is_remembered || keys.is_some()).map(|(credential, keys)| Lent {
        prefix: prefix(credential, &table.metadata_location),
        s3: settings(credential),
        source: Arc::new(Lenders(Mutex::new(vec![Arc::new(Lender {
            catalog: catalog.clone(),
            id: table.id.clone(),
            prefix: credential.prefix.clone(),
            first: Mutex::new(keys),
        })]))),
    });
    lent.collect()
}

/// Whether it opens anything.
pub(super) fn has_keys(credential: &StorageCredential) -> bool {
    keys(credential).is_some()
}

/// Where credentials are good: below their prefix; or, if that names no bucket, in the folder of the table, above that
/// of its metadata.
fn prefix(credential: &StorageCredential, metadata: &Location) -> String {
    let named = credential.prefix.split_once("://").filter(|(_, rest)| !rest.is_empty());
    if let Some((scheme, rest)) = named {
        // The other names of the same store.
        let scheme = if matches!(scheme, "s3a" | "s3n") { "s3" } else { scheme };
        return format!("{scheme}://{rest}");
    }
    let folder = metadata.as_str().rsplit_once('/').map_or(metadata.as_str(), |(folder, _)| folder);
    format!("{}/", folder.strip_suffix("/metadata").unwrap_or(folder))
}

fn property<'a>(credential: &'a StorageCredential, name: &str) -> Option<&'a str> {
    let found = credential.properties.iter().find(|(key, _)| key == name);
    found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
}

fn settings(credential: &StorageCredential) -> S3Settings {
    let text = |name| property(credential, name).map(str::to_owned);
    S3Settings {
        endpoint: text("s3.endpoint"),
        region: text("client.region").or_else(|| text("s3.region")),
        path_style: property(credential, "s3.path-style-access")
            .map(|value| value.eq_ignore_ascii_case("true")),
        profile: None,
    }
}

/// The keys, if it holds any.
fn keys(credential: &StorageCredential) -> Option<LentKeys> {
    let keys = S3Keys {
        access_key: property(credential, "s3.access-key-id")?.to_owned(),
        secret_key: property(credential, "s3.secret-access-key")?.to_owned(),
        session_token: property(credential, "s3.session-token").map(str::to_owned),
    };
    let said = property(credential, "s3.session-token-expires-at-ms").and_then(|ms| ms.parse::<u64>().ok());
    let until = said.map_or_else(
        || SystemTime::now() + GOOD_FOR,
        |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms),
    );
    Some(LentKeys { keys, until })
}

/// The tables for which credentials of one prefix were lent, the last one first: each may go. Owner of its lock.
#[derive(Debug, Default)]
pub(super) struct Lenders(Mutex<Vec<Arc<Lender>>>);

impl Lenders {
    /// Those of `other` lend, too.
    pub(super) fn join(&self, other: &Self) {
        let new = other.0.lock().clone();
        let mut lenders = self.0.lock();
        lenders.retain(|lender| new.iter().all(|new| new.id != lender.id));
        lenders.splice(0..0, new);
        lenders.truncate(LENDERS_MAX);
    }
}

#[async_trait]
impl KeySource for Lenders {
    async fn keys(&self) -> Result<LentKeys, RemoteError> {
        let lenders = self.0.lock().clone();
        let mut failed = RemoteError::Refused { message: "nobody lends credentials".into() };
        for lender in lenders {
            match lender.keys().await {
                Ok(keys) => return Ok(keys),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

/// Asks the catalog again when credentials expire. Owner of its lock.
struct Lender {
    catalog: Arc<dyn Catalog>,
    id: TableId,
    prefix: String,
    /// Those that came with the table: nobody has used them yet.
    first: Mutex<Option<LentKeys>>,
}

impl std::fmt::Debug for Lender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lender").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Lender {
    async fn keys(&self) -> Result<LentKeys, RemoteError> {
        if let Some(first) = self.first.lock().take() {
            return Ok(first);
        }
        let table = self.catalog.load(&self.id).await.map_err(|error| {
            let message = format!("the catalog lends no credentials now: {error}");
            if error.is_transient() {
                RemoteError::Unavailable { message }
            } else {
                RemoteError::Refused { message }
            }
        })?;
        let again = table.credentials.iter().find(|credential| credential.prefix == self.prefix);
        again.and_then(keys).ok_or_else(|| RemoteError::Refused {
            message: format!("the catalog lends no credentials any more for table {}", self.id),
        })
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;

    fn credential(prefix: &str, properties: &[(&str, &str)]) -> StorageCredential {
        let properties = properties.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        StorageCredential { prefix: prefix.to_owned(), properties: properties.collect() }
    }

    #[test]
    fn what_is_lent_is_good_below_its_prefix() {
        let metadata: Location = "s3://b/wh/t/metadata/1.metadata.json".parse().expect("a location");
        assert_eq!(prefix(&credential("", &[]), &metadata), "s3://b/wh/t/");
        assert_eq!(prefix(&credential("s3a://b/wh/", &[]), &metadata), "s3://b/wh/");
        assert_eq!(prefix(&credential("s3", &[]), &metadata), "s3://b/wh/t/");
        let elsewhere: Location = "s3://b/t/1.metadata.json".parse().expect("a location");
        assert_eq!(prefix(&credential("", &[]), &elsewhere), "s3://b/t/");
    }

    #[test]
    fn properties_are_those_of_the_clients_of_iceberg() {
        let whole = credential(
            "",
            &[
                ("s3.access-key-id", "a"),
                ("s3.secret-access-key", "b"),
                ("s3.session-token", "c"),
                ("s3.session-token-expires-at-ms", "5000"),
                ("s3.endpoint", "http://h"),
                ("client.region", "r"),
                ("s3.path-style-access", "true"),
            ],
        );
        let lent = keys(&whole).expect("keys");
        assert_eq!((lent.keys.access_key.as_str(), lent.keys.secret_key.as_str()), ("a", "b"));
        assert_eq!(lent.keys.session_token.as_deref(), Some("c"));
        assert_eq!(lent.until, SystemTime::UNIX_EPOCH + Duration::from_secs(5));
        let s3 = settings(&whole);
        assert_eq!((s3.endpoint.as_deref(), s3.region.as_deref()), (Some("http://h"), Some("r")));
        assert_eq!(s3.path_style, Some(true));
        assert!(keys(&credential("", &[("s3.access-key-id", "a"), ("s3.secret-access-key", "")])).is_none());
    }
}
