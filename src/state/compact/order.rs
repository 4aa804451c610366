//! The rows of a layer in path order, whatever order its tar stream has.
//!
//! Layers of ours are in path order. One that was imported is in the order of its archive: tar writes a directory as
//! the file system lists it, and may have a path twice.
use super::merge::Tail;
use crate::layer::{Entry, Kind, LayerError, LayerIndex, Metadata, Row};
use crate::path::RelPath;
use std::collections::BTreeMap;
use std::ops::Bound;

/// A tar header: all that most names of a file take.
const HEADER_BYTES: u64 = 512;

/// Rows as they are read.
pub(in crate::state) type Rows<'a> = Box<dyn Iterator<Item = Result<Row, LayerError>> + 'a>;

/// What a layer sets, but not what it takes away: each path once, in order, and of the names of a file the first is the
/// file. Where the layer has another order its rows are all held in memory, and may have another path than in the stream.
///
/// # Errors
/// As reading the layer; a hard link to nothing in one that has another order.
pub(in crate::state) fn standing<'a>(tail: &Tail<'a>) -> Result<Rows<'a>, LayerError> {
    let mut last: Option<RelPath> = None;
    for row in rows(tail)? {
        let path = row?.entry.path;
        if last.is_some_and(|last| last >= path) {
            return Ok(Box::new(sorted(rows(tail)?)?.into_iter().map(Ok)));
        }
        last = Some(path);
    }
    rows(tail)
}

/// What a layer sets, as the stream has it.
///
/// # Errors
/// As reading the layer.
pub(super) fn rows<'a>(tail: &Tail<'a>) -> Result<Rows<'a>, LayerError> {
    let (_, rows) = LayerIndex::read(tail.bytes, tail.layer_bytes)?;
    let is_whiteout = |row: &Row| row.entry.kind == Kind::Whiteout;
    Ok(Box::new(rows.filter(move |row| !row.as_ref().is_ok_and(is_whiteout))))
}

/// The same in order, as [`standing`] says.
///
/// # Errors
/// As there.
pub(super) fn sorted(rows: Rows<'_>) -> Result<Vec<Row>, LayerError> {
    let mut names = Names::default();
    for row in rows {
        names.add(row?)?;
    }
    Ok(names.into_rows().collect())
}

/// What stands after the rows so far, as a restore makes it of them.
#[derive(Default)]
struct Names {
    /// By path which of the contents stands there.
    paths: BTreeMap<RelPath, usize>,
    /// Rows that are no hard links, in the order of the stream.
    contents: Vec<Content>,
}

struct Content {
    row: Row,
    /// The first name, once it is known.
    first: Option<RelPath>,
}

impl Names {
    fn add(&mut self, row: Row) -> Result<(), LayerError> {
        let path = row.entry.path.clone();
        let content = match &row.entry.kind {
            // What the name stands for now: a later row may put something else there.
            Kind::HardLink { target } => self.paths.get(target).copied().ok_or_else(|| {
                let what = format!("hard link to a file that is not there: {target}: {path}");
                LayerError::corrupt(what)
            })?,
            _ => self.contents.len(),
        };
        if row.entry.kind != Kind::Directory {
            // It takes the place of what was there, and of all below that.
            let after = (Bound::Excluded(&path), Bound::Unbounded);
            let below = self.paths.range::<RelPath, _>(after).map(|(p, _)| p);
            let below: Vec<RelPath> = below.take_while(|p| p.starts_with(&path)).cloned().collect();
            for path in below {
                self.paths.remove(&path);
            }
        }
        if content == self.contents.len() {
            self.contents.push(Content { row, first: None });
        }
        self.paths.insert(path, content);
        Ok(())
    }

    fn into_rows(self) -> impl Iterator<Item = Row> {
        let Self { paths, mut contents } = self;
        paths.into_iter().filter_map(move |(path, content)| {
            let Content { row, first } = contents.get_mut(content)?;
            let Some(target) = first.clone() else {
                *first = Some(path.clone());
                return Some(Row { entry: Entry { path, ..row.entry.clone() }, ..*row });
            };
            let entry = Entry { path, kind: Kind::HardLink { target }, meta: Metadata::default() };
            Some(Row { entry, offset: row.offset, length: HEADER_BYTES })
        })
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use crate::layer::References;

    fn path(p: &str) -> RelPath {
        RelPath::new(p).expect("valid path")
    }

    /// Rows as `path`, `path/`, `path@target`; files have their number as size.
    fn shown(rows: &[&str]) -> Result<Vec<String>, LayerError> {
        let row = |(n, told): (usize, &&str)| {
            let (name, kind) = match told.split_once('@') {
                Some((name, target)) => (name, Kind::HardLink { target: path(target) }),
                None if told.ends_with('/') => (told.trim_end_matches('/'), Kind::Directory),
                None => (*told, Kind::File { size: n as u64, fuzzy: false, refs: References::none() }),
            };
            let entry = Entry { path: path(name), kind, meta: Metadata::default() };
            Ok(Row { entry, offset: n as u64, length: 1024 })
        };
        let rows = sorted(Box::new(rows.iter().enumerate().map(row)))?;
        let show = |Row { entry: Entry { path, kind, .. }, .. }| match kind {
            Kind::HardLink { target } => format!("{path}@{target}"),
            Kind::File { size, .. } => format!("{path}={size}"),
            _ => format!("{path}/"),
        };
        Ok(rows.into_iter().map(show).collect())
    }

    #[test]
    fn rows_in_any_order_say_what_a_restore_makes_of_them() {
        let told = |rows: &[&str]| shown(rows).expect("sorts");
        assert_eq!(told(&["z/", "z/b", "a/", "z/a", "a/x"]), ["a/", "a/x=4", "z/", "z/a=3", "z/b=1"]);
        assert_eq!(told(&["b", "a", "b"]), ["a=1", "b=2"], "the last one stands");
        assert_eq!(told(&["d/", "d/x", "c", "d", "d/", "d/y"]), ["c=2", "d/", "d/y=5"]);
        assert_eq!(told(&["d/", "d/x", "c", "d"]), ["c=2", "d=3"]);
        // The first name of a file is the file.
        assert_eq!(told(&["m", "z@m", "a@z"]), ["a=0", "m@a", "z@a"]);
        // A name that was linked to stands for something else by now.
        assert_eq!(told(&["m", "a@m", "m", "b@m"]), ["a=0", "b=2", "m@b"]);
        assert!(shown(&["m", "a@gone"]).is_err());
    }
}
