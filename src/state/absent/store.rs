//! Where absent entries are remembered between two daemons: `absent/` in the state directory.
//!
//! | file | what |
//! |---|---|
//! | `HEAD` | the document of the version that was restored, as the remote had it |
//! | `log` | what became of its entries (see [`log`](super::log)) |
//! | `tables/N` | the end of the layer that version N added: its table; read again if it is lost |
//! | `tables/ID` | that of a layer that is only referred to |
use super::log::{Log, Seen};
use super::tree::{ROOT, Tree, What};
use super::{Absent, Layer, Strayed};
use crate::error::{Error, ErrorKind, Result};
use crate::layer::index::LayerIndex;
use crate::remote::Store;
use crate::state::head::{Head, LayerRef, TableRef, layer_id};
use crate::state::record::Records;
use crate::state::restore::{LayerSource, Lenders};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use std::fs::DirBuilder;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

/// How many tables are asked for at once.
const TABLES_AT_ONCE: usize = 64;

/// Where to find what is absent.
#[derive(Debug)]
pub struct Source {
    /// Holds the layers.
    pub store: Store,
    /// Beneath it the entries are to stand.
    pub root: OwnedFd,
    /// `absent/` in the state directory.
    pub place: PathBuf,
    /// Learns what comes; `None` where nothing is ever saved.
    pub records: Option<Arc<Records>>,
}

impl Source {
    /// Whether all layers of a version have a table, so that it can be restored lazily.
    pub fn can_read(head: &Head) -> bool {
        needed(head).iter().all(|layer| layer.table.is_some())
    }

    /// Whether entries of an earlier restore may still be absent.
    pub fn is_left(place: &std::path::Path) -> bool {
        place.join("HEAD").exists()
    }

    /// Begins a lazy restore: afterwards every entry of the version is absent but the root, which
    /// [`Absent::finish_root`] gives its attributes.
    pub async fn begin(self, head: &Head) -> Result<Absent> {
        let _nothing = std::fs::remove_dir_all(&self.place);
        let document = head.to_bytes()?;
        let tables = self.tables(head).await?;
        let (tree, layers, lenders) = lay_out(head, &tables)?;
        let written = || {
            // The names in it are for nobody else.
            DirBuilder::new().recursive(true).mode(0o700).create(self.place.join("tables"))?;
            for (layer, table) in needed(head).iter().zip(&tables) {
                std::fs::write(self.table_file(layer), table)?;
            }
            let mut log = Log::create(&self.place.join("log"), blake3::hash(&document).as_bytes())?;
            log.sync()?;
            // Last: by it the next start knows that there is something.
            let mut head = std::fs::File::create(self.place.join("HEAD.new"))?;
            head.write_all(&document)?;
            head.sync_all()?;
            std::fs::rename(self.place.join("HEAD.new"), self.place.join("HEAD"))?;
            std::fs::File::open(&self.place)?.sync_all()?;
            Ok(log)
        };
        let log = written()
            .map_err(|e: std::io::Error| Error::io(format!("cannot write: {}", self.place.display()), e))?;
        let empty = is_empty(&self.root)?;
        Ok(Absent::new((tree, layers, lenders), (log, Vec::new()), empty, self.root, self.records))
    }

    /// Forgets all of it: nothing is left to come.
    pub fn forget(place: &std::path::Path) {
        let _gone = std::fs::remove_file(place.join("HEAD"));
        let _gone = std::fs::remove_dir_all(place);
    }

    /// Goes on where an earlier daemon stopped. Since then anybody may have written to the directory, and moved
    /// what is in it.
    pub async fn resume(self) -> Result<(Absent, Strayed)> {
        let read = |name: &str| {
            let file = self.place.join(name);
            std::fs::read(&file).map_err(|e| Error::io(format!("cannot read: {}", file.display()), e))
        };
        let document = read("HEAD")?;
        let head = Head::parse(&document).map_err(|e| self.damaged("HEAD").with_source(e))?;
        head.hand_over(&*self.store);
        let tables = self.tables(&head).await?;
        let (tree, layers, lenders) = lay_out(&head, &tables)?;
        let file = self.place.join("log");
        let (log, said) =
            Log::open(&file, blake3::hash(&document).as_bytes()).map_err(|e| match e.kind() {
                std::io::ErrorKind::InvalidData => self.damaged("log").with_source(e),
                _ => {
                    let message = format!("cannot use the log of what is not here yet: {}", file.display());
                    Error::io(message, e)
                }
            })?;
        let absent = Absent::new((tree, layers, lenders), (log, said.events), false, self.root, self.records);
        let tree = absent.tree();
        let is_directory =
            |node: u32| (node as usize) < tree.nodes() && node != ROOT && tree.what(node) == What::Directory;
        let moves = said.moves.into_iter().filter(|(node, _)| is_directory(*node)).collect();
        let known = |seen: &Seen| match seen {
            Seen::Coming(node, _)
            | Seen::Came(node, _)
            | Seen::Touching(node, _)
            | Seen::Touched(node, ..) => (*node as usize) < tree.nodes(),
        };
        let seen: Vec<Seen> = said.seen.into_iter().filter(known).collect();
        let gone = absent.find_moved(moves);
        let gone = gone.map_err(|e| Error::io("cannot look for directories that were moved", e))?;
        absent.bury_saved();
        if absent.records.as_ref().is_some_and(|records| !records.was_clean()) {
            absent.recover(&seen).map_err(|e| Error::io("cannot record what is here already", e))?;
        }
        absent.find_made().map_err(|e| Error::io("cannot look for what is here already", e))?;
        let strayed = absent.find_strayed();
        let mut strayed =
            strayed.map_err(|e| Error::io("cannot look for directories that somebody moved", e))?;
        // Where they were last only their records may know.
        strayed.lost.extend(gone.into_iter().map(|(node, files)| (absent.tree().path(node), files)));
        Ok((absent, strayed))
    }

