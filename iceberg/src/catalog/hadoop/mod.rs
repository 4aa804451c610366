//! [`HadoopCatalog`]: folders as namespaces, folders with metadata of a table in a folder `metadata` as tables.
mod table;

use super::{AT_ONCE, Catalog, CatalogError, Changes, NAMES_MAX, ask};
use crate::location::Location;
use crate::objects::{ObjectError, Objects};
use crate::table::{Table, TableId, Token};
use async_trait::async_trait;
use futures::stream::{self, StreamExt};
use std::collections::VecDeque;
use std::sync::Arc;
use table::{HINT, HadoopTable, Looks, is_metadata};

/// The deepest namespace.
const DEPTH_MAX: usize = 16;

/// A warehouse in a store, without a service.
#[derive(Debug)]
pub(super) struct HadoopCatalog {
    objects: Arc<dyn Objects>,
    warehouse: Location,
    looks: Arc<Looks>,
}

/// One table without a catalog, under a name of our own.
#[derive(Debug)]
pub(super) struct SingleTable {
    objects: Arc<dyn Objects>,
    id: TableId,
    location: Location,
    looks: Arc<Looks>,
}

impl HadoopCatalog {
    pub fn new(objects: Arc<dyn Objects>, warehouse: Location) -> Self {
        Self { objects, warehouse, looks: Arc::default() }
    }

    fn folder(&self, names: &[String]) -> Result<Location, CatalogError> {
        for name in names {
            if name.is_empty() || name.contains('/') || name == "." || name == ".." {
                return Err(CatalogError::NotFound { what: format!("folder '{}'", name.escape_debug()) });
            }
        }
        if names.is_empty() {
            Ok(self.warehouse.clone())
        } else {
            self.warehouse.join(&names.join("/")).map_err(CatalogError::from)
        }
    }

    fn table(&self, id: &TableId) -> Result<HadoopTable, CatalogError> {
        let mut names = id.namespace.clone();
        names.push(id.name.clone());
        Ok(HadoopTable::new(self.objects.clone(), self.folder(&names)?, self.looks.clone()))
    }

    /// The names of the folders in a folder.
    async fn folders(&self, folder: &Location) -> Result<Vec<String>, CatalogError> {
        let prefix = folder.join("").map_err(CatalogError::from)?;
        let mut names = Vec::new();
        let mut after = None;
        loop {
            let part = self.objects.list(&prefix, true, after.as_deref()).await?;
            for folder in &part.folders {
                let name = folder.as_str().trim_end_matches('/').rsplit('/').next().unwrap_or_default();
                names.push(name.to_owned());
            }
            if names.len() > NAMES_MAX {
                return Err(CatalogError::Refused {
                    why: format!("{prefix} has more than {NAMES_MAX} folders"),
                });
            }
            after = part.next;
            if after.is_none() {
                return Ok(names);
            }
        }
    }

