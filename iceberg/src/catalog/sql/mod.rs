//! [`SqlCatalog`]: the tables of Iceberg's JDBC catalog, which PyIceberg and iceberg-rust write too.
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;

#[cfg(feature = "postgres")]
pub(super) use postgres::Postgres;
#[cfg(feature = "sqlite")]
pub(super) use sqlite::Sqlite;

use super::{Catalog, CatalogError, Change, Changes, NAMES_MAX, Names, Options};
use crate::table::{Table, TableId, Token};
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::OnceLock;

/// A row of `iceberg_tables`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    /// The levels of the namespace, joined by dots.
    pub namespace: String,
    pub name: String,
    /// Where its metadata is; a row without is a table in the making.
    pub metadata: Option<String>,
    /// `TABLE` or `VIEW`; older databases do not say.
    pub kind: Option<String>,
}

/// The catalogs that have tables.
pub(super) const CATALOGS_QUERY: &str = "SELECT DISTINCT catalog_name FROM iceberg_tables";
/// The catalogs that have namespaces with properties.
pub(super) const NAMED_CATALOGS_QUERY: &str =
    "SELECT DISTINCT catalog_name FROM iceberg_namespace_properties";
/// The tables of one catalog. Columns are found by name: older databases have fewer.
pub(super) const TABLES_QUERY: &str =
    "SELECT * FROM iceberg_tables WHERE catalog_name = $1 ORDER BY table_namespace, table_name LIMIT 100001";
/// One of them. Names of namespaces and tables are the key of `iceberg_tables`, with that of the catalog.
pub(super) const TABLE_QUERY: &str = "SELECT * FROM iceberg_tables WHERE catalog_name = $1 AND table_namespace = $2 \
     AND table_name = $3 LIMIT 2";
/// All of them, and the namespaces that have properties: beside their tables, or in rows of their own.
pub(super) const ALL_QUERY: &str = "SELECT t.*, n.namespace AS named_namespace \
     FROM (SELECT * FROM iceberg_tables WHERE catalog_name = $1) t FULL JOIN \
     (SELECT DISTINCT namespace FROM iceberg_namespace_properties WHERE catalog_name = $1) n \
     ON t.table_namespace = n.namespace ORDER BY t.table_namespace, t.table_name LIMIT 100001";

/// Rows of `iceberg_tables`, and the namespaces that have properties.
pub(super) type Contents = (Vec<Row>, Vec<String>);

/// A database that holds catalogs.
#[async_trait]
pub(super) trait Database: Send + Sync + std::fmt::Debug {
    /// The catalogs that have tables; where none has, those that have namespaces.
    async fn catalogs(&self) -> Result<Catalogs, CatalogError>;
    /// All rows of a catalog in `iceberg_tables`, by one query.
    async fn tables(&self, catalog: &str) -> Result<Vec<Row>, CatalogError>;
    /// The row of one table, if there is one.
    async fn table(&self, catalog: &str, namespace: &str, name: &str) -> Result<Vec<Row>, CatalogError>;
    /// All rows with namespaces, by one query; none of these if the database has no table of them.
    async fn contents(&self, catalog: &str) -> Result<Contents, CatalogError>;
}

/// The catalogs in a database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Catalogs {
    pub names: BTreeSet<String>,
    pub have_tables: bool,
}

/// What is cut off would seem to be dropped: rather nobody is told anything.
pub(super) fn check_rows(rows: usize) -> Result<(), CatalogError> {
    match rows > NAMES_MAX {
        true => Err(CatalogError::Refused { why: format!("more than {NAMES_MAX} tables and namespaces") }),
        false => Ok(()),
    }
}

/// A catalog in a database. Every question is one query, for all of it or for one table: a row is a name and a location.
#[derive(Debug)]
pub(super) struct SqlCatalog<D> {
    database: D,
    /// What it is called here, and in the database if it says so.
    name: String,
    asked: Option<String>,
    /// Which one of the database it is, as soon as that has tables: others that come later are not meant.
    chosen: OnceLock<String>,
}

impl<D: Database> SqlCatalog<D> {
    /// `name` is what the catalog is called here; the option `catalog-name` what it is called in the database.
    pub fn new(database: D, name: &str, options: &Options) -> Self {
        Self {
            database,
            name: name.to_owned(),
            asked: options.get("catalog-name").map(str::to_owned),
            chosen: OnceLock::new(),
        }
    }

