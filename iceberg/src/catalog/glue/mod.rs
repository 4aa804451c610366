//! [`Glue`]: the Data Catalog of AWS Glue.
//!
//! A poll is one request for each table that is watched, or one for each hundred tables of a database, whichever is
//! fewer: Glue gives a hundred tables a page, wanted or not, in no order that one may rely on.
mod client;
#[cfg(test)]
mod tests;

use super::aws::Aws;
use super::metastore::{Found, METADATA_LOCATION, Metastore, TABLE_TYPE, location};
use super::{AT_ONCE, CatalogError, NAMES_MAX, Options};
use crate::document::Object;
use async_trait::async_trait;
use client::Client;
use futures::stream::{self, StreamExt};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// So many databases or tables a page has, at most; Glue allows no more.
const PAGE: usize = 100;
/// The most pages of one listing; some may be empty.
const PAGES_MAX: usize = 2 * NAMES_MAX / PAGE;

/// The Data Catalog of an account in a region.
#[derive(Debug)]
pub(super) struct Glue {
    client: Client,
    /// The account, if not the one of the credentials.
    id: Option<String>,
    /// How many pages of tables each database had when all were read last.
    pages: Mutex<HashMap<String, usize>>,
}

/// A table of a page: its name, and where its metadata is if it is one of Iceberg's.
type Listed = (String, Option<String>);

impl Glue {
    /// Sends nothing yet. The option `glue.id` names the account whose catalog is meant.
    pub fn new(region: Option<&str>, options: &Options, aws: Arc<dyn Aws>) -> Result<Self, CatalogError> {
        let id = options.get("glue.id").filter(|id| !id.is_empty()).map(str::to_owned);
        Ok(Self { client: Client::new(region, options, aws)?, id, pages: Mutex::default() })
    }

    async fn ask(&self, operation: &str, mut question: Value, what: &str) -> Result<Object, CatalogError> {
        if let Some(id) = &self.id {
            question["CatalogId"] = json!(id);
        }
        self.client.ask(operation, &question, what).await
    }

    /// Pages of a listing, until `enough` says so or there is no more; how many, if there is no more.
    async fn pages(
        &self,
        (operation, member): (&str, &str),
        mut question: Value,
        what: &str,
        mut enough: impl FnMut(Vec<Object>) -> Result<bool, CatalogError> + Send,
    ) -> Result<Option<usize>, CatalogError> {
        question["MaxResults"] = json!(PAGE);
        for page in 1..=PAGES_MAX {
            let answer = self.ask(operation, question.clone(), what).await?;
            if enough(read(&answer, member)?.unwrap_or_default())? {
                return Ok(None);
            }
            match read::<String>(&answer, "NextToken")?.filter(|next| !next.is_empty()) {
                Some(next) => question["NextToken"] = json!(next),
                None => return Ok(Some(page)),
            }
        }
        Err(CatalogError::Refused { why: format!("the list of {what} does not end") })
    }

    /// The tables of a database, until `enough` says so.
    async fn listed(
        &self,
        database: &str,
        mut enough: impl FnMut(&[Listed]) -> bool + Send,
    ) -> Result<(), CatalogError> {
        let what = format!("database {}", database.escape_debug());
        let mut count = 0;
        let page = |tables: Vec<Object>| {
            count += tables.len();
            if count > NAMES_MAX {
                return Err(CatalogError::Refused { why: format!("more than {NAMES_MAX} tables in {what}") });
            }
            let tables = tables.iter().map(table).collect::<Result<Vec<_>, _>>()?;
            Ok(enough(&tables))
        };
        let question = json!({ "DatabaseName": database });
        if let Some(pages) = self.pages(("GetTables", "TableList"), question, &what, page).await? {
            self.pages.lock().insert(database.to_owned(), pages);
        }
        Ok(())
    }

    /// One table, if it is one of Iceberg's.
    async fn one(&self, database: &str, name: &str) -> Result<Option<String>, CatalogError> {
        let what = format!("table {}.{}", database.escape_debug(), name.escape_debug());
        let question = json!({ "DatabaseName": database, "Name": name });
        let answer = match self.ask("GetTable", question, &what).await {
            Err(CatalogError::NotFound { .. }) => return Ok(None),
            answer => answer?,
        };
        let found: Object = read(&answer, "Table")?.ok_or_else(|| CatalogError::Refused {
            why: format!("Glue: the answer for {what} holds no table"),
        })?;
        Ok(table(&found)?.1)
    }
}

fn read<T: serde::de::DeserializeOwned>(object: &Object, name: &str) -> Result<Option<T>, CatalogError> {
    let wrong =
        |why| CatalogError::Refused { why: format!("Glue: answer is not what the protocol says: {why}") };
    object.get(name).map_err(wrong)
}

fn table(object: &Object) -> Result<Listed, CatalogError> {
    let name: Option<String> = read(object, "Name")?;
    let name = name.ok_or_else(|| CatalogError::Refused { why: "Glue: a table without a name".into() })?;
    let Some(parameters) = read::<Object>(object, "Parameters")? else { return Ok((name, None)) };
    let text = |name: &str| parameters.get::<String>(name).ok().flatten();
    let location = location(text(TABLE_TYPE).as_deref(), text(METADATA_LOCATION));
    Ok((name, location))
}

#[async_trait]
impl Metastore for Glue {
    async fn databases(&self) -> Result<Vec<String>, CatalogError> {
        let mut names = Vec::new();
        let page = |databases: Vec<Object>| {
            for database in &databases {
                names.extend(read::<String>(database, "Name")?);
            }
            Ok(names.len() > NAMES_MAX)
        };
        self.pages(("GetDatabases", "DatabaseList"), json!({}), "databases", page).await?;
        Ok(names)
    }

    async fn tables(&self, database: &str) -> Result<Vec<String>, CatalogError> {
        let mut names = Vec::new();
        let page = |tables: &[Listed]| {
            let iceberg = tables.iter().filter(|(_, location)| location.is_some());
            names.extend(iceberg.map(|(name, _)| name.clone()));
            false
        };
        self.listed(database, page).await?;
        Ok(names)
    }

    async fn locations(&self, database: &str, tables: &[&str]) -> Result<Found, CatalogError> {
        let pages = self.pages.lock().get(database).copied().unwrap_or(1);
        let (mut left, mut found): (HashSet<&str>, _) = (tables.iter().copied().collect(), Found::new());
        if tables.len() > pages {
            let page = |listed: &[Listed]| {
                for (name, location) in listed.iter().filter(|(name, _)| left.remove(name.as_str())) {
                    found.extend(location.clone().map(|location| (name.clone(), Ok(location))));
                }
                left.is_empty()
            };
            self.listed(database, page).await?;
        }
        // Of those that no page has each is asked for: pages are not of one moment, and who is not there is dropped.
        let each = left.into_iter().map(|name| async move { (name, self.one(database, name).await) });
        let each: Vec<_> = stream::iter(each.collect::<Vec<_>>()).buffered(AT_ONCE).collect().await;
        for (name, location) in each {
            found.extend(location.transpose().map(|location| (name.to_owned(), location)));
        }
        Ok(found)
    }
}