    /// A start without a part of it would take what is not here for removed, and what was removed for what is not here.
    /// Without the journal as well it begins anew.
    fn damaged(&self, name: &str) -> Error {
        let (file, journal) = (self.place.join(name), self.place.with_file_name("journal"));
        let message = format!(
            "what is only in the remote cannot be told: {} is damaged; move {} away and mount again, then everything \
             here is compared with the newest version and that is brought, and what was removed or renamed here and \
             not saved is back",
            file.display(),
            journal.display()
        );
        Error::new(ErrorKind::Io, message)
    }

    fn table_file(&self, layer: &LayerRef) -> PathBuf {
        // Of held layers several may be of one version.
        let name = match (layer.base, layer_id(&layer.key)) {
            (Some(_), Some(id)) => id.to_string(),
            _ => layer.version.to_string(),
        };
        self.place.join("tables").join(name)
    }

    async fn tables(&self, head: &Head) -> Result<Vec<Bytes>> {
        let tables = needed(head).into_iter().map(|layer| self.table(layer));
        futures::stream::iter(tables).buffered(TABLES_AT_ONCE).try_collect().await
    }

    /// The table of a layer, as HEAD says it is.
    async fn table(&self, layer: &LayerRef) -> Result<Bytes> {
        let Some(TableRef { bytes: length, digest, .. }) = &layer.table else {
            return Err(Error::new(ErrorKind::Unsupported, format!("layer has no table: {}", layer.key)));
        };
        let right =
            |bytes: &[u8]| bytes.len() as u64 == *length && *blake3::hash(bytes).as_bytes() == digest.0;
        if let Ok(bytes) = std::fs::read(self.table_file(layer))
            && right(&bytes)
        {
            return Ok(bytes.into());
        }
        let range = layer.bytes - *length..layer.bytes;
        let mut download = self.store.download(&layer.key, Some(range)).await?;
        let mut bytes = Vec::with_capacity((*length).min(64 << 20) as usize);
        while let Some(piece) = download.body.next().await {
            bytes.extend_from_slice(&piece?);
            if bytes.len() as u64 > *length {
                break;
            }
        }
        if !right(&bytes) {
            let message = format!("layer {} is not what HEAD names: its table differs", layer.key);
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok(bytes.into())
    }
}

/// The layers of a version, oldest first, then those they refer to.
fn needed(head: &Head) -> Vec<&LayerRef> {
    let needed = head.needed([head.version]);
    head.layers.iter().chain(head.held.iter().filter(|layer| needed.contains(&layer.key))).collect()
}

fn lay_out(head: &Head, tables: &[Bytes]) -> Result<(Tree, Vec<Layer>, Lenders)> {
    let (mut tree, mut layers, lenders) = (Tree::default(), Vec::new(), Lenders::of(head));
    let corrupt = |layer: &LayerRef| {
        let key = layer.key.clone();
        move |source| crate::state::restore::RestoreError::Layer { key, source }
    };
    for (layer, table) in needed(head).into_iter().zip(tables) {
        let (index, rows) = LayerIndex::read(table, layer.bytes).map_err(corrupt(layer))?;
        if layer.base.is_none() {
            tree.lay(rows).map_err(corrupt(layer))?;
        }
        let index = Arc::new(index);
        lenders.know(&layer.key, &index);
        layers.push(Layer { source: LayerSource::of(layer), index });
    }
    tree.settle();
    Ok((tree, layers, lenders))
}

fn is_empty(root: &OwnedFd) -> Result<bool> {
    let failed = |e: rustix::io::Errno| Error::io("cannot read the directory", e.into());
    for child in rustix::fs::Dir::read_from(root).map_err(failed)? {
        if !matches!(child.map_err(failed)?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}
