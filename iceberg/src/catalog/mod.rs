//! [`Catalog`]: who says which tables there are, and which version of each is the current one.
//!
//! Kinds, and what a poll of them costs: REST (one conditional request for each table, answered by 304), SQL (one
//! query for all tables), Glue and Hive (one question for each hundred tables of a database), Hadoop (a GET and two HEADs
//! for each table, or a GET, a HEAD and a LIST), and single tables. [`parse`](CatalogAddress) reads `NAME=KIND:…`, [`CatalogAddress::open`] connects.
mod address;
mod aws;
#[cfg(feature = "glue")]
mod glue;
mod hadoop;
#[cfg(feature = "hive")]
mod hive;
#[cfg(feature = "rest")]
mod http;
#[cfg(any(feature = "hive", feature = "glue"))]
mod metastore;
mod options;
#[cfg(feature = "rest")]
mod rest;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod sql;

pub use address::{AddressError, CatalogAddress, CatalogKind};
pub use aws::{Aws, AwsKeys, NoAws};
#[cfg(feature = "hive")]
pub use hive::metastore_reply;
pub use options::Options;

use crate::location::LocationError;
use crate::objects::ObjectError;
use crate::table::{Table, TableId, Token};
use async_trait::async_trait;
use futures::stream::{self, StreamExt};
use std::collections::BTreeSet;

/// How one known table has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It has another version now: [`load`](Catalog::load) it.
    Changed(TableId),
    /// The catalog has it no more.
    Dropped(TableId),
}

/// What a [`poll`](Catalog::poll) has found.
#[derive(Debug, Default)]
pub struct Changes {
    /// The changes, in the order of what was asked.
    pub changes: Vec<Change>,
    /// The tables that could not be asked, and why; nothing is known of them.
    pub failed: Vec<(TableId, CatalogError)>,
}

/// What a catalog has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Namespaces with their tables; `None`: what this one has cannot be told now, while others are open.
    pub namespaces: Vec<(Vec<String>, Option<Vec<TableId>>)>,
    /// Namespaces of which it cannot be told now which others are in them, on any level.
    pub shut_below: BTreeSet<Vec<String>>,
}

/// Of each namespace its tables, or why nobody can tell. One that is shut, as another team's, hides none of the others.
///
/// # Errors
/// All are shut: the first reason.
fn names_of(
    listings: impl IntoIterator<Item = (Vec<String>, Result<Vec<TableId>, CatalogError>)>,
) -> Result<Names, CatalogError> {
    let (mut namespaces, mut is_open, mut shut) = (Vec::new(), false, None);
    for (namespace, tables) in listings {
        let tables = match tables {
            Err(CatalogError::NotFound { .. }) => Some(Vec::new()), // it went, or nothing stands at the top
            Err(error) => {
                shut.get_or_insert(error);
                None
            }
            Ok(tables) => Some(tables),
        };
        // Most catalogs have no tables at the top, and answer that without being asked.
        is_open |= tables.as_ref().is_some_and(|tables| !namespace.is_empty() || !tables.is_empty());
        namespaces.push((namespace, tables));
    }
    match shut {
        Some(error) if !is_open => Err(error),
        _ => Ok(Names { namespaces, shut_below: BTreeSet::new() }),
    }
}

/// The same of a catalog that is asked about each namespace, several at once. Without a namespace it has no tables.
#[cfg(any(feature = "rest", feature = "hive", feature = "glue"))]
async fn ask_names<C: Catalog + ?Sized>(
    catalog: &C,
    namespaces: impl IntoIterator<Item = Vec<String>>,
) -> Result<Names, CatalogError> {
    let asked = namespaces.into_iter().map(|namespace| async move {
        let tables = catalog.tables(&namespace).await;
        (namespace, tables)
    });
    let listings: Vec<_> = stream::iter(asked.collect::<Vec<_>>()).buffered(AT_ONCE).collect().await;
    let mut names = names_of(listings)?;
    names.namespaces.push((Vec::new(), Some(Vec::new())));
    Ok(names)
}

