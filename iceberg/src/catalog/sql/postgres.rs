//! [`Postgres`]: a catalog in PostgreSQL.
mod tls;

use super::{
    ALL_QUERY, CATALOGS_QUERY, Catalogs, Contents, Database, NAMED_CATALOGS_QUERY, Row, TABLE_QUERY,
    TABLES_QUERY, check_rows,
};
use crate::catalog::CatalogError;
use async_trait::async_trait;
use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tls::{Tls, Wish};
use tokio::sync::Mutex;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config};

/// So long connecting and each question may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where there is no table of namespaces, every row of the tables says whether there is one by now.
const TABLES_ALONE_QUERY: &str = "SELECT *, to_regclass('iceberg_namespace_properties') IS NOT NULL AS has_namespaces \
     FROM iceberg_tables WHERE catalog_name = $1 ORDER BY table_namespace, table_name LIMIT 100001";

/// A database of PostgreSQL: one connection, made when it is needed, and again when it is lost.
pub(in crate::catalog) struct Postgres {
    config: Config,
    tls: Tls,
    client: Mutex<Option<Client>>,
    /// Whether it has a table of namespaces, as far as anybody knows.
    has_namespaces: AtomicBool,
}

impl std::fmt::Debug for Postgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Postgres").field("hosts", &self.config.get_hosts()).finish_non_exhaustive()
    }
}

impl Postgres {
    /// Understands the URI; connects to nobody yet.
    pub fn new(uri: &str) -> Result<Self, CatalogError> {
        // The text of the error could hold a part of the URI.
        let wish = Wish::of(uri);
        let mut config = Config::from_str(&wish.uri).map_err(|_| CatalogError::Refused {
            why: "not a URI of PostgreSQL: postgres://USER@HOST/DATABASE".into(),
        })?;
        if config.get_ssl_mode() != SslMode::Prefer {
            return Err(CatalogError::Refused { why: "sslmode is said where nobody looks for it".into() });
        }
        let (mode, tls) = wish.open()?;
        config.ssl_mode(mode).connect_timeout(PATIENCE).application_name("icecache");
        Ok(Self { config, tls, client: Mutex::new(None), has_namespaces: AtomicBool::new(true) })
    }

    async fn query(&self, query: &str, of: &[&str]) -> Result<Vec<tokio_postgres::Row>, Fault> {
        let mut client = self.client.lock().await;
        if client.as_ref().is_none_or(Client::is_closed) {
            let (new, connection) = self.config.connect(self.tls.clone()).await?;
            // Ends with the client.
            tokio::spawn(async move { drop(connection.await) });
            *client = Some(new);
        }
        let Some(client) = client.as_ref() else { return Ok(Vec::new()) };
        let of: Vec<&(dyn ToSql + Sync)> = of.iter().map(|one| one as _).collect();
        Ok(client.query(query, &of).await?)
    }

    async fn ask(&self, query: &str, of: &[&str]) -> Result<Vec<tokio_postgres::Row>, Fault> {
        match tokio::time::timeout(PATIENCE, self.query(query, of)).await {
            Ok(rows) => rows,
            Err(_) => {
                // Whatever is still on its way must not answer the next question.
                *self.client.lock().await = None;
                Err(Fault::Slow)
            }
        }
    }
}

enum Fault {
    Slow,
    Postgres(tokio_postgres::Error),
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error)
    }
}

impl From<Fault> for CatalogError {
    fn from(fault: Fault) -> Self {
        let error = match fault {
            Fault::Slow => {
                return Self::Unavailable { why: format!("PostgreSQL did not answer in {PATIENCE:?}") };
            }
            Fault::Postgres(error) => error,
        };
        let Some(told) = error.as_db_error() else {
            return Self::Unavailable { why: format!("PostgreSQL: {}", with_cause(&error)) };
        };
        let why = format!("PostgreSQL: {}", told.message());
        match told.code() {
            &SqlState::INVALID_PASSWORD
            | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION
            | &SqlState::INSUFFICIENT_PRIVILEGE => Self::Denied { why },
            code if code.code().starts_with("53")
                || code.code().starts_with("57")
                || code.code().starts_with("08") =>
            {
                Self::Unavailable { why }
            }
            _ => Self::Refused { why },
        }
    }
}

