//! [`RestCatalog`]: catalogs that speak Iceberg's REST protocol.
//!
//! A poll is one GET for each table with the ETag of last time and `snapshots=refs`, which a catalog answers by
//! 304 without loading anything. It asks for no credentials: some catalogs make those a part of the ETag. An ETag that
//! has become another one says that the table may have changed: the location of the metadata and the metadata are
//! compared, and if they are the same that ETag is asked with from then on. Where a catalog knows no ETags, the location
//! is compared.
mod auth;
mod digest;
mod http;
#[cfg(test)]
mod tests;

use super::http::Answer;
use super::{AT_ONCE, Catalog, CatalogError, Changes, NAMES_MAX, Names, Options, ask, ask_names};
use crate::document::Object;
use crate::table::{StorageCredential, Table, TableId, Token};
use async_trait::async_trait;
use auth::Auth;
use digest::digest;
use futures::stream::{self, StreamExt};
use http::{Http, Query, segment, success};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tokio::sync::OnceCell;

/// The mark between the levels of a namespace, where the catalog does not say another one.
const SEPARATOR: &str = "\u{1f}";
/// The most parts of one listing.
const PARTS_MAX: usize = 10_000;
/// The deepest namespace.
const DEPTH_MAX: usize = 16;

/// A catalog behind HTTP.
#[derive(Debug)]
pub(super) struct RestCatalog {
    http: Http,
    auth: Auth,
    warehouse: Option<String>,
    /// What we are told ourselves, as far as it may stand in what the catalog says first of all.
    own: BTreeMap<String, String>,
    vended: bool,
    /// What the catalog says first of all: its prefix, and what tables need to be opened.
    config: OnceCell<Config>,
    /// The tables whose ETag has become another one, while nothing else has.
    tags: Mutex<HashMap<TableId, Tag>>,
}

/// The ETag that a version has by now.
#[derive(Debug)]
struct Tag {
    version: Token,
    etag: String,
}

/// Namespaces, and those among them of which it cannot be told which others are in them.
type Tree = (BTreeSet<Vec<String>>, BTreeSet<Vec<String>>);

#[derive(Debug)]
struct Config {
    /// `v1/<prefix>` or `v1`.
    base: String,
    /// What stands between the levels of a namespace.
    separator: String,
    /// What opens files of all tables, as far as a table or what is lent for it does not say otherwise.
    files: BTreeMap<String, String>,
}

/// Whether a property is about how files are opened.
fn is_of_files(name: &str) -> bool {
    name.starts_with("s3.") || name.starts_with("client.")
}

/// Whether anything comes of a property beside what we begin with.
fn is_kept(name: &str) -> bool {
    is_of_files(name) || matches!(name, "prefix" | "namespace-separator")
}

impl Config {
    fn levels(&self, namespace: &[String]) -> String {
        namespace.join(&self.separator)
    }

    /// A namespace in a path. Encoded in full: who reads it may look for the mark before it is decoded.
    fn segment(&self, namespace: &[String]) -> String {
        let mark: String = self.separator.bytes().map(|byte| format!("%{byte:02X}")).collect();
        namespace.iter().map(|level| segment(level)).collect::<Vec<_>>().join(&mark)
    }
}

impl RestCatalog {
    pub fn new(uri: &str, options: &Options) -> Result<Self, CatalogError> {
        let http = Http::new(uri, options)?;
        let vended = options.get("vended-credentials").is_none_or(|value| value != "false");
        Ok(Self {
            auth: Auth::new(options)?,
            http,
            warehouse: options.get("warehouse").map(str::to_owned),
            own: options
                .iter()
                .filter(|(name, _)| is_kept(name))
                .map(|(n, v)| (n.to_owned(), v.to_owned()))
                .collect(),
            vended,
            config: OnceCell::new(),
            tags: Mutex::default(),
        })
    }

    async fn config(&self) -> Result<&Config, CatalogError> {
        self.config
            .get_or_try_init(|| async {
                let query: Query =
                    self.warehouse.iter().map(|warehouse| ("warehouse", warehouse.clone())).collect();
                let answer = success(self.ask("v1/config", &query, &[]).await?, "configuration")?;
                let object = answer.object()?;
                let mut properties: BTreeMap<String, String> = read(&object, "defaults")?.unwrap_or_default();
                properties.extend(self.own.clone());
                properties
                    .extend(read::<BTreeMap<String, String>>(&object, "overrides")?.unwrap_or_default());
                let base = match properties.get("prefix").filter(|prefix| !prefix.is_empty()) {
                    Some(prefix) => format!("v1/{}", prefix.trim_matches('/')),
                    None => "v1".into(),
                };
                let separator = properties.get("namespace-separator").and_then(|text| decoded(text));
                let separator = separator.unwrap_or_else(|| SEPARATOR.to_owned());
                properties.retain(|name, _| is_of_files(name));
                Ok(Config { base, separator, files: properties })
            })
            .await
    }

