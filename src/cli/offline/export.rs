//! A version of a name as one archive, without a mount.
//!
//! Layers refer to each other, so a version is restored to a temporary directory first and packed from there.
use super::{Choice, Show, Transferred, restore};
use crate::cli::unfinished::Unfinished;
use crate::config::RemoteSettings;
use crate::journal::MemoryJournal;
use crate::layer::PackOptions;
use crate::path::RelPath;
use crate::state::commit::pack::pack;
use crate::state::dirty::{Extent, Marks};
use crate::state::plan::{LookOptions, Plan};
use crate::state::record::Records;
use crate::state::source::DirectorySource;
use crate::{Error, Result};
use std::fs::{DirBuilder, File};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use uuid::Uuid;

/// Writes a version into `to`, by way of a directory that goes with `unfinished`. Also returns what could not be kept, in
/// words.
pub fn export(
    remote: &RemoteSettings,
    choice: &Choice,
    to: File,
    unfinished: &Unfinished,
    show: &Show<'_>,
) -> Result<(Transferred, Vec<String>)> {
    let tree = std::env::temp_dir().join(format!("icecache-export-{}", Uuid::new_v4()));
    let made = unfinished.make(&tree, |tree| DirBuilder::new().mode(0o700).create(tree));
    made.map_err(|e| Error::io(format!("cannot create temporary directory: {}", tree.display()), e))?;
    let root = File::open(&tree).map_err(|e| Error::io("cannot use temporary directory", e))?;
    let (restored, notes) = restore(remote, choice, &root, show)?;
    let records = Records::open(Arc::new(MemoryJournal::new()), &remote.remote, remote.name.as_str())?;
    let marks = Marks::from([(RelPath::root(), Extent::Subtree)]);
    let look = LookOptions { whole: true, ..LookOptions::default() };
    let plan = Plan::capture(root.as_fd(), &records, &marks, &look)?;
    let packed = pack(&plan, &DirectorySource::new(root.into()), to, PackOptions::default(), None)?;
    let exported = Transferred {
        version: restored.version,
        entries: packed.summary.entries,
        bytes: packed.summary.bytes,
    };
    Ok((exported, notes))
}