    /// Which of the catalogs in the database is meant: the one asked for, the one of our name, or the only one.
    async fn choose(&self) -> Result<String, CatalogError> {
        if let Some(known) = self.asked.as_ref().or_else(|| self.chosen.get()) {
            return Ok(known.clone());
        }
        let Catalogs { names, have_tables } = self.database.catalogs().await?;
        let chosen = self.choose_among(&names)?;
        Ok(if have_tables { self.chosen.get_or_init(|| chosen).clone() } else { chosen })
    }

    fn choose_among(&self, catalogs: &BTreeSet<String>) -> Result<String, CatalogError> {
        if catalogs.contains(&self.name) || catalogs.is_empty() {
            return Ok(self.name.clone());
        }
        let mut names = catalogs.iter();
        match (names.next(), names.next()) {
            (Some(only), None) => Ok(only.clone()),
            _ => Err(CatalogError::Refused {
                why: format!(
                    "the database holds catalogs {}; say which by the option 'catalog-name'",
                    catalogs
                        .iter()
                        .map(|name| name.escape_debug().to_string())
                        .collect::<Vec<_>>()
                        .join(", ")
                ),
            }),
        }
    }

    async fn rows(&self) -> Result<Vec<Row>, CatalogError> {
        Ok(shown(self.database.tables(&self.choose().await?).await?))
    }

    /// Our tables, and our namespaces: those of the tables, and those that have none.
    async fn rows_and_namespaces(&self) -> Result<(Vec<Row>, BTreeSet<Vec<String>>), CatalogError> {
        let (rows, with_properties) = self.database.contents(&self.choose().await?).await?;
        let rows = shown(rows);
        let named = rows.iter().map(|row| &row.namespace).chain(&with_properties);
        let namespaces = named.map(|namespace| levels(namespace)).collect();
        Ok((rows, namespaces))
    }
}

/// The tables among these rows: no views, and none that are in the making.
fn shown(mut rows: Vec<Row>) -> Vec<Row> {
    rows.retain(|row| {
        row.metadata.is_some() && row.kind.as_deref().is_none_or(|kind| kind.eq_ignore_ascii_case("table"))
    });
    rows
}

fn names(rows: &[Row], namespaces: BTreeSet<Vec<String>>) -> Names {
    let mut names: BTreeMap<Vec<String>, Vec<TableId>> =
        namespaces.into_iter().map(|namespace| (namespace, Vec::new())).collect();
    for row in rows {
        let id = TableId { namespace: levels(&row.namespace), name: row.name.clone() };
        names.entry(id.namespace.clone()).or_default().push(id);
    }
    let top = names.remove(&Vec::new()).unwrap_or_default();
    let all = names.into_iter().chain([(Vec::new(), top)]);
    let namespaces = all.map(|(namespace, tables)| (namespace, Some(tables))).collect();
    Names { namespaces, shut_below: BTreeSet::new() }
}

fn changes(rows: Vec<Row>, known: &[(TableId, Token)]) -> Changes {
    let now: HashMap<(Vec<String>, String), Option<String>> =
        rows.into_iter().map(|row| ((levels(&row.namespace), row.name), row.metadata)).collect();
    let mut changes = Changes::default();
    for (id, token) in known {
        match now.get(&(id.namespace.clone(), id.name.clone())) {
            Some(Some(metadata)) if *metadata == token.0 => {}
            Some(_) => changes.changes.push(Change::Changed(id.clone())),
            None => changes.changes.push(Change::Dropped(id.clone())),
        }
    }
    changes
}

fn levels(namespace: &str) -> Vec<String> {
    if namespace.is_empty() { Vec::new() } else { namespace.split('.').map(str::to_owned).collect() }
}

#[async_trait]
impl<D: Database> Catalog for SqlCatalog<D> {
    async fn namespaces(&self) -> Result<Vec<Vec<String>>, CatalogError> {
        Ok(self.rows_and_namespaces().await?.1.into_iter().collect())
    }

    async fn tables(&self, namespace: &[String]) -> Result<Vec<TableId>, CatalogError> {
        let rows = self.rows().await?;
        let own = rows.into_iter().filter(|row| levels(&row.namespace) == namespace);
        Ok(own.map(|row| TableId { namespace: namespace.to_vec(), name: row.name }).collect())
    }