fn with_cause(error: &tokio_postgres::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

fn column<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a tokio_postgres::Row,
    name: &str,
) -> Result<T, CatalogError> {
    row.try_get(name)
        .map_err(|error| CatalogError::Refused { why: format!("PostgreSQL: column {name}: {error}") })
}

fn table(row: &tokio_postgres::Row, has_kind: bool) -> Result<Row, CatalogError> {
    Ok(Row {
        namespace: column(row, "table_namespace")?,
        name: column(row, "table_name")?,
        metadata: column(row, "metadata_location")?,
        kind: if has_kind { column(row, "iceberg_type")? } else { None },
    })
}

/// What rows hold. In those of a namespace without tables there is no table.
fn contents(rows: &[tokio_postgres::Row]) -> Result<Contents, CatalogError> {
    let has =
        |name: &str| rows.first().is_some_and(|row| row.columns().iter().any(|column| column.name() == name));
    let (has_kind, has_namespaces) = (has("iceberg_type"), has("named_namespace"));
    let (mut tables, mut namespaces) = (Vec::new(), Vec::new());
    check_rows(rows.len())?;
    for row in rows {
        if has_namespaces && let Some(namespace) = column(row, "named_namespace")? {
            namespaces.push(namespace);
        }
        if column::<Option<&str>>(row, "table_name")?.is_some() {
            tables.push(table(row, has_kind)?);
        }
    }
    Ok((tables, namespaces))
}

#[async_trait]
impl Database for Postgres {
    async fn catalogs(&self) -> Result<Catalogs, CatalogError> {
        let names = |rows: Vec<tokio_postgres::Row>| -> Result<BTreeSet<String>, CatalogError> {
            rows.iter().map(|row| column(row, "catalog_name")).collect()
        };
        let with_tables = names(self.ask(CATALOGS_QUERY, &[]).await?)?;
        if !with_tables.is_empty() {
            return Ok(Catalogs { names: with_tables, have_tables: true });
        }
        match self.ask(NAMED_CATALOGS_QUERY, &[]).await {
            Err(Fault::Postgres(error)) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => {
                Ok(Catalogs::default())
            }
            rows => Ok(Catalogs { names: names(rows?)?, have_tables: false }),
        }
    }

    async fn tables(&self, catalog: &str) -> Result<Vec<Row>, CatalogError> {
        Ok(contents(&self.ask(TABLES_QUERY, &[catalog]).await?)?.0)
    }

    async fn table(&self, catalog: &str, namespace: &str, name: &str) -> Result<Vec<Row>, CatalogError> {
        Ok(contents(&self.ask(TABLE_QUERY, &[catalog, namespace, name]).await?)?.0)
    }

    async fn contents(&self, catalog: &str) -> Result<Contents, CatalogError> {
        if self.has_namespaces.load(Relaxed) {
            match self.ask(ALL_QUERY, &[catalog]).await {
                Err(Fault::Postgres(error)) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => {}
                rows => return contents(&rows?),
            }
        }
        let rows = self.ask(TABLES_ALONE_QUERY, &[catalog]).await?;
        let has_namespaces = rows.first().map(|row| column(row, "has_namespaces")).transpose()?;
        // Without a row nobody has said so.
        self.has_namespaces.store(has_namespaces != Some(false), Relaxed);
        let rows = if has_namespaces == Some(true) { self.ask(ALL_QUERY, &[catalog]).await? } else { rows };
        contents(&rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_in_no_message() {
        let postgres = Postgres::new("postgres://u:secret@h/d").unwrap();
        assert!(!format!("{postgres:?}").contains("secret"));
        let bad = Postgres::new("postgres://u:secret@h:port/d").unwrap_err().to_string();
        assert!(!bad.contains("secret") && bad.contains("postgres://USER@HOST/DATABASE"), "{bad}");
        let mode = Postgres::new("postgres://u:secret@h/d?sslmode=secret").unwrap_err().to_string();
        assert!(!mode.contains("secret") && mode.contains("verify-full"), "{mode}");
    }

    #[tokio::test]
    async fn nobody_there_is_no_reason_to_give_up() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let postgres = Postgres::new(&format!("postgres://u@127.0.0.1:{port}/d")).unwrap();
        let error = postgres.tables("x").await.unwrap_err();
        assert!(error.is_transient(), "{error}");
    }
}
