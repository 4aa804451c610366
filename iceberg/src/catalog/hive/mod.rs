//! [`Hive`]: a Hive metastore, asked by Thrift.
//!
//! A poll is one question for each hundred tables that are watched in a database, and names them. Metastores of Hive 4
//! know only the methods that end in `_req`, those before 2.3 only the others.
mod client;
mod reply;
#[cfg(test)]
mod tests;
mod wire;

use super::metastore::{Found, Metastore};
use super::{CatalogError, Options, passed_on};
use async_trait::async_trait;
use client::{Client, Question};
use futures::FutureExt;
use parking_lot::Mutex;
use reply::{Entry, Reply, Shape, UNKNOWN_METHOD};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use wire::{I32, Input, LIST, Output, STRING, STRUCT};

/// So many tables are asked for by one question.
const BATCH: usize = 100;
/// A table that was none of Iceberg's is asked again after this time; one is made into another where it is.
const FOREIGN: Duration = Duration::from_secs(300);
/// The capability to read tables that are only inserted into: without it Hive answers for none of a batch that has one.
const INSERT_ONLY_TABLES: i32 = 2;

/// The exceptions of the methods, by their numbers: what all of them may throw, what those for one table throw if there
/// is none, and those for several if there is no such database. None of them: what is not there is an empty list.
const META: i16 = 1;
const NO_SUCH_OBJECT: i16 = 2;
const UNKNOWN_DB: i16 = 3;
const NONE: i16 = 0;
/// What a server says that could not do what it wanted to.
const INTERNAL_ERROR: i32 = 6;
/// Metastores have no word of their own for it: what stands in what they say if somebody is not let in.
const DENIALS: [&str; 4] =
    ["ermission denied", "AccessControlException", "not authorized", "does not have privileges"];

/// See the module. Owner of its lock.
#[derive(Debug)]
pub(super) struct Hive {
    client: Client,
    /// It does not know the newer methods.
    is_old: AtomicBool,
    /// Of each database the tables that are Iceberg's, and those that were not when they were asked.
    kinds: Mutex<HashMap<String, HashMap<String, Option<Instant>>>>,
}

impl Hive {
    /// Sends nothing yet. `servers` are `host:port`.
    pub fn new(servers: &[String], options: &Options) -> Result<Self, CatalogError> {
        Ok(Self {
            client: Client::new(servers, options)?,
            is_old: AtomicBool::new(false),
            kinds: Mutex::default(),
        })
    }

    async fn names(&self, method: &str, arguments: &Output, what: &str) -> Result<Vec<String>, CatalogError> {
        let question = Question { method, arguments: arguments.bytes(), shape: Shape::Names };
        match self.client.ask(question).await? {
            Reply::Names(names) => Ok(names),
            reply => Err(meaning(reply, what, NONE)),
        }
    }

    /// Asks by the newer of two methods, or by the older one if this metastore does not know that.
    async fn tables_by(
        &self,
        newer: Question<'_>,
        older: Question<'_>,
        what: &str,
        absent: i16,
    ) -> Result<Vec<Entry>, CatalogError> {
        let is_old = self.is_old.load(Ordering::Relaxed);
        let questions = if is_old { [older, newer] } else { [newer, older] };
        let mut reply = self.client.ask(questions[0]).await?;
        if matches!(reply, Reply::Failed(UNKNOWN_METHOD, _)) {
            reply = self.client.ask(questions[1]).await?;
            self.is_old.store(!is_old, Ordering::Relaxed);
        }
        match reply {
            Reply::Tables(tables) => Ok(tables),
            reply => Err(meaning(reply, what, absent)),
        }
    }

    /// One table; none, if there is no such.
    async fn one(&self, database: &str, name: &str) -> Result<Vec<Entry>, CatalogError> {
        let (mut newer, mut older) = (Output::default(), Output::default());
        newer.field(STRUCT, 1).field(STRING, 1).text(database).field(STRING, 2).text(name);
        capable(&mut newer).stop();
        older.field(STRING, 1).text(database).field(STRING, 2).text(name).stop();
        let newer =
            Question { method: "get_table_req", arguments: newer.bytes(), shape: Shape::TableInStruct };
        let older = Question { method: "get_table", arguments: older.bytes(), shape: Shape::Table };
        let what = format!("table {}.{}", database.escape_debug(), name.escape_debug());
        match self.tables_by(newer, older, &what, NO_SUCH_OBJECT).await {
            Err(CatalogError::NotFound { .. }) => Ok(Vec::new()),
            tables => tables,
        }
    }

    /// Several tables, those that are there.
    async fn several(&self, database: &str, names: &[&str]) -> Result<Vec<Entry>, CatalogError> {
        let (mut newer, mut older) = (Output::default(), Output::default());
        newer.field(STRUCT, 1).field(STRING, 1).text(database).field(LIST, 2).texts(names);
        capable(&mut newer).stop();
        older.field(STRING, 1).text(database).field(LIST, 2).texts(names).stop();
        let newer = Question {
            method: "get_table_objects_by_name_req",
            arguments: newer.bytes(),
            shape: Shape::TablesInStruct,
        };
        let older =
            Question { method: "get_table_objects_by_name", arguments: older.bytes(), shape: Shape::Tables };
        let what = format!("database {}", database.escape_debug());
        self.tables_by(newer, older, &what, UNKNOWN_DB).await
    }