    /// Whether a folder is a table: anything may be called `metadata`, a table too. One request; where there is such a
    /// folder two, or more if nobody has written a hint.
    async fn is_table(&self, folder: &Location) -> Result<bool, CatalogError> {
        if !self.folders(folder).await?.iter().any(|name| name == "metadata") {
            return Ok(false);
        }
        let metadata = folder.join("metadata/")?;
        match self.objects.head(&metadata.join(HINT)?).await {
            Ok(_) => return Ok(true),
            Err(ObjectError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let mut after = None;
        loop {
            let part = self.objects.list(&metadata, true, after.as_deref()).await?;
            // What is left of a table that went is one that cannot be shown: its partitions are no namespaces.
            let is_left = |at: &Location| is_metadata(at) || at.name().ends_with(".avro");
            if part.objects.iter().any(|(at, _)| is_left(at)) {
                return Ok(true);
            }
            after = part.next;
            if after.is_none() {
                return Ok(false);
            }
        }
    }

    /// The folders in a namespace, and for each whether it is a table.
    async fn children(&self, namespace: &[String]) -> Result<Vec<(String, bool)>, CatalogError> {
        let folder = self.folder(namespace)?;
        let names = self.folders(&folder).await?;
        let found: Vec<_> = stream::iter(names.into_iter().map(|name| {
            let folder = folder.join(&name).map_err(CatalogError::from);
            async move { Ok::<_, CatalogError>((name, self.is_table(&folder?).await?)) }
        }))
        .buffered(AT_ONCE)
        .collect()
        .await;
        found.into_iter().collect()
    }
}

#[async_trait]
impl Catalog for HadoopCatalog {
    async fn namespaces(&self) -> Result<Vec<Vec<String>>, CatalogError> {
        let mut found = Vec::new();
        let mut left = VecDeque::from([Vec::new()]);
        while let Some(namespace) = left.pop_front() {
            for (name, is_table) in self.children(&namespace).await? {
                if is_table || namespace.len() >= DEPTH_MAX {
                    continue;
                }
                let mut below = namespace.clone();
                below.push(name);
                found.push(below.clone());
                left.push_back(below);
            }
            if found.len() > NAMES_MAX {
                return Err(CatalogError::Refused { why: format!("more than {NAMES_MAX} namespaces") });
            }
        }
        found.sort();
        Ok(found)
    }

    async fn tables(&self, namespace: &[String]) -> Result<Vec<TableId>, CatalogError> {
        let children = self.children(namespace).await?;
        let tables = children.into_iter().filter(|(_, is_table)| *is_table);
        Ok(tables.map(|(name, _)| TableId { namespace: namespace.to_vec(), name }).collect())
    }

    async fn load(&self, id: &TableId) -> Result<Table, CatalogError> {
        let (metadata_location, token) = self.table(id)?.current(id).await?;
        Ok(Table { id: id.clone(), metadata_location, metadata: None, token, credentials: Vec::new() })
    }

    fn asks_each(&self) -> bool {
        true
    }

    async fn poll(&self, known: &[(TableId, Token)]) -> Result<Changes, CatalogError> {
        Ok(ask(known, |id: TableId, token: Token| async move { self.table(&id)?.changed(&id, &token).await })
            .await)
    }
}

impl SingleTable {
    pub fn new(objects: Arc<dyn Objects>, name: &str, location: Location) -> Self {
        let id = TableId { namespace: Vec::new(), name: name.to_owned() };
        Self { objects, id, location, looks: Arc::default() }
    }

    fn check(&self, id: &TableId) -> Result<(), CatalogError> {
        if *id == self.id { Ok(()) } else { Err(CatalogError::NotFound { what: format!("table {id}") }) }
    }

    /// Whether the location is that of one version, which never changes.
    fn is_file(&self) -> bool {
        self.location.name().contains(".metadata.json")
    }

    fn table(&self) -> HadoopTable {
        HadoopTable::new(self.objects.clone(), self.location.clone(), self.looks.clone())
    }
}

#[async_trait]
impl Catalog for SingleTable {
    async fn namespaces(&self) -> Result<Vec<Vec<String>>, CatalogError> {
        Ok(vec![Vec::new()])
    }

    async fn tables(&self, namespace: &[String]) -> Result<Vec<TableId>, CatalogError> {
        Ok(if namespace.is_empty() { vec![self.id.clone()] } else { Vec::new() })
    }

    async fn load(&self, id: &TableId) -> Result<Table, CatalogError> {
        self.check(id)?;
        let (metadata_location, token) = if self.is_file() {
            (self.location.clone(), Token(self.location.as_str().to_owned()))
        } else {
            self.table().current(id).await?
        };
        Ok(Table { id: id.clone(), metadata_location, metadata: None, token, credentials: Vec::new() })
    }

    fn asks_each(&self) -> bool {
        true
    }

    async fn poll(&self, known: &[(TableId, Token)]) -> Result<Changes, CatalogError> {
        Ok(ask(known, |id: TableId, token: Token| async move {
            self.check(&id)?;
            if self.is_file() { Ok(false) } else { self.table().changed(&id, &token).await }
        })
        .await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Change;
    use crate::objects::LocalObjects;
    use std::fs;
    use std::path::Path;

    fn id(namespace: &[&str], name: &str) -> TableId {
        TableId { namespace: namespace.iter().map(|s| (*s).to_owned()).collect(), name: name.to_owned() }
    }

    fn version(folder: &Path, name: &str) {
        fs::create_dir_all(folder.join("metadata")).unwrap();
        fs::write(folder.join("metadata").join(name), name).unwrap();
    }

    fn hint(folder: &Path, text: &str) {
        fs::write(folder.join("metadata/version-hint.text"), text).unwrap();
    }

    #[tokio::test]
    async fn a_warehouse_is_read_and_followed() {
        let dir = tempfile::tempdir().unwrap();
        let warehouse: Location = dir.path().to_str().unwrap().parse().unwrap();
        let catalog = HadoopCatalog::new(Arc::new(LocalObjects::new()), warehouse);
        let t = dir.path().join("a/b/t");
        version(&t, "v1.metadata.json");
        version(&t, "v2.metadata.json");
        hint(&t, "2");
        version(&dir.path().join("a/u"), "v1.gz.metadata.json");
        fs::create_dir_all(dir.path().join("empty")).unwrap();
        let names = |list: &[&[&str]]| {
            list.iter().map(|n| n.iter().map(|s| (*s).to_owned()).collect()).collect::<Vec<Vec<String>>>()
        };
        assert_eq!(catalog.namespaces().await.unwrap(), names(&[&["a"], &["a", "b"], &["empty"]]));
        assert_eq!(catalog.tables(&["a".into()]).await.unwrap(), [id(&["a"], "u")]);
        assert_eq!(catalog.tables(&["a".into(), "b".into()]).await.unwrap(), [id(&["a", "b"], "t")]);
        assert!(catalog.tables(&["..".into()]).await.is_err());

        let (t_id, u_id) = (id(&["a", "b"], "t"), id(&["a"], "u"));
        let loaded = catalog.load(&t_id).await.unwrap();
        assert_eq!(loaded.metadata_location.name(), "v2.metadata.json");
        let u = catalog.load(&u_id).await.unwrap();
        assert_eq!(u.metadata_location.name(), "v1.gz.metadata.json");
        let known = [(t_id.clone(), loaded.token), (u_id.clone(), u.token)];
        assert_eq!(catalog.poll(&known).await.unwrap().changes, []);
        // A commit whose hint has not come yet.
        version(&t, "v3.metadata.json");
        assert_eq!(catalog.poll(&known).await.unwrap().changes, [Change::Changed(t_id.clone())]);
        assert_eq!(catalog.load(&t_id).await.unwrap().metadata_location.name(), "v3.metadata.json");
        // Dropped, and made again with the same names.
        let known = [(t_id.clone(), catalog.load(&t_id).await.unwrap().token), known[1].clone()];
        fs::remove_dir_all(&t).unwrap();
        assert_eq!(catalog.poll(&known).await.unwrap().changes, [Change::Dropped(t_id.clone())]);
        assert!(matches!(catalog.load(&t_id).await, Err(CatalogError::NotFound { .. })));
        version(&t, "v1.metadata.json");
        assert_eq!(catalog.poll(&known).await.unwrap().changes, [Change::Changed(t_id.clone())]);
        hint(&t, "not a number");
        assert_eq!(catalog.load(&t_id).await.unwrap().metadata_location.name(), "v1.metadata.json");
        // A hint ahead of the files, as a crash between the two leaves it.
        hint(&t, "9\n");
        assert_eq!(catalog.load(&t_id).await.unwrap().metadata_location.name(), "v1.metadata.json");
    }

    /// Only what holds metadata is a table, whatever folders are called.
    #[tokio::test]
    async fn a_folder_called_metadata_hides_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for table in ["db/t", "db/metadata", "notes/t", "metadata/t"] {
            version(&at(table), "v1.metadata.json");
            hint(&at(table), "1");
        }
        version(&at("db/catalogs"), "00000-a.metadata.json");
        version(&at("db/packed"), "v1.metadata.json.gz");
        fs::create_dir_all(at("notes/metadata")).unwrap();
        fs::write(at("notes/metadata/README"), "notes").unwrap();
        // Of a table that went.
        fs::create_dir_all(at("db/left/metadata")).unwrap();
        fs::write(at("db/left/metadata/m0.avro"), "").unwrap();
        fs::create_dir_all(at("db/left/data/p=1")).unwrap();
        let warehouse: Location = dir.path().to_str().unwrap().parse().unwrap();
        let catalog = HadoopCatalog::new(Arc::new(LocalObjects::new()), warehouse);
        let namespaces: Vec<String> =
            catalog.namespaces().await.unwrap().iter().map(|names| names.join("/")).collect();
        assert_eq!(namespaces, ["db", "metadata", "notes", "notes/metadata"]);
        let tables = async |namespace: &str| -> Vec<String> {
            let tables = catalog.tables(&[namespace.to_owned()]).await.unwrap();
            tables.into_iter().map(|id| id.name).collect()
        };
        assert_eq!(tables("db").await, ["catalogs", "left", "metadata", "packed", "t"]);
        assert_eq!((tables("notes").await, tables("metadata").await), (vec!["t".into()], vec!["t".into()]));
        let loaded = catalog.load(&id(&["db"], "metadata")).await.unwrap();
        assert_eq!(loaded.metadata_location.name(), "v1.metadata.json");
    }

    #[tokio::test]
    async fn one_table_alone_has_a_name_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        version(dir.path(), "00000-a.metadata.json");
        version(dir.path(), "00010-b.metadata.json");
        version(dir.path(), "00009-c.metadata.json");
        let location: Location = dir.path().to_str().unwrap().parse().unwrap();
        let objects = Arc::new(LocalObjects::new());
        let single = SingleTable::new(objects.clone(), "mine", location.clone());
        let own = single.tables(&[]).await.unwrap();
        assert_eq!(own, [id(&[], "mine")]);
        let table = single.load(&own[0]).await.unwrap();
        assert_eq!(table.metadata_location.name(), "00010-b.metadata.json");
        assert_eq!(single.poll(&[(own[0].clone(), table.token.clone())]).await.unwrap().changes, []);
        version(dir.path(), "00011-d.metadata.json");
        assert_eq!(
            single.poll(&[(own[0].clone(), table.token)]).await.unwrap().changes,
            [Change::Changed(own[0].clone())]
        );
        hint(dir.path(), "00009-c");
        assert_eq!(single.load(&own[0]).await.unwrap().metadata_location.name(), "00009-c.metadata.json");
        let fixed =
            SingleTable::new(objects, "mine", location.join("metadata/00000-a.metadata.json").unwrap());
        let table = fixed.load(&own[0]).await.unwrap();
        assert_eq!(table.metadata_location.name(), "00000-a.metadata.json");
        assert_eq!(fixed.poll(&[(own[0].clone(), table.token)]).await.unwrap().changes, []);
        assert!(fixed.load(&id(&[], "other")).await.is_err());
    }
}
