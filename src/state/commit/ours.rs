//! What is ours in a layer that was merged out of layers of ours and of others.
//!
//! Such a layer no longer says who wrote what. So its rows are compared with what our tree has by our records, which
//! show it as of our last commit: what is the same is no change by another, whoever wrote it, and what differs is one
//! unless a later layer of ours says otherwise. What we have and the layer took away, or does not have although it is
//! all that the version is made of, was removed by another in the same way.
use super::foreign::Foreign;
use super::*;
use crate::layer::{Entry, LayerIndex};
use crate::state::absent::Absent;
use crate::state::absent::tree::What;
use crate::state::compact;
use std::collections::HashMap;

/// How something that a layer has stands to what our tree has.
enum Likeness {
    Same,
    /// But perhaps for extended attributes.
    Alike,
    Different,
}

/// Takes in what a merged layer says. `tail` is that of `layer`; `is_all`: there is nothing beneath it.
pub(super) fn compare(
    records: &Records,
    foreign: &mut Foreign,
    (tail, layer): (&[u8], &LayerRef),
    is_all: bool,
) -> Result<(), CommitError> {
    let absent = records.absent();
    // What is merged with an imported layer is in order, but that one itself may not be.
    let standing = || compact::standing(&compact::Tail { bytes: tail, layer_bytes: layer.bytes });
    let (mut gone, mut firsts) = (Vec::new(), HashMap::new());
    if is_all {
        gone.push(RelPath::root());
    } else {
        for row in LayerIndex::read(tail, layer.bytes)?.1 {
            let entry = row?.entry;
            if entry.kind == Kind::Whiteout {
                gone.push(entry.path);
            }
        }
    }
    for row in standing()? {
        if let Kind::HardLink { target } = row?.entry.kind {
            firsts.insert(target, None::<Entry>);
        }
    }

    for row in standing()? {
        let row = row?;
        let entry = match &row.entry.kind {
            Kind::HardLink { target } => firsts.get(target).and_then(Option::as_ref),
            _ => Some(&row.entry),
        };
        let likeness = entry.map(|entry| likeness(records, absent.as_deref(), &row.entry.path, entry));
        match likeness.transpose()?.unwrap_or(Likeness::Different) {
            Likeness::Same => foreign.is_same(&row.entry.path),
            Likeness::Alike => {
                let meta = entry.map(|entry| entry.meta.clone()).unwrap_or_default();
                foreign.is_alike(row.entry.path.clone(), meta);
            }
            Likeness::Different => foreign.differs(row.clone()),
        }
        if let Some(first) = firsts.get_mut(&row.entry.path) {
            *first = Some(row.entry);
        }
    }

    let mut standing = standing()?.peekable();
    for top in gone {
        let mut missing: Option<RelPath> = None;
        let own = records.get(&top)?.filter(|_| !top.is_root()).map(|_| Ok(top.clone()));
        for path in own.into_iter().chain(records.below(&top).map(|item| item.map(|(path, _)| path))) {
            let path = path?;
            if missing.as_ref().is_some_and(|above| path.starts_with(above)) {
                continue;
            }
            while standing.next_if(|row| matches!(row, Ok(row) if row.entry.path < path)).is_some() {}
            match standing.peek() {
                Some(Ok(row)) if row.entry.path == path => {}
                Some(Err(_)) => return standing.next().transpose().map(drop).map_err(Into::into),
                _ => {
                    foreign.lacks(path.clone());
                    missing = Some(path);
                }
            }
        }
    }
    Ok(())
}

/// `entry` is what stands at the path, by whatever name.
fn likeness(
    records: &Records,
    absent: Option<&Absent>,
    path: &RelPath,
    entry: &Entry,
) -> Result<Likeness, JournalError> {
    if let Some(record) = records.get(path)? {
        return Ok(match record.may_be(entry) {
            true if entry.meta.xattrs.is_empty() => Likeness::Same,
            true => Likeness::Alike,
            false => Likeness::Different,
        });
    }
    let tree = absent.filter(|absent| absent.knows(path)).map(Absent::tree);
    let same = tree.and_then(|tree| Some((tree, tree.find(path)?))).is_some_and(|(tree, node)| {
        match (tree.what(node), &entry.kind) {
            (What::Directory, Kind::Directory) => {
                tree.directory_meta(node).is_some_and(|meta| meta.is_but_for_times(&entry.meta))
            }
            (What::File(file), Kind::File { size, .. }) => {
                let laid = tree.row_at(node, file).entry;
                matches!(laid.kind, Kind::File { size: laid, .. } if laid == *size) && laid.meta == entry.meta
            }
            (What::Special(special), kind) => tree.special(special) == (kind, &entry.meta),
            _ => false,
        }
    });
    Ok(if same { Likeness::Same } else { Likeness::Different })
}
