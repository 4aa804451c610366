//! [`Reply`]: what a metastore says to the few questions that it is asked.
use super::wire::{EXCEPTION, Fault, Input, LIST, MAP, REPLY, STRING, STRUCT};
use crate::catalog::NAMES_MAX;
use crate::catalog::metastore::{METADATA_LOCATION, TABLE_TYPE, location};
use tokio::io::AsyncRead;

/// What a reply should hold, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// A list of texts.
    Names,
    /// One table.
    Table,
    /// One table in a struct.
    TableInStruct,
    /// A list of tables.
    Tables,
    /// A list of tables in a struct.
    TablesInStruct,
}

/// A table: its name, and where its metadata is if it is one of Iceberg's.
pub(super) type Entry = (String, Option<String>);

/// What a metastore says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    Names(Vec<String>),
    Tables(Vec<Entry>),
    /// One of the exceptions that the method may end with, by its number, and what it says.
    Thrown(i16, String),
    /// The server could not even ask the method: by its number, and what it says.
    Failed(i32, String),
}

/// There is no such method.
pub(super) const UNKNOWN_METHOD: i32 = 1;

impl Reply {
    /// The reply to the question `method` with this number.
    pub async fn read<R: AsyncRead + Unpin>(
        input: &mut Input<R>,
        method: &str,
        sequence: i32,
        shape: Shape,
    ) -> Result<Self, Fault> {
        let (kind, name, number) = input.message().await?;
        if number != sequence || name != method {
            return Err(Fault::Malformed("it answers another question".into()));
        }
        match kind {
            REPLY => result(input, shape).await,
            EXCEPTION => failure(input).await,
            kind => Err(Fault::Malformed(format!("a message of kind {kind}"))),
        }
    }
}

/// The struct of a result: number 0 is what the method returns, each other one is an exception.
async fn result<R: AsyncRead + Unpin>(input: &mut Input<R>, shape: Shape) -> Result<Reply, Fault> {
    let mut reply = None;
    while let Some((kind, number)) = input.field().await? {
        reply = Some(match (number, kind, shape) {
            (0, LIST, Shape::Names) => Reply::Names(names(input).await?),
            (0, STRUCT, Shape::Table) => Reply::Tables(vec![table(input).await?]),
            (0, LIST, Shape::Tables) => Reply::Tables(tables(input).await?),
            (0, STRUCT, Shape::TableInStruct | Shape::TablesInStruct) => Reply::Tables(within(input).await?),
            (1.., STRUCT, _) => Reply::Thrown(number, message(input).await?),
            (_, kind, _) => {
                input.skip(kind).await?;
                continue;
            }
        });
    }
    reply.ok_or_else(|| Fault::Malformed("neither a result nor an exception".into()))
}

/// A struct whose number 1 is a table, or a list of them.
async fn within<R: AsyncRead + Unpin>(input: &mut Input<R>) -> Result<Vec<Entry>, Fault> {
    let mut found = None;
    while let Some((kind, number)) = input.field().await? {
        match (number, kind) {
            (1, STRUCT) => found = Some(vec![table(input).await?]),
            (1, LIST) => found = Some(tables(input).await?),
            (_, kind) => input.skip(kind).await?,
        }
    }
    found.ok_or_else(|| Fault::Malformed("a result without tables".into()))
}

async fn names<R: AsyncRead + Unpin>(input: &mut Input<R>) -> Result<Vec<String>, Fault> {
    let count = bounded(input.list(STRING).await?)?;
    let mut names = Vec::new();
    for _ in 0..count {
        names.push(input.text().await?);
    }
    Ok(names)
}

async fn tables<R: AsyncRead + Unpin>(input: &mut Input<R>) -> Result<Vec<Entry>, Fault> {
    let count = bounded(input.list(STRUCT).await?)?;
    let mut tables = Vec::new();
    for _ in 0..count {
        tables.push(table(input).await?);
    }
    Ok(tables)
}

fn bounded(count: usize) -> Result<usize, Fault> {
    if count <= NAMES_MAX { Ok(count) } else { Err(Fault::Malformed(format!("more than {NAMES_MAX} names"))) }
}

/// A table of Hive's: number 1 is its name, number 9 are its parameters.
async fn table<R: AsyncRead + Unpin>(input: &mut Input<R>) -> Result<Entry, Fault> {
    let (mut name, mut kind_of_table, mut metadata) = (None, None, None);
    while let Some((kind, number)) = input.field().await? {
        match (number, kind) {
            (1, STRING) => name = Some(input.text().await?),
            (9, MAP) => {
                for _ in 0..input.texts_by_text().await? {
                    match input.text().await?.as_str() {
                        TABLE_TYPE => kind_of_table = Some(input.text().await?),
                        METADATA_LOCATION => metadata = Some(input.text().await?),
                        _ => input.skip(STRING).await?,
                    }
                }
            }
            (_, kind) => input.skip(kind).await?,
        }
    }
    let name = name.ok_or_else(|| Fault::Malformed("a table without a name".into()))?;
    Ok((name, location(kind_of_table.as_deref(), metadata)))
}

/// The struct of an exception: number 1 is what it says.
async fn message<R: AsyncRead + Unpin>(input: &mut Input<R>) -> Result<String, Fault> {
    let mut message = String::new();
    while let Some((kind, number)) = input.field().await? {
        match (number, kind) {
            (1, STRING) => message = input.text().await?,
            (_, kind) => input.skip(kind).await?,
        }
    }
    Ok(message)
}

/// What the server itself says: number 1 is the text, number 2 the kind.
async fn failure<R: AsyncRead + Unpin>(input: &mut Input<R>) -> Result<Reply, Fault> {
    let (mut message, mut kind_of_failure) = (String::new(), 0);
    while let Some((kind, number)) = input.field().await? {
        match (number, kind) {
            (1, STRING) => message = input.text().await?,
            (2, super::wire::I32) => kind_of_failure = input.i32().await?,
            (_, kind) => input.skip(kind).await?,
        }
    }
    Ok(Reply::Failed(kind_of_failure, message))
}