    async fn names(&self) -> Result<Names, CatalogError> {
        let (rows, namespaces) = self.rows_and_namespaces().await?;
        Ok(names(&rows, namespaces))
    }

    async fn load(&self, id: &TableId) -> Result<Table, CatalogError> {
        let (catalog, namespace) = (self.choose().await?, id.namespace.join("."));
        let rows = shown(self.database.table(&catalog, &namespace, &id.name).await?);
        // A database may compare texts by rules of its own.
        let row = rows.into_iter().find(|row| row.name == id.name && levels(&row.namespace) == id.namespace);
        let metadata = row.and_then(|row| row.metadata);
        let metadata = metadata.ok_or_else(|| CatalogError::NotFound { what: format!("table {id}") })?;
        let metadata_location = metadata.parse()?;
        Ok(Table {
            id: id.clone(),
            metadata_location,
            metadata: None,
            token: Token(metadata),
            credentials: Vec::new(),
        })
    }

    async fn poll(&self, known: &[(TableId, Token)]) -> Result<Changes, CatalogError> {
        Ok(changes(self.rows().await?, known))
    }

    fn has_one_question(&self) -> bool {
        true
    }

    async fn names_and_changes(&self, known: &[(TableId, Token)]) -> Result<(Names, Changes), CatalogError> {
        let (rows, namespaces) = self.rows_and_namespaces().await?;
        Ok((names(&rows, namespaces), changes(rows, known)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    /// Rows and namespaces, each with its catalog, and how many questions there were.
    type State = (Vec<(String, Row)>, Vec<(String, String)>, usize);

    #[derive(Debug, Default)]
    struct Fake(Mutex<State>);

    #[async_trait]
    impl Database for Fake {
        async fn catalogs(&self) -> Result<Catalogs, CatalogError> {
            let mut state = self.0.lock();
            state.2 += 1;
            let (rows, named) = (&state.0, &state.1);
            let have_tables = !rows.is_empty();
            let names = match have_tables {
                true => rows.iter().map(|(catalog, _)| catalog.clone()).collect(),
                false => named.iter().map(|(catalog, _)| catalog.clone()).collect(),
            };
            Ok(Catalogs { names, have_tables })
        }
        async fn tables(&self, catalog: &str) -> Result<Vec<Row>, CatalogError> {
            Ok(self.contents(catalog).await?.0)
        }
        async fn table(&self, catalog: &str, namespace: &str, name: &str) -> Result<Vec<Row>, CatalogError> {
            let mut rows = self.tables(catalog).await?;
            rows.retain(|row| row.namespace == namespace && row.name == name);
            Ok(rows)
        }
        async fn contents(&self, catalog: &str) -> Result<Contents, CatalogError> {
            let mut state = self.0.lock();
            state.2 += 1;
            let rows = state.0.iter().filter(|(of, _)| of == catalog).map(|(_, row)| row.clone());
            let named = state.1.iter().filter(|(of, _)| of == catalog).map(|(_, name)| name.clone());
            Ok((rows.collect(), named.collect()))
        }
    }

    fn row(catalog: &str, namespace: &str, name: &str, metadata: &str, kind: Option<&str>) -> (String, Row) {
        let metadata = Some(metadata).filter(|m| !m.is_empty()).map(str::to_owned);
        let row =
            Row { namespace: namespace.into(), name: name.into(), metadata, kind: kind.map(Into::into) };
        (catalog.into(), row)
    }

    fn id(namespace: &[&str], name: &str) -> TableId {
        TableId { namespace: namespace.iter().map(|s| (*s).to_owned()).collect(), name: name.into() }
    }

    #[tokio::test]
    async fn one_query_answers_for_all_tables() {
        let rows = vec![
            row("prod", "a.b", "t", "s3://w/t/1.metadata.json", None),
            row("prod", "a.b", "u", "s3://w/u/1.metadata.json", Some("TABLE")),
            row("prod", "a.b", "v", "s3://w/v/1.metadata.json", Some("VIEW")),
            row("prod", "a.b", "w", "", None),
        ];
        let names = vec![("prod".into(), "empty".into()), ("other".into(), "theirs".into())];
        let catalog = SqlCatalog::new(Fake(Mutex::new((rows, names, 0))), "mine", &Options::default());
        assert_eq!(
            catalog.namespaces().await.unwrap(),
            [vec!["a".to_owned(), "b".to_owned()], vec!["empty".to_owned()]]
        );
        let (t, u) = (id(&["a", "b"], "t"), id(&["a", "b"], "u"));
        assert_eq!(catalog.tables(&t.namespace).await.unwrap(), [t.clone(), u.clone()]);
        // Namespaces of two kinds and tables of all, and what has changed of them: one question.
        let before = catalog.database.0.lock().2;
        let names = catalog.names().await.unwrap();
        assert_eq!(catalog.database.0.lock().2, before + 1);
        let all = [
            (t.namespace.clone(), Some(vec![t.clone(), u.clone()])),
            (vec!["empty".into()], Some(vec![])),
            (vec![], Some(vec![])),
        ];
        assert_eq!(names.namespaces, all);
        let known = [
            (t.clone(), catalog.load(&t).await.unwrap().token),
            (u.clone(), catalog.load(&u).await.unwrap().token),
        ];
        let before = catalog.database.0.lock().2;
        assert_eq!(catalog.poll(&known).await.unwrap().changes, []);
        assert_eq!(catalog.database.0.lock().2, before + 1);
        assert!(catalog.has_one_question());
        let (names, unchanged) = catalog.names_and_changes(&known).await.unwrap();
        assert_eq!(
            (catalog.database.0.lock().2, names.namespaces, unchanged.changes),
            (before + 2, all.to_vec(), vec![])
        );
        {
            let mut state = catalog.database.0.lock();
            state.0[0].1.metadata = Some("s3://w/t/2.metadata.json".into());
            state.0.remove(1);
        }
        assert_eq!(
            catalog.poll(&known).await.unwrap().changes,
            [Change::Changed(t), Change::Dropped(u.clone())]
        );
        assert!(matches!(catalog.load(&u).await, Err(CatalogError::NotFound { .. })));
    }

    #[tokio::test]
    async fn of_several_catalogs_one_must_be_named() {
        let rows = vec![row("one", "a", "t", "s3://w/1", None), row("two", "a", "t", "s3://w/2", None)];
        let open = |name: &str, options: &[(&str, &str)]| {
            SqlCatalog::new(
                Fake(Mutex::new((rows.clone(), Vec::new(), 0))),
                name,
                &options.iter().copied().collect(),
            )
        };
        let t = id(&["a"], "t");
        let error = open("mine", &[]).load(&t).await.unwrap_err().to_string();
        assert!(error.contains("one, two") && error.contains("catalog-name"), "{error}");
        assert_eq!(open("two", &[]).load(&t).await.unwrap().metadata_location.as_str(), "s3://w/2");
        let named = open("mine", &[("catalog-name", "one")]);
        assert_eq!(named.load(&t).await.unwrap().metadata_location.as_str(), "s3://w/1");
    }

    /// Another catalog in the same database is nobody's affair.
    #[tokio::test]
    async fn a_catalog_that_was_found_is_not_given_up_for_another() {
        let names = vec![("early".into(), "x".into())];
        let catalog = SqlCatalog::new(Fake(Mutex::new((vec![], names, 0))), "mine", &Options::default());
        assert_eq!(catalog.namespaces().await.unwrap(), [["x"]]);
        // As long as none has tables it may be any.
        catalog.database.0.lock().0.push(row("one", "a", "t", "s3://w/1", None));
        let t = id(&["a"], "t");
        let known = [(t.clone(), catalog.load(&t).await.unwrap().token)];
        let others = [row("mine", "a", "t", "s3://w/2", None), row("two", "a", "t", "s3://w/3", None)];
        catalog.database.0.lock().0.extend(others);
        assert_eq!(catalog.poll(&known).await.unwrap().changes, []);
        catalog.database.0.lock().0.remove(0);
        assert_eq!(catalog.poll(&known).await.unwrap().changes, [Change::Dropped(t)]);
        assert_eq!(catalog.namespaces().await.unwrap(), Vec::<Vec<String>>::new());
    }

    #[test]
    fn no_row_is_left_out_without_a_word() {
        assert!(TABLES_QUERY.ends_with(&format!("LIMIT {}", NAMES_MAX + 1)));
        assert!(ALL_QUERY.ends_with(&format!("LIMIT {}", NAMES_MAX + 1)));
        assert!(check_rows(NAMES_MAX).is_ok());
        let error = check_rows(NAMES_MAX + 1).unwrap_err();
        assert!(matches!(error, CatalogError::Refused { .. }), "{error}");
    }
}
