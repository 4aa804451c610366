//! [`Sqlite`]: a catalog in a file.
use super::{
    ALL_QUERY, CATALOGS_QUERY, Catalogs, Contents, Database, NAMED_CATALOGS_QUERY, Row, TABLE_QUERY,
    TABLES_QUERY, check_rows,
};
use crate::catalog::CatalogError;
use async_trait::async_trait;
use rusqlite::{Connection, ErrorCode, OpenFlags, Statement, params_from_iter};
use std::collections::BTreeSet;
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

/// What the rows of a statement hold, and how many there are. In those of a namespace without tables there is no table.
fn contents(mut statement: Statement<'_>, of: &[&str]) -> rusqlite::Result<(Contents, usize)> {
    let has_kind = statement.column_index("iceberg_type").is_ok();
    let has_namespaces = statement.column_index("named_namespace").is_ok();
    let (mut tables, mut namespaces, mut count) = (Vec::new(), Vec::new(), 0);
    let mut rows = statement.query(params_from_iter(of))?;
    while let Some(row) = rows.next()? {
        count += 1;
        if has_namespaces && let Some(namespace) = row.get("named_namespace")? {
            namespaces.push(namespace);
        }
        if let Some(name) = row.get("table_name")? {
            tables.push(Row {
                namespace: row.get("table_namespace")?,
                name,
                metadata: row.get("metadata_location")?,
                kind: if has_kind { row.get("iceberg_type")? } else { None },
            });
        }
    }
    Ok(((tables, namespaces), count))
}

fn catalogs(connection: &Connection, query: &str) -> rusqlite::Result<BTreeSet<String>> {
    connection.prepare(query)?.query_map([], |row| row.get(0))?.collect()
}

#[async_trait]
impl Database for Sqlite {
    async fn catalogs(&self) -> Result<Catalogs, CatalogError> {
        self.ask(|connection| {
            let names = catalogs(connection, CATALOGS_QUERY)?;
            if !names.is_empty() {
                return Ok(Catalogs { names, have_tables: true });
            }
            // Databases of old have no table of namespaces.
            let has = connection.prepare(NAMED_CATALOGS_QUERY).is_ok();
            let names = if has { catalogs(connection, NAMED_CATALOGS_QUERY)? } else { names };
            Ok(Catalogs { names, have_tables: false })
        })
        .await
    }

    async fn tables(&self, catalog: &str) -> Result<Vec<Row>, CatalogError> {
        let catalog = catalog.to_owned();
        let question =
            move |connection: &Connection| contents(connection.prepare(TABLES_QUERY)?, &[&catalog]);
        let ((tables, _), count) = self.ask(question).await?;
        check_rows(count)?;
        Ok(tables)
    }

    async fn table(&self, catalog: &str, namespace: &str, name: &str) -> Result<Vec<Row>, CatalogError> {
        let of = [catalog, namespace, name].map(str::to_owned);
        let question = move |connection: &Connection| {
            contents(connection.prepare(TABLE_QUERY)?, &of.each_ref().map(String::as_str))
        };
        let ((tables, _), _) = self.ask(question).await?;
        Ok(tables)
    }

    async fn contents(&self, catalog: &str) -> Result<Contents, CatalogError> {
        let catalog = catalog.to_owned();
        let question = move |connection: &Connection| {
            let statement = connection.prepare(ALL_QUERY).or_else(|_| connection.prepare(TABLES_QUERY))?;
            contents(statement, &[&catalog])
        };
        let (found, count) = self.ask(question).await?;
        check_rows(count)?;
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::sql::SqlCatalog;
    use crate::catalog::{Catalog, NAMES_MAX, Options};
    use crate::table::TableId;

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
            let names = catalog.names().await.unwrap();
            assert_eq!(
                names.namespaces.iter().flat_map(|(_, tables)| tables).flatten().count(),
                tables.len()
            );
            connection
                .execute_batch(
                    "CREATE TABLE iceberg_namespace_properties (catalog_name VARCHAR(255), namespace VARCHAR(255), property_key VARCHAR(255), property_value VARCHAR(1000));
                     INSERT INTO iceberg_namespace_properties VALUES ('c', 'db', 'a', '1'), ('c', 'db', 'b', '2'), ('c', 'none', 'a', '1'), ('d', 'other', 'a', '1');",
                )
                .unwrap();
            // A view is of the catalog, too.
            let open =
                |name: &str| SqlCatalog::new(Sqlite::new(dir.path().join(file)), name, &Options::default());
            let (names, changes) = open("c").names_and_changes(&[]).await.unwrap();
            let names = names.namespaces;
            let namespaces: Vec<&[String]> =
                names.iter().map(|(namespace, _)| namespace.as_slice()).collect();
            assert_eq!(namespaces, [&["db".to_owned()][..], &["none".to_owned()], &[]], "{file}");
            assert_eq!((names[0].1.as_ref().map(Vec::len), changes.changes.len()), (Some(tables.len()), 0));
        }
        let none = SqlCatalog::new(Sqlite::new(dir.path().join("none.db")), "mine", &Options::default());
        assert!(matches!(none.namespaces().await, Err(CatalogError::Unavailable { .. })));
        assert!(!dir.path().join("none.db").exists());
    }

    /// What stands behind the last row that is read would seem to be dropped.
    #[tokio::test]
    async fn a_catalog_with_too_many_rows_is_refused_and_those_of_others_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.db");
        let connection = Connection::open(&path).unwrap();
        let fill = |catalog: &str, rows: usize| {
            let insert = format!(
                "INSERT INTO iceberg_tables WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
                 SELECT '{catalog}', 'a', 't' || i, 's3://b/x' FROM n"
            );
            connection.execute_batch(&insert).unwrap();
        };
        connection
            .execute_batch(
                "CREATE TABLE iceberg_tables (catalog_name VARCHAR(255), table_namespace VARCHAR(255), table_name VARCHAR(255), metadata_location VARCHAR(1000));
                 INSERT INTO iceberg_tables VALUES ('mine', 'z', 'last', 's3://b/1')",
            )
            .unwrap();
        fill("another", NAMES_MAX);
        let catalog = SqlCatalog::new(Sqlite::new(path), "mine", &Options::default());
        assert_eq!(catalog.namespaces().await.unwrap(), [["z"]]);
        fill("mine", NAMES_MAX - 1);
        assert_eq!(catalog.namespaces().await.unwrap(), [["a"], ["z"]]);
        fill("mine", 1);
        // One is found among them all the same: nobody reads the others for it.
        let last = TableId { namespace: vec!["z".into()], name: "last".into() };
        assert_eq!(catalog.load(&last).await.unwrap().metadata_location.as_str(), "s3://b/1");
        let none = TableId { namespace: vec!["a".into()], name: "last".into() };
        assert!(matches!(catalog.load(&none).await, Err(CatalogError::NotFound { .. })));
        for error in [catalog.poll(&[]).await.unwrap_err(), catalog.names().await.unwrap_err()] {
            assert!(matches!(error, CatalogError::Refused { .. }), "{error}");
        }
    }
}
