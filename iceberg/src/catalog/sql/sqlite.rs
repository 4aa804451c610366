//! [`Sqlite`]: a catalog in a file.
use super::{Database, NAMESPACES_QUERY, Row, TABLES_QUERY};
use crate::catalog::{CatalogError, NAMES_MAX};
use async_trait::async_trait;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::path::PathBuf;
use std::time::Duration;

/// So long a writer may hold the database.
const BUSY: Duration = Duration::from_secs(5);

/// A file of SQLite, opened for each question: whoever replaces it is noticed.
#[derive(Debug)]
pub(in crate::catalog) struct Sqlite {
    path: PathBuf,
}

impl Sqlite {
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, CatalogError> {
        let path = self.path.clone();
        let answer = tokio::task::spawn_blocking(move || {
            // Not read only: a database in WAL mode that nobody else has open could not be read then.
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(&path, flags).or_else(|_| {
                Connection::open_with_flags(
                    &path,
                    OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
                )
            })?;
            connection.busy_timeout(BUSY)?;
            connection.pragma_update(None, "query_only", true)?;
            question(&connection)
        })
        .await;
        let shown = self.path.display();
        match answer {
            Ok(answer) => answer.map_err(|error| match error.sqlite_error_code() {
                // A file that cannot be opened may be of a disk that is not mounted yet.
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::CannotOpen) => {
                    CatalogError::Unavailable { why: format!("{shown}: {error}") }
                }
                Some(ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied) => {
                    CatalogError::Denied { why: format!("{shown}: {error}") }
                }
                _ => CatalogError::Refused { why: format!("{shown}: {error}") },
            }),
            Err(error) => Err(CatalogError::Unavailable { why: error.to_string() }),
        }
    }
}

#[async_trait]
impl Database for Sqlite {
    async fn tables(&self) -> Result<Vec<Row>, CatalogError> {
        self.ask(|connection| {
            let mut statement = connection.prepare(TABLES_QUERY)?;
            let has_kind = statement.column_index("iceberg_type").is_ok();
            let rows = statement.query_map([], |row| {
                Ok(Row {
                    catalog: row.get("catalog_name")?,
                    namespace: row.get("table_namespace")?,
                    name: row.get("table_name")?,
                    metadata: row.get("metadata_location")?,
                    kind: if has_kind { row.get("iceberg_type")? } else { None },
                })
            })?;
            rows.take(NAMES_MAX).collect()
        })
        .await
    }

    async fn namespaces(&self) -> Result<Vec<(String, String)>, CatalogError> {
        self.ask(|connection| {
            let Ok(mut statement) = connection.prepare(NAMESPACES_QUERY) else { return Ok(Vec::new()) };
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.take(NAMES_MAX).collect()
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::sql::SqlCatalog;
    use crate::catalog::{Catalog, Options};

    #[tokio::test]
    async fn old_and_new_databases_are_read() {
        let dir = tempfile::tempdir().unwrap();
        for (file, column, value) in [("v0.db", "", ""), ("v1.db", ", iceberg_type VARCHAR(5)", ", 'VIEW'")] {
            let path = dir.path().join(file);
            let connection = Connection::open(&path).unwrap();
            let create = format!(
                "PRAGMA journal_mode=WAL; CREATE TABLE iceberg_tables (catalog_name VARCHAR(255), table_namespace VARCHAR(255), table_name VARCHAR(255), metadata_location VARCHAR(1000), previous_metadata_location VARCHAR(1000){column});"
            );
            connection.execute_batch(&create).unwrap();
            let insert =
                format!("INSERT INTO iceberg_tables VALUES ('c', 'db', 't', 's3://b/t/1', NULL{value})");
            connection.execute_batch(&insert).unwrap();
            let catalog = SqlCatalog::new(Sqlite::new(path), "mine", &Options::default());
            let tables = catalog.tables(&["db".into()]).await.unwrap();
            assert_eq!(tables.len(), usize::from(value.is_empty()), "{file}");
        }
        let none = SqlCatalog::new(Sqlite::new(dir.path().join("none.db")), "mine", &Options::default());
        assert!(matches!(none.namespaces().await, Err(CatalogError::Unavailable { .. })));
        assert!(!dir.path().join("none.db").exists());
    }
}