/// Who says which tables there are, and which version of each is the current one.
#[async_trait]
pub trait Catalog: Send + Sync + std::fmt::Debug {
    /// All namespaces, nested ones too, in order. A bounded number: [`NAMES_MAX`].
    async fn namespaces(&self) -> Result<Vec<Vec<String>>, CatalogError>;
    /// The tables of one namespace, without those of the namespaces in it and without views, in order.
    async fn tables(&self, namespace: &[String]) -> Result<Vec<TableId>, CatalogError>;
    /// All namespaces with their tables, those without a namespace last, in as few questions as this kind can.
    async fn names(&self) -> Result<Names, CatalogError> {
        let mut namespaces = self.namespaces().await?;
        namespaces.push(Vec::new());
        let mut listings = Vec::with_capacity(namespaces.len());
        for namespace in namespaces {
            let tables = self.tables(&namespace).await;
            listings.push((namespace, tables));
        }
        names_of(listings)
    }
    /// The current version of a table.
    async fn load(&self, table: &TableId) -> Result<Table, CatalogError>;
    /// Which of these tables have another version than the one named, as cheaply as this kind can tell.
    /// An error says that none could be asked.
    async fn poll(&self, known: &[(TableId, Token)]) -> Result<Changes, CatalogError>;
    /// Whether each table is asked about by a question of its own: then nothing is won by asking about several at once.
    fn asks_each(&self) -> bool {
        false
    }
    /// Whether one question brings both names and changes.
    fn has_one_question(&self) -> bool {
        false
    }
    /// What [`names`](Self::names) and [`poll`](Self::poll) say.
    async fn names_and_changes(&self, known: &[(TableId, Token)]) -> Result<(Names, Changes), CatalogError> {
        Ok((self.names().await?, self.poll(known).await?))
    }
}

/// The most namespaces, and the most tables of one namespace, that a catalog is asked for.
pub const NAMES_MAX: usize = 100_000;

/// So many tables are asked at once.
const AT_ONCE: usize = 16;

/// Asks tables one by one whether they have changed, several at once, and sorts the answers.
async fn ask<F: Future<Output = Result<bool, CatalogError>>>(
    known: &[(TableId, Token)],
    changed: impl Fn(TableId, Token) -> F,
) -> Changes {
    // Owned: the stream must not borrow what it is made from.
    let asked: Vec<_> = known.to_vec();
    let answers: Vec<_> = stream::iter(asked.into_iter().map(|(id, token)| {
        let answer = changed(id.clone(), token);
        async move { (id, answer.await) }
    }))
    .buffered(AT_ONCE)
    .collect()
    .await;
    let mut changes = Changes::default();
    for (id, answer) in answers {
        match answer {
            Ok(false) => {}
            Ok(true) => changes.changes.push(Change::Changed(id)),
            Err(CatalogError::NotFound { .. }) => changes.changes.push(Change::Dropped(id)),
            Err(error) => changes.failed.push((id, error)),
        }
    }
    changes
}

/// Of what a server says of an error, so much is passed on.
#[cfg(any(feature = "rest", feature = "hive"))]
const MESSAGE_MAX_CHARS: usize = 500;

/// What a server said of an error, as it may be passed on.
#[cfg(any(feature = "rest", feature = "hive"))]
fn passed_on(text: &str) -> String {
    let text: String = text.chars().take(MESSAGE_MAX_CHARS).collect();
    text.escape_debug().to_string()
}

/// Why a catalog did not answer. Never holds a secret.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// There is no such table or namespace.
    #[error("catalog has no {what}")]
    NotFound {
        /// Which.
        what: String,
    },
    /// Credentials are missing, wrong or do not permit the call.
    #[error("catalog denies access: {why}")]
    Denied {
        /// What it said.
        why: String,
    },
    /// Not reachable, or asks to come back later: a later attempt may succeed.
    #[error("catalog unavailable: {why}")]
    Unavailable {
        /// What happened.
        why: String,
    },
    /// It answered something that no retry mends.
    #[error("catalog gave no usable answer: {why}")]
    Refused {
        /// What.
        why: String,
    },
    /// A file of the catalog, or of one of its tables, could not be read.
    #[error("{0}")]
    Object(#[from] ObjectError),
}

impl From<LocationError> for CatalogError {
    fn from(error: LocationError) -> Self {
        Self::Refused { why: error.to_string() }
    }
}

impl CatalogError {
    /// Whether a later attempt may succeed without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Object(ObjectError::Unavailable { .. }))
    }
}
