//! [`MetastoreCatalog`]: what Glue and Hive have in common, which is Hive's idea of tables: databases of one level, and
//! tables with parameters. One is Iceberg's if its parameter `table_type` says so; `metadata_location` says where its
//! metadata is.
use super::{AT_ONCE, Catalog, CatalogError, Change, Changes, NAMES_MAX, Names, ask_names};
use crate::table::{Table, TableId, Token};
use async_trait::async_trait;
use futures::stream::{self, StreamExt};
use std::collections::{BTreeMap, HashMap};

/// The parameter that says what kind of table one is, and what it says of those that count here, in any case.
pub(super) const TABLE_TYPE: &str = "table_type";
const ICEBERG: &str = "iceberg";
/// The parameter that says where the metadata is.
pub(super) const METADATA_LOCATION: &str = "metadata_location";

/// Where the metadata of a table with these parameters is, if it is one of Iceberg's.
pub(super) fn location(kind: Option<&str>, metadata: Option<String>) -> Option<String> {
    let is_iceberg = kind.is_some_and(|kind| kind.eq_ignore_ascii_case(ICEBERG));
    metadata.filter(|metadata| is_iceberg && !metadata.is_empty())
}

/// Who knows databases and their tables.
#[async_trait]
pub(super) trait Metastore: Send + Sync + std::fmt::Debug {
    /// The names of all databases.
    async fn databases(&self) -> Result<Vec<String>, CatalogError>;
    /// The names of Iceberg's tables in a database.
    async fn tables(&self, database: &str) -> Result<Vec<String>, CatalogError>;
    /// Where the metadata of these tables is, in as few questions as possible. What is no table, or none of Iceberg's,
    /// is left out.
    async fn locations(&self, database: &str, tables: &[&str]) -> Result<Found, CatalogError>;
}

/// Where the metadata of tables is; or why that of one cannot be told.
pub(super) type Found = HashMap<String, Result<String, CatalogError>>;

/// A catalog of this kind.
#[derive(Debug)]
pub(super) struct MetastoreCatalog<M> {
    metastore: M,
}

impl<M: Metastore> MetastoreCatalog<M> {
    pub fn new(metastore: M) -> Self {
        Self { metastore }
    }

    async fn tables_of(&self, database: &str) -> Result<Vec<TableId>, CatalogError> {
        let mut names = self.metastore.tables(database).await?;
        names.sort();
        let id = |name| TableId { namespace: vec![database.to_owned()], name };
        Ok(names.into_iter().map(id).collect())
    }
}

/// Databases have one level.
fn database(namespace: &[String]) -> Result<&str, CatalogError> {
    match namespace {
        [database] => Ok(database),
        _ => {
            Err(CatalogError::NotFound { what: format!("namespace {}", namespace.join(".").escape_debug()) })
        }
    }
}

#[async_trait]
impl<M: Metastore> Catalog for MetastoreCatalog<M> {
    async fn namespaces(&self) -> Result<Vec<Vec<String>>, CatalogError> {
        let mut databases = self.metastore.databases().await?;
        if databases.len() > NAMES_MAX {
            return Err(CatalogError::Refused { why: format!("more than {NAMES_MAX} databases") });
        }
        databases.sort();
        databases.dedup();
        Ok(databases.into_iter().map(|database| vec![database]).collect())
    }

    async fn tables(&self, namespace: &[String]) -> Result<Vec<TableId>, CatalogError> {
        match database(namespace) {
            Ok(database) => self.tables_of(database).await,
            Err(_) if namespace.is_empty() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    async fn names(&self) -> Result<Names, CatalogError> {
        ask_names(self, self.namespaces().await?).await
    }

    async fn load(&self, id: &TableId) -> Result<Table, CatalogError> {
        let none = || CatalogError::NotFound { what: format!("table {id} of Iceberg's") };
        let database = database(&id.namespace).map_err(|_| none())?;
        let mut found = self.metastore.locations(database, &[&id.name]).await?;
        let location = found.remove(&id.name).ok_or_else(none)??;
        Ok(Table {
            id: id.clone(),
            metadata_location: location.parse()?,
            metadata: None,
            token: Token(location),
            credentials: Vec::new(),
        })
    }

    async fn poll(&self, known: &[(TableId, Token)]) -> Result<Changes, CatalogError> {
        let mut asked: BTreeMap<Vec<String>, Vec<String>> = BTreeMap::new();
        for (id, _) in known {
            asked.entry(id.namespace.clone()).or_default().push(id.name.clone());
        }
        let answers: HashMap<Vec<String>, Result<Found, CatalogError>> =
            stream::iter(asked.into_iter().map(|(namespace, tables)| async move {
                let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
                let answer = match database(&namespace) {
                    Ok(database) => self.metastore.locations(database, &tables).await,
                    Err(error) => Err(error),
                };
                (namespace, answer)
            }))
            .buffered(AT_ONCE)
            .collect()
            .await;
        let mut changes = Changes::default();
        for (id, token) in known {
            match answers.get(&id.namespace) {
                Some(Ok(locations)) => match locations.get(&id.name) {
                    Some(Ok(location)) if *location == token.0 => {}
                    Some(Err(error)) => changes.failed.push((id.clone(), error.clone())),
                    Some(Ok(_)) => changes.changes.push(Change::Changed(id.clone())),
                    None => changes.changes.push(Change::Dropped(id.clone())),
                },
                Some(Err(CatalogError::NotFound { .. })) => changes.changes.push(Change::Dropped(id.clone())),
                Some(Err(error)) => changes.failed.push((id.clone(), error.clone())),
                None => {}
            }
        }
        Ok(changes)
    }
}