    /// A GET with credentials; once more with new ones, if these have run out.
    async fn ask(&self, path: &str, query: &Query, headers: &[(&str, &str)]) -> Result<Answer, CatalogError> {
        let mut token = self.auth.token(&self.http, None).await?;
        for last in [false, true] {
            let answer = self.http.get(path, query, headers, token.as_deref()).await?;
            // 419 is what some servers say of a token that was good once.
            if last || !matches!(answer.status, 401 | 419) || !self.auth.renews() {
                return Ok(answer);
            }
            token = self.auth.token(&self.http, token).await?;
        }
        Err(CatalogError::Refused { why: "the catalog takes no token".into() })
    }

    /// All parts of a listing.
    async fn list(
        &self,
        path: &str,
        mut query: Query,
        member: &str,
        what: &str,
    ) -> Result<Vec<Listed>, CatalogError> {
        let mut found = Vec::new();
        query.push(("pageToken", String::new()));
        for _ in 0..PARTS_MAX {
            let answer = success(self.ask(path, &query, &[]).await?, what)?;
            let object = answer.object()?;
            // A gateway that answers everything with an empty object has not said that there are none.
            let part = read::<Vec<Listed>>(&object, member)?;
            found.extend(part.ok_or_else(|| CatalogError::Refused {
                why: format!("answer is not what the protocol says: {what} without '{member}'"),
            })?);
            if found.len() > NAMES_MAX {
                return Err(CatalogError::Refused { why: format!("more than {NAMES_MAX} names in {what}") });
            }
            query.pop();
            match read::<String>(&object, "next-page-token")?.filter(|token| !token.is_empty()) {
                Some(next) => query.push(("pageToken", next)),
                None => return Ok(found),
            }
        }
        Err(CatalogError::Refused { why: format!("the list of {what} does not end") })
    }

    async fn table_path(&self, id: &TableId) -> Result<String, CatalogError> {
        let config = self.config().await?;
        let (base, namespace) = (&config.base, config.segment(&id.namespace));
        Ok(format!("{base}/namespaces/{namespace}/tables/{}", segment(&id.name)))
    }

    /// Whether a table has another version than the one of `token`.
    async fn changed(&self, id: &TableId, token: &Token) -> Result<bool, CatalogError> {
        let path = self.table_path(id).await?;
        let (etag, location, known) = split(token);
        let newer = self.tags.lock().get(id).filter(|tag| tag.version == *token).map(|tag| tag.etag.clone());
        let etag = newer.as_deref().or(etag);
        let query = vec![("snapshots", "refs".to_owned())];
        let headers: Vec<_> = etag.iter().map(|etag| ("if-none-match", *etag)).collect();
        let answer = self.ask(&path, &query, &headers).await?;
        if answer.status == 304 {
            return Ok(false);
        }
        let answer = success(answer, &format!("table {id}")).inspect_err(|error| {
            if matches!(error, CatalogError::NotFound { .. }) {
                self.tags.lock().remove(id);
            }
        })?;
        let object = answer.object()?;
        let has_moved = read::<String>(&object, "metadata-location")?.as_deref() != Some(location);
        let Some(etag) = answer.header("etag") else { return Ok(has_moved) };
        if has_moved || known.is_some_and(|known| known != metadata_digest(&object)) {
            self.tags.lock().remove(id);
            return Ok(true);
        }
        // Asked with the old one it would send all of it again, each time.
        self.tags.lock().insert(id.clone(), Tag { version: token.clone(), etag: etag.to_owned() });
        Ok(false)
    }

    /// Level by level, several questions at once.
    async fn tree(&self) -> Result<Tree, CatalogError> {
        let config = self.config().await?;
        let path = format!("{}/namespaces", config.base);
        let (mut found, mut shut) = Tree::default();
        let mut level = vec![Vec::new()];
        while !level.is_empty() {
            let asked = std::mem::take(&mut level).into_iter().map(|parent| {
                let top = Vec::new();
                let query = if parent.is_empty() { top } else { vec![("parent", config.levels(&parent))] };
                let listed = self.list(&path, query, "namespaces", "namespaces");
                async move { (parent, listed.await) }
            });
            let mut answers = stream::iter(asked.collect::<Vec<_>>()).buffered(AT_ONCE);
            while let Some((parent, listed)) = answers.next().await {
                let listed = match listed {
                    Err(CatalogError::NotFound { .. }) if !parent.is_empty() => Vec::new(), // it went
                    // It is not ours to look into, or the catalog knows none within others: its tables are another matter.
                    Err(CatalogError::Denied { .. } | CatalogError::Refused { .. }) if !parent.is_empty() => {
                        shut.insert(parent);
                        continue;
                    }
                    listed => listed?,
                };
                for item in listed {
                    let Listed::Levels(namespace) = item else { continue };
                    // A catalog that does not know parents answers with everything, again and again.
                    let below = namespace.len() > parent.len() && namespace.starts_with(&parent);
                    if below && namespace.len() <= DEPTH_MAX && found.insert(namespace.clone()) {
                        level.push(namespace);
                    }
                }
                if found.len() > NAMES_MAX {
                    return Err(CatalogError::Refused { why: format!("more than {NAMES_MAX} namespaces") });
                }
            }
        }
        Ok((found, shut))
    }
}

