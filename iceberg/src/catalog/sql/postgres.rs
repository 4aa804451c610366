//! [`Postgres`]: a catalog in PostgreSQL.
use super::{Database, NAMESPACES_QUERY, Row, TABLES_QUERY};
use crate::catalog::{CatalogError, NAMES_MAX};
use async_trait::async_trait;
use std::str::FromStr;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};

/// So long connecting and each question may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A database of PostgreSQL: one connection, made when it is needed, and again when it is lost.
pub(in crate::catalog) struct Postgres {
    config: Config,
    client: Mutex<Option<Client>>,
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
        let mut config = Config::from_str(uri).map_err(|_| CatalogError::Refused {
            why: "not a URI of PostgreSQL: postgres://USER@HOST/DATABASE".into(),
        })?;
        if config.get_ssl_mode() == SslMode::Require {
            let why = "connections to PostgreSQL by TLS are not supported; connect through a proxy on this machine \
                       (stunnel, cloud-sql-proxy) with sslmode=disable";
            return Err(CatalogError::Refused { why: why.into() });
        }
        config.connect_timeout(PATIENCE).application_name("icecache");
        Ok(Self { config, client: Mutex::new(None) })
    }

    async fn query(&self, query: &str) -> Result<Vec<tokio_postgres::Row>, Fault> {
        let mut client = self.client.lock().await;
        if client.as_ref().is_none_or(Client::is_closed) {
            let (new, connection) = self.config.connect(NoTls).await?;
            // Ends with the client.
            tokio::spawn(async move { drop(connection.await) });
            *client = Some(new);
        }
        let Some(client) = client.as_ref() else { return Ok(Vec::new()) };
        Ok(client.query(query, &[]).await?)
    }

    async fn ask(&self, query: &str) -> Result<Vec<tokio_postgres::Row>, Fault> {
        match tokio::time::timeout(PATIENCE, self.query(query)).await {
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

#[async_trait]
impl Database for Postgres {
    async fn tables(&self) -> Result<Vec<Row>, CatalogError> {
        let rows = self.ask(TABLES_QUERY).await?;
        let read = |row: &tokio_postgres::Row| {
            let has_kind = row.columns().iter().any(|column| column.name() == "iceberg_type");
            Ok(Row {
                catalog: column(row, "catalog_name")?,
                namespace: column(row, "table_namespace")?,
                name: column(row, "table_name")?,
                metadata: column(row, "metadata_location")?,
                kind: if has_kind { column(row, "iceberg_type")? } else { None },
            })
        };
        rows.iter().take(NAMES_MAX).map(read).collect()
    }

    async fn namespaces(&self) -> Result<Vec<(String, String)>, CatalogError> {
        let rows = match self.ask(NAMESPACES_QUERY).await {
            Err(Fault::Postgres(error)) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => {
                return Ok(Vec::new());
            }
            rows => rows?,
        };
        let read = |row: &tokio_postgres::Row| Ok((column(row, "catalog_name")?, column(row, "namespace")?));
        rows.iter().take(NAMES_MAX).map(read).collect()
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
        let tls = Postgres::new("postgres://u:secret@h/d?sslmode=require").unwrap_err().to_string();
        assert!(tls.contains("TLS"), "{tls}");
    }

    #[tokio::test]
    async fn nobody_there_is_no_reason_to_give_up() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let postgres = Postgres::new(&format!("postgres://u@127.0.0.1:{port}/d")).unwrap();
        let error = postgres.tables().await.unwrap_err();
        assert!(error.is_transient(), "{error}");
    }
}
