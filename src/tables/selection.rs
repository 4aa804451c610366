//! [`Selection`]: the part of a table that a person means: a partition, columns, what a query reads.
use super::lake::Lake;
use super::report::Sum;
use super::slot::Shown;
use crate::error::{Error, ErrorKind, Result};
use icecache_iceberg::metadata::Fields;
use icecache_iceberg::predicate::{Predicate, PredicateError};
use icecache_iceberg::publication::{Content, LiveFile};
use icecache_iceberg::{Location, TableError};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

/// The most columns of one selection.
pub const COLUMNS_MAX: usize = 1000;

/// A part of a table; of several conditions all count, and without any it is the whole table.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Selection {
    /// A partition, by its first fields, as in `day=2026-01-31`.
    #[serde(default)]
    pub partition: Option<String>,
    /// Columns of it, as a query names them, as in `address.city`, to which those of the condition belong; none: all.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub columns: BTreeSet<String>,
    /// A condition on rows: the files that may have one for which it is true, as [`Predicate`] reads it.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
}

/// How much of a file is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Want {
    /// All of it.
    Whole,
    /// Columns of a Parquet file, and what tells of them.
    Columns(Arc<BTreeSet<Column>>),
}

/// A column of a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Column {
    /// Its field id.
    pub id: i32,
    /// What the column of the table that it is, or is a part of, is called in files without ids: those were not written
    /// for Iceberg, and name what is in lists and maps each in their own way.
    pub names: Arc<[String]>,
}

impl Column {
    /// Whether it is this one of a file.
    pub(super) fn is(&self, id: Option<i32>, path: &str) -> bool {
        // A name may have a dot in it, too.
        let is_in = |name: &String| {
            path.strip_prefix(&**name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        match id {
            Some(id) => id == self.id,
            None => self.names.iter().any(is_in),
        }
    }
}

/// Files, and how much of each is meant.
pub(super) type Wanted = HashMap<Location, (LiveFile, Want)>;

impl Selection {
    /// The same, as all write it who mean the same.
    ///
    /// # Errors
    /// It makes no sense whatever the table.
    pub fn checked(mut self) -> Result<Self> {
        if self.columns.len() > COLUMNS_MAX {
            let message = format!("at most {COLUMNS_MAX} columns can be named");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        self.columns = self.columns.iter().map(|name| name.trim().to_owned()).collect();
        if let Some(text) = &self.condition {
            self.condition = Some(parsed(text)?.to_string());
        }
        Ok(self)
    }

    /// Whether it is the whole table.
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    /// How much of a file is meant.
    fn want(&self, file: &LiveFile, columns: &Arc<BTreeSet<Column>>) -> Want {
        let has_columns = file.content == Content::Data && file.format.eq_ignore_ascii_case("parquet");
        if self.columns.is_empty() || !has_columns { Want::Whole } else { Want::Columns(columns.clone()) }
    }

    /// The columns that are meant, with those that the condition is about: who asks for rows by them reads them, too.
    /// `mapped`: what columns are called in files without ids, beside their names.
    fn columns_in(&self, fields: &Fields, mapped: &HashMap<i32, Vec<String>>) -> Result<BTreeSet<Column>> {
        let mut ids = Vec::new();
        for name in &self.columns {
            let Some(field) = fields.find(name) else {
                let message =
                    format!("the table has no such column: {name} (it has {})", fields.some_names());
                return Err(Error::new(ErrorKind::NotFound, message));
            };
            ids.push(field.id);
        }
        if let Some(text) = &self.condition {
            ids.extend(parsed(text)?.bind(fields).map_err(|e| refused(&e))?.field_ids());
        }
        let columns = ids.into_iter().filter_map(|id| fields.column_of(id).map(|column| (id, column)));
        let columns = columns.flat_map(|(id, column)| {
            let mapped = mapped.get(&column.id).into_iter().flatten();
            let names: Arc<[String]> = mapped.chain([&column.name]).cloned().collect();
            fields.leaves(id).into_iter().map(move |id| Column { id, names: names.clone() })
        });
        Ok(columns.collect())
    }
}

/// As a person reads it; nothing for the whole table.
impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = || self.columns.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let parts = [
            self.partition.clone(),
            (!self.columns.is_empty()).then(|| format!("columns {}", columns())),
            self.condition.as_ref().map(|condition| format!("where {condition}")),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(" "))
    }
}

/// What it takes so that all of several parts are there. The same columns of many files are joined once, for all of them.
#[derive(Debug, Default)]
pub(super) struct Joint {
    wanted: Wanted,
    /// What two sets of columns are together.
    joined: Vec<[Arc<BTreeSet<Column>>; 3]>,
}

impl Joint {
    /// One more part.
    pub(super) fn add(&mut self, part: Wanted) {
        for (location, (file, want)) in part {
            let before = self.wanted.remove(&location).map(|(_, before)| before);
            let want = match (before, want) {
                (None, want) => want,
                (Some(Want::Columns(a)), Want::Columns(b)) => Want::Columns(self.together(a, b)),
                (Some(_), _) => Want::Whole,
            };
            self.wanted.insert(location, (file, want));
        }
    }