/// A name in a listing: a namespace is an array, a table an object.
#[derive(Debug, serde::Deserialize)]
#[serde(untagged)]
enum Listed {
    Levels(Vec<String>),
    Table { namespace: Vec<String>, name: String },
}

/// A token holds the ETag and a digest of the metadata, if there was one, and the location.
fn join(tagged: Option<(&str, &str)>, location: &str) -> Token {
    match tagged {
        Some((etag, digest)) => Token(format!("{etag}\n{location}\n{digest}")),
        None => Token(format!("\n{location}")),
    }
}

fn split(token: &Token) -> (Option<&str>, &str, Option<&str>) {
    let (etag, rest) = token.0.split_once('\n').unwrap_or(("", &token.0));
    let (location, digest) = rest.split_once('\n').map_or((rest, None), |(at, digest)| (at, Some(digest)));
    (Some(etag).filter(|etag| !etag.is_empty()), location, digest)
}

/// A digest of the metadata in an answer; empty if it holds none.
fn metadata_digest(object: &Object) -> String {
    object.raw("metadata").map(digest).unwrap_or_default()
}

/// A text in which a percent sign may stand before two hexadecimal digits; `None` if it is none, or empty.
fn decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut out = parts.next()?.as_bytes().to_vec();
    for part in parts {
        out.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        out.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(out).ok().filter(|text| !text.is_empty())
}

fn read<T: serde::de::DeserializeOwned>(object: &Object, name: &str) -> Result<Option<T>, CatalogError> {
    object
        .get(name)
        .map_err(|why| CatalogError::Refused { why: format!("answer is not what the protocol says: {why}") })
}

#[async_trait]
impl Catalog for RestCatalog {
    async fn namespaces(&self) -> Result<Vec<Vec<String>>, CatalogError> {
        Ok(self.tree().await?.0.into_iter().collect())
    }

    async fn names(&self) -> Result<Names, CatalogError> {
        let (namespaces, shut_below) = self.tree().await?;
        let names = ask_names(self, namespaces).await?;
        Ok(Names { shut_below, ..names })
    }

    async fn tables(&self, namespace: &[String]) -> Result<Vec<TableId>, CatalogError> {
        if namespace.is_empty() {
            return Ok(Vec::new());
        }
        let config = self.config().await?;
        let path = format!("{}/namespaces/{}/tables", config.base, config.segment(namespace));
        let what = format!("namespace {}", namespace.join("."));
        let mut tables = Vec::new();
        for item in self.list(&path, Vec::new(), "identifiers", &what).await? {
            if let Listed::Table { namespace, name } = item {
                tables.push(TableId { namespace, name });
            }
        }
        tables.sort();
        Ok(tables)
    }

    async fn load(&self, id: &TableId) -> Result<Table, CatalogError> {
        let path = self.table_path(id).await?;
        // The version first, without credentials: the tag of the next poll must be of that same request.
        let query = vec![("snapshots", "refs".to_owned())];
        let tagged = success(self.ask(&path, &query, &[]).await?, &format!("table {id}"))?;
        let object = tagged.object()?;
        let location: String = read(&object, "metadata-location")?.ok_or_else(|| CatalogError::Refused {
            why: format!("table {id} has no metadata-location: it was created, but never committed"),
        })?;
        let tagged = tagged.header("etag").map(|etag| (etag, metadata_digest(&object)));
        let token = join(tagged.as_ref().map(|(etag, digest)| (*etag, digest.as_str())), &location);
        let mut credentials = Vec::new();
        let merged = |into: &BTreeMap<String, String>, object: &Object| {
            let own: BTreeMap<String, String> = read(object, "config")?.unwrap_or_default();
            let mut all = into.clone();
            if own.contains_key("s3.access-key-id") {
                // The session of other keys is none of these.
                all.retain(|name, _| !name.starts_with("s3.session-token"));
            }
            all.extend(own);
            Ok::<_, CatalogError>(all)
        };
        let files = &self.config().await?.files;
        let mut config = merged(files, &object)?;
        if self.vended {
            let headers = [("x-iceberg-access-delegation", "vended-credentials")];
            let answer = success(self.ask(&path, &query, &headers).await?, &format!("table {id}"))?;
            let object = answer.object()?;
            config = merged(files, &object)?;
            for credential in read::<Vec<Object>>(&object, "storage-credentials")?.unwrap_or_default() {
                let properties = merged(&config, &credential)?;
                let prefix = read(&credential, "prefix")?.unwrap_or_default();
                credentials.push(StorageCredential { prefix, properties: properties.into_iter().collect() });
            }
        }
        if !config.is_empty() {
            credentials
                .push(StorageCredential { prefix: String::new(), properties: config.into_iter().collect() });
        }
        let metadata_location = location.parse()?;
        Ok(Table { id: id.clone(), metadata_location, metadata: None, token, credentials })
    }

    fn asks_each(&self) -> bool {
        true
    }

    async fn poll(&self, known: &[(TableId, Token)]) -> Result<Changes, CatalogError> {
        self.config().await?;
        Ok(ask(known, |id: TableId, token: Token| async move { self.changed(&id, &token).await }).await)
    }
}
