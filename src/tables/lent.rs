//! [`Lent`]: credentials that a catalog lends for the files of a table, and where those files are.
use crate::config::S3Settings;
use crate::remote::{KeySource, LentKeys, RemoteError, S3Keys};
use crate::sync::Mutex;
use async_trait::async_trait;
use icecache_iceberg::metadata::Metadata;
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

/// Properties of a table that say where its files are, if not all are in its folder.
const ELSEWHERE: [&str; 4] =
    ["write.data.path", "write.object-storage.path", "write.folder-storage.path", "write.metadata.path"];

/// What a catalog lends along with a table, of which `folders` are known. What was lent before the start comes without its
/// keys (`is_remembered`): the catalog is asked for new ones by whoever needs any.
pub(super) fn lent(
    catalog: &Arc<dyn Catalog>,
    table: &Table,
    folders: &[String],
    is_remembered: bool,
) -> Vec<Lent> {
    let all = table.credentials.iter().map(|credential| (credential, keys(credential)));
    let all: Vec<_> = all.filter(|(_, keys)| is_remembered || keys.is_some()).collect();
    let lent = |(credential, keys): &(&StorageCredential, Option<LentKeys>), prefix: String| Lent {
        prefix,
        s3: settings(credential),
        source: Arc::new(Lenders(Mutex::new(vec![Arc::new(Lender {
            catalog: catalog.clone(),
            id: table.id.clone(),
            prefix: credential.prefix.clone(),
            first: Mutex::new(keys.clone()),
        })]))),
    };
    let named = all.iter().filter_map(|one| Some(lent(one, named(one.0)?)));
    let mut found: Vec<Lent> = named.collect();
    // What is lent for a prefix comes before what the table is configured with, however long its folder is called.
    let of_all = all.iter().filter(|(credential, _)| self::named(credential).is_none());
    if let Some(of_all) = of_all.max_by_key(|(credential, _)| credential.prefix.len()) {
        let left = |folder: &&String| !found.iter().any(|named| covers(&named.prefix, folder));
        let folders: Vec<String> = folders.iter().filter(left).cloned().collect();
        found.extend(folders.into_iter().map(|folder| lent(of_all, folder)));
    }
    found
}

/// The folders of a table: the one above that of its metadata, and where it says that it has files.
pub(super) fn folders(metadata_location: &Location, metadata: Option<&Metadata>) -> Vec<String> {
    let above = metadata_location.as_str().rsplit_once('/');
    let above = above.map_or(metadata_location.as_str(), |(folder, _)| folder);
    let mut found = vec![format!("{}/", above.strip_suffix("/metadata").unwrap_or(above))];
    let Some(metadata) = metadata else { return found };
    let elsewhere = ELSEWHERE.iter().filter_map(|name| metadata.property(name)?.parse::<Location>().ok());
    // Of a whole bucket others have something, too.
    let all = elsewhere.chain([metadata.location.clone()]).filter(|folder| !folder.key().is_empty());
    found.extend(all.map(|folder| format!("{}/", folder.as_str().trim_end_matches('/'))));
    found.sort();
    found.dedup();
    found.retain(|folder| !folder.starts_with("file:"));
    found
}