    fn together(&mut self, a: Arc<BTreeSet<Column>>, b: Arc<BTreeSet<Column>>) -> Arc<BTreeSet<Column>> {
        if Arc::ptr_eq(&a, &b) {
            return a;
        }
        let is_it = |[x, y, _]: &&[Arc<_>; 3]| Arc::ptr_eq(x, &a) && Arc::ptr_eq(y, &b);
        if let Some([_, _, both]) = self.joined.iter().find(is_it) {
            return both.clone();
        }
        let both = Arc::new(a.union(&b).cloned().collect());
        self.joined.push([a, b, Arc::clone(&both)]);
        both
    }

    /// All of it.
    pub(super) fn finished(self) -> Wanted {
        self.wanted
    }
}

/// Takes out the files of this machine, which are read where they are; how many they were.
pub(super) fn take_local(wanted: &mut Wanted) -> Sum {
    let mut local = Sum::default();
    wanted
        .extract_if(|_, (file, _)| file.location.file_path().is_some())
        .for_each(|(_, (file, _))| local.add(file.size));
    local
}

/// Whether a file is in a partition, or in one that begins with these fields.
fn is_in(file: &LiveFile, partition: &str) -> bool {
    let rest = file.partition.strip_prefix(partition.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn parsed(text: &str) -> Result<Predicate> {
    Predicate::parse(text).map_err(|e| refused(&e))
}

fn refused(error: &PredicateError) -> Error {
    Error::new(ErrorKind::Invalid, error.to_string())
}

impl Lake {
    /// The files of the current snapshot that a selection means.
    ///
    /// # Errors
    /// The table has no such partition or column (any more), its manifests cannot be read.
    pub(super) async fn selected(&self, shown: &Shown, selection: &Selection) -> Result<Wanted> {
        // One for all files: there may be very many of both.
        let columns = Arc::new(match selection.columns.is_empty() {
            true => BTreeSet::new(),
            false => {
                let metadata = shown.publication.metadata();
                let fields =
                    metadata.fields().map_err(|e| unreadable("cannot read the schema of a table", e))?;
                selection.columns_in(&fields, &metadata.mapped_names())?
            }
        });
        let mut files = match &selection.condition {
            None => live(shown).await?,
            Some(text) => live_where(shown, &parsed(text)?).await?,
        };
        if let Some(partition) = &selection.partition {
            let is_there = |files: &[LiveFile]| files.iter().any(|file| is_in(file, partition));
            let all = if is_there(&files) { Vec::new() } else { live(shown).await? };
            if !is_there(&files) && !is_there(&all) {
                let like = all.first().map(|file| &*file.partition).filter(|like| !like.is_empty());
                let like = like.map(|like| format!(" (one is {like})")).unwrap_or_default();
                let message = format!("the table has no such partition: {partition}{like}");
                return Err(Error::new(ErrorKind::NotFound, message));
            }
            files.retain(|file| is_in(file, partition));
        }
        let wanted = files.into_iter().map(|file| {
            let want = selection.want(&file, &columns);
            (file.location.clone(), (file, want))
        });
        Ok(wanted.collect())
    }
}

/// The files of the current snapshot.
pub(super) async fn live(shown: &Shown) -> Result<Vec<LiveFile>> {
    let Some(current) = shown.publication.metadata().current_snapshot else { return Ok(Vec::new()) };
    let files = shown.publication.files(current).await;
    files.map_err(|e| unreadable("cannot list the files of a table", e))
}

/// Those of them that a condition may be about.
async fn live_where(shown: &Shown, condition: &Predicate) -> Result<Vec<LiveFile>> {
    let Some(current) = shown.publication.metadata().current_snapshot else { return Ok(Vec::new()) };
    let files = shown.publication.files_where(current, condition).await;
    files.map_err(|e| match e {
        TableError::Predicate(error) => refused(&error),
        e => unreadable("cannot list the files of a table", e),
    })
}

fn unreadable(what: &str, error: TableError) -> Error {
    Error::new(ErrorKind::Io, what.to_owned()).with_source(error)
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::panic)] // a test may panic
mod tests {
    use super::*;

    /// Many columns of many files are there once, whoever pins which of them.
    #[test]
    fn files_share_their_columns() {
        let columns = |ids: &[i32]| {
            Arc::new(ids.iter().map(|id| Column { id: *id, names: [].into() }).collect::<BTreeSet<_>>())
        };
        let part = |want: &Want| -> Wanted {
            let file = |n| LiveFile {
                location: format!("s3://b/{n}").parse().expect("a location"),
                size: 1,
                rows: 1,
                content: Content::Data,
                format: "PARQUET".into(),
                partition: "".into(),
            };
            (0..100).map(file).map(|file| (file.location.clone(), (file, want.clone()))).collect()
        };
        let mut joint = Joint::default();
        for ids in [[1, 2], [2, 3], [3, 4]] {
            joint.add(part(&Want::Columns(columns(&ids))));
        }
        assert_eq!(joint.joined.len(), 2);
        let wanted = joint.finished();
        let first = columns(&[1, 2, 3, 4]);
        let mut all = wanted.values().map(|(_, want)| match want {
            Want::Columns(columns) => columns,
            Want::Whole => panic!("not that much"),
        });
        let one = all.next().expect("a file");
        assert_eq!((one, wanted.len()), (&first, 100));
        assert!(all.all(|columns| Arc::ptr_eq(columns, one)));

        let mut joint = Joint::default();
        joint.add(part(&Want::Columns(first.clone())));
        joint.add(part(&Want::Whole));
        joint.add(part(&Want::Columns(first)));
        assert!(joint.finished().values().all(|(_, want)| *want == Want::Whole));
    }

    /// Files that were not written for Iceberg are known by names, which a table may have had before it called its columns
    /// otherwise.
    #[test]
    fn a_column_is_known_by_its_id_or_else_by_its_names() {
        let column = Column { id: 7, names: ["a.b".to_owned(), "old".to_owned()].into() };
        for (id, path, is_it) in [
            (Some(7), "x", true),
            (Some(8), "old", false),
            (None, "old", true),
            (None, "old.list.element", true),
            (None, "older", false),
            (None, "a.b", true),
            (None, "a", false),
            (None, "x.old", false),
        ] {
            assert_eq!(column.is(id, path), is_it, "{id:?} {path}");
        }
    }

    /// As people write lists.
    #[test]
    fn blanks_around_a_name_are_none_of_it() {
        let of =
            |names: [&str; 2]| Selection { columns: names.map(str::to_owned).into(), ..Selection::default() };
        assert_eq!(of(["id", " City "]).checked().expect("makes sense"), of(["City", "id"]));
    }
}