    /// Tables of any number, those that are there.
    async fn entries(
        &self,
        database: &str,
        names: &[&str],
    ) -> Result<HashMap<String, Option<String>>, CatalogError> {
        let mut found = HashMap::new();
        for batch in names.chunks(BATCH) {
            found.extend(match batch {
                [name] => self.one(database, name).await?,
                names => self.several(database, names).await?,
            });
        }
        // What was not asked for is nobody's business.
        let asked: HashSet<&str> = names.iter().copied().collect();
        found.retain(|name, _| asked.contains(name.as_str()));
        Ok(found)
    }

    /// Remembers which of these tables are Iceberg's.
    fn learn(&self, database: &str, asked: &[&str], found: &HashMap<String, Option<String>>) {
        let mut kinds = self.kinds.lock();
        let kinds = kinds.entry(database.to_owned()).or_default();
        for name in asked {
            match found.get(*name) {
                Some(location) => {
                    let since = location.is_none().then(Instant::now);
                    kinds.insert((*name).to_owned(), since);
                }
                None => drop(kinds.remove(*name)),
            }
        }
    }

    /// Which of these tables somebody must ask for; all others of the database are forgotten.
    fn unknown<'a>(&self, database: &str, names: &'a [String]) -> Vec<&'a str> {
        let mut kinds = self.kinds.lock();
        let kinds = kinds.entry(database.to_owned()).or_default();
        let there: HashSet<&str> = names.iter().map(String::as_str).collect();
        kinds.retain(|name, since| {
            there.contains(name.as_str()) && since.is_none_or(|since| since.elapsed() < FOREIGN)
        });
        names.iter().map(String::as_str).filter(|name| !kinds.contains_key(*name)).collect()
    }
}

/// The end of a question by one of the newer methods.
fn capable(question: &mut Output) -> &mut Output {
    question.field(STRUCT, 3).field(LIST, 1).list(I32, 1).i32(INSERT_ONLY_TABLES).stop().stop()
}

/// What it means that a metastore does not answer a question; `absent` is the number of the exception that says that
/// what was asked for is not there.
fn meaning(reply: Reply, what: &str, absent: i16) -> CatalogError {
    let text = |why: &str| format!("metastore: {what}: {}", passed_on(why));
    match reply {
        Reply::Thrown(number, _) if number == absent => CatalogError::NotFound { what: what.to_owned() },
        Reply::Thrown(_, why) if DENIALS.iter().any(|denial| why.contains(denial)) => {
            CatalogError::Denied { why: text(&why) }
        }
        // Whatever went wrong in it: its database, its file system.
        Reply::Thrown(META, why) | Reply::Failed(INTERNAL_ERROR, why) => {
            CatalogError::Unavailable { why: text(&why) }
        }
        Reply::Thrown(_, why) | Reply::Failed(_, why) => CatalogError::Refused { why: text(&why) },
        Reply::Names(_) | Reply::Tables(_) => {
            CatalogError::Refused { why: text("it answers another question") }
        }
    }
}

#[async_trait]
impl Metastore for Hive {
    async fn databases(&self) -> Result<Vec<String>, CatalogError> {
        let mut arguments = Output::default();
        arguments.stop();
        self.names("get_all_databases", &arguments, "databases").await
    }

    async fn tables(&self, database: &str) -> Result<Vec<String>, CatalogError> {
        let mut arguments = Output::default();
        arguments.field(STRING, 1).text(database).stop();
        let what = format!("database {}", database.escape_debug());
        let mut names = self.names("get_all_tables", &arguments, &what).await?;
        let unknown = self.unknown(database, &names);
        let found = self.entries(database, &unknown).await?;
        self.learn(database, &unknown, &found);
        let kinds = self.kinds.lock();
        let is_iceberg = |name: &String| kinds.get(database).and_then(|kinds| kinds.get(name)) == Some(&None);
        names.retain(is_iceberg);
        Ok(names)
    }

    async fn locations(&self, database: &str, tables: &[&str]) -> Result<Found, CatalogError> {
        let found = self.entries(database, tables).await?;
        self.learn(database, tables, &found);
        Ok(found.into_iter().filter_map(|(name, location)| Some((name, Ok(location?)))).collect())
    }
}

/// Reads what a metastore may reply, of any kind; how many names there are in it. What fuzzing calls.
///
/// # Errors
/// Why it cannot be read.
pub fn metastore_reply(bytes: &[u8]) -> Result<usize, String> {
    let mut last = String::new();
    for (method, shape) in [
        ("get_all_tables", Shape::Names),
        ("get_table", Shape::Table),
        ("get_table_req", Shape::TableInStruct),
        ("get_table_objects_by_name", Shape::Tables),
        ("get_table_objects_by_name_req", Shape::TablesInStruct),
    ] {
        let mut input = Input::new(bytes, client::REPLY_MAX_BYTES);
        // Bytes that are there never have to be waited for.
        let read = Reply::read(&mut input, method, 1, shape).now_or_never();
        match read.ok_or("it waits for what is there")? {
            Ok(Reply::Names(names)) => return Ok(names.len()),
            Ok(Reply::Tables(tables)) => return Ok(tables.len()),
            Ok(Reply::Thrown(..) | Reply::Failed(..)) => return Ok(0),
            Err(fault) => last = fault.to_string(),
        }
    }
    Err(last)
}