/// Whether one location is another, or lies below it.
pub(super) fn covers(folder: &str, location: &str) -> bool {
    let rest = location.strip_prefix(folder.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether it opens anything.
pub(super) fn has_keys(credential: &StorageCredential) -> bool {
    keys(credential).is_some()
}

/// Where credentials are good: below their prefix; or, if that names no bucket (`None`), in the folders of the table.
fn named(credential: &StorageCredential) -> Option<String> {
    let (scheme, rest) = credential.prefix.split_once("://").filter(|(_, rest)| !rest.is_empty())?;
    // The other names of the same store.
    let scheme = if matches!(scheme, "s3a" | "s3n") { "s3" } else { scheme };
    Some(format!("{scheme}://{rest}"))
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
    /// Whether a catalog lends here that lends there, too.
    pub(super) fn have_a_catalog_of(&self, other: &Self) -> bool {
        let others = other.0.lock().clone();
        let is_of = |own: &Arc<Lender>| others.iter().any(|other| Arc::ptr_eq(&own.catalog, &other.catalog));
        self.0.lock().iter().any(is_of)
    }

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
pub(super) mod tests {
    use super::*;
    use icecache_iceberg::catalog::Changes;
    use icecache_iceberg::{CatalogError, Token};

    /// A catalog that has nothing.
    #[derive(Debug)]
    struct Nobody(#[allow(dead_code)] u8); // each has an address of its own

    #[async_trait]
    impl Catalog for Nobody {
        async fn namespaces(&self) -> Result<Vec<Vec<String>>, CatalogError> {
            Ok(Vec::new())
        }

        async fn tables(&self, _: &[String]) -> Result<Vec<TableId>, CatalogError> {
            Ok(Vec::new())
        }

        async fn load(&self, _: &TableId) -> Result<Table, CatalogError> {
            Err(CatalogError::Refused { why: "it has none".into() })
        }

        async fn poll(&self, _: &[(TableId, Token)]) -> Result<Changes, CatalogError> {
            Ok(Changes::default())
        }
    }

    /// A table for which something is lent.
    pub(in super::super) fn table(credentials: &[StorageCredential]) -> (Arc<dyn Catalog>, Table) {
        let table = Table {
            id: TableId { namespace: vec!["db".into()], name: "t".into() },
            metadata_location: "s3://b/wh/t/metadata/1.metadata.json".parse().expect("a location"),
            metadata: None,
            token: Token(String::new()),
            credentials: credentials.to_vec(),
        };
        (Arc::new(Nobody(0)), table)
    }

    fn credential(prefix: &str, properties: &[(&str, &str)]) -> StorageCredential {
        let properties = properties.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        StorageCredential { prefix: prefix.to_owned(), properties: properties.collect() }
    }

    #[test]
    fn what_is_lent_is_good_below_its_prefix() {
        let keys = |name| [("s3.access-key-id", name), ("s3.secret-access-key", "s")];
        let lent = |credentials: &[StorageCredential], folders: &[&str]| -> Vec<(String, String)> {
            let (catalog, table) = table(credentials);
            let folders: Vec<String> = folders.iter().map(|folder| (*folder).to_owned()).collect();
            let all = lent(&catalog, &table, &folders, false).into_iter();
            let first = |lent: &Lent| lent.source.0.lock()[0].first.lock().clone().expect("keys");
            all.map(|lent| (first(&lent).keys.access_key, lent.prefix)).collect()
        };
        let is = |name: &str, prefix: &str| (name.to_owned(), prefix.to_owned());
        let own = credential("", &keys("own"));
        assert_eq!(lent(std::slice::from_ref(&own), &["s3://b/wh/t/"]), [is("own", "s3://b/wh/t/")]);
        let folders = ["s3://b/wh/t/", "s3://d/wh/t/"];
        let both = [is("own", "s3://b/wh/t/"), is("own", "s3://d/wh/t/")];
        assert_eq!(lent(&[own.clone(), credential("s3", &[])], &folders), both);
        let named = credential("s3a://b/wh/t", &keys("named"));
        assert_eq!(
            lent(&[named, own.clone()], &folders),
            [is("named", "s3://b/wh/t"), is("own", "s3://d/wh/t/")],
            "what is configured for the table is for the rest"
        );
        let [general, other] = [credential("s3", &keys("general")), credential("s3://b/wh/t2", &keys("2"))];
        let general = lent(&[general, other, own], &folders[..1]);
        assert_eq!(general, [is("2", "s3://b/wh/t2"), is("general", "s3://b/wh/t/")]);
    }

    #[test]
    fn a_table_has_files_where_it_says() {
        let folders = |metadata: &str, text: Option<&str>| {
            let metadata: Location = metadata.parse().expect("a location");
            let parsed =
                text.map(|text| Metadata::parse(text.as_bytes(), "v1.metadata.json").expect("metadata"));
            folders(&metadata, parsed.as_ref())
        };
        assert_eq!(folders("s3://b/wh/t/metadata/1.metadata.json", None), ["s3://b/wh/t/"]);
        assert_eq!(folders("s3://b/t/1.metadata.json", None), ["s3://b/t/"]);
        let text = |location: &str, data: &str| {
            format!(
                r#"{{"format-version":2,"table-uuid":"f79c3e09-677c-4bbd-a479-3f349cb785e7","location":"{location}",
                "last-sequence-number":0,"last-updated-ms":1,"last-column-id":1,"current-schema-id":0,
                "schemas":[{{"type":"struct","schema-id":0,"fields":[]}}],"default-spec-id":0,
                "partition-specs":[{{"spec-id":0,"fields":[]}}],"last-partition-id":999,"default-sort-order-id":0,
                "sort-orders":[{{"order-id":0,"fields":[]}}],"properties":{{"write.data.path":"{data}"}},
                "current-snapshot-id":-1,"snapshots":[]}}"#
            )
        };
        let moved = text("s3a://b/wh/t/", "s3://d/x");
        let all = ["s3://b/meta/t/", "s3://b/wh/t/", "s3://d/x/"];
        assert_eq!(folders("s3://b/meta/t/1.metadata.json", Some(&moved)), all);
        let wide = text("s3://b/wh/t", "s3://b");
        assert_eq!(folders("s3://b/wh/t/metadata/1.metadata.json", Some(&wide)), ["s3://b/wh/t/"]);
        assert!(
            covers("s3://b/t", "s3://b/t/")
                && covers("s3://b/t/", "s3://b/t")
                && covers("s3://b", "s3://b/t")
        );
        assert!(!covers("s3://b/t", "s3://b/t2") && !covers("s3://b/t/", "s3://b"));
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
