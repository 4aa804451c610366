//! What a table was, and what its branches have: the folders `snapshots` and `refs` in it, for the [`View`].
//!
//! One that cannot be shown has a file `ERROR` in its folder, as a table has, and the table does not mind.
use super::slot::{Shown, Slot, TRY_AGAIN};
use super::view::{ERROR, Found, Kind, Listed, Stays, View, ViewError};
use icecache_iceberg::TableError;
use icecache_iceberg::mapping::{escape_name, split_name, unescape_name};
use icecache_iceberg::publication::Fault;
use std::collections::BTreeSet;

/// What has become of a snapshot, a branch or a tag.
enum Past {
    /// It is there.
    There,
    /// The table has it not.
    None,
    /// It cannot be shown.
    Broken(String),
}

impl Past {
    /// What an attempt has come to; whoever is away may be asked again.
    fn of<T>(made: Result<T, ViewError>) -> Result<Self, ViewError> {
        match made {
            Ok(_) => Ok(Self::There),
            Err(ViewError::Table(TableError::NoSuch { .. })) => Ok(Self::None),
            Err(ViewError::Table(error)) if error.is_of_a_file() => Ok(Self::Broken(error.to_string())),
            Err(error) => Err(error),
        }
    }

    /// What was wrong a moment ago is not tried again yet.
    fn lately(fault: Option<Fault>) -> Option<Self> {
        fault.filter(|fault| fault.at.elapsed() < TRY_AGAIN).map(|fault| Self::Broken(fault.why))
    }
}

/// What stands at a path below the folder of what cannot be shown.
fn broken(inner: &str, why: &str) -> Option<(Found, Stays)> {
    match inner {
        "" => Some((Found::Folder, Stays::Moment)),
        ERROR => Some((Found::Text(format!("{why}\n").into()), Stays::Now)),
        _ => None,
    }
}

impl View {
    pub(super) async fn find_in_snapshots(
        &self,
        slot: &Slot,
        shown: &Shown,
        rest: &str,
        below: &str,
    ) -> Result<Option<(Found, Stays)>, ViewError> {
        let publication = &shown.publication;
        let (id, inner) = below.split_once('/').unwrap_or((below, ""));
        if let Some(time) = id.strip_prefix('@') {
            return match publication.snapshot_at(time) {
                Ok(Some(id)) if inner.is_empty() => Ok(Some((Found::Link(id.to_string()), Stays::Moment))),
                Ok(_) | Err(TableError::NoSuch { .. }) => Ok(None),
                Err(e) => Err(e.into()),
            };
        }
        let Some(number) = id.parse::<i64>().ok().filter(|number| number.to_string() == id) else {
            return Ok(None);
        };
        let past = match (Past::lately(publication.fault(number)), inner) {
            (Some(broken), _) => broken,
            (None, "" | ERROR) => {
                let _older = slot.writing.older.read().await;
                let bring = async {
                    publication.snapshot(number).await?;
                    self.learn(shown, Some(number)).await
                };
                Past::of(bring.await)?
            }
            (None, _) => Past::There, // or it is not found
        };
        match past {
            Past::There => self.published(slot, shown, rest).await,
            Past::None => Ok(None),
            Past::Broken(why) => Ok(broken(inner, &why)),
        }
    }

    pub(super) async fn find_in_references(
        &self,
        slot: &Slot,
        shown: &std::sync::Arc<Shown>,
        rest: &str,
        below: &str,
    ) -> Result<Option<(Found, Stays)>, ViewError> {
        let Some((name, inner)) = split_name(below) else {
            let is_part = !references(shown, below).is_empty();
            return Ok(is_part.then_some((Found::Folder, Stays::Moment)));
        };
        let Some(name) = unescape_name(name) else { return Ok(None) };
        if !slot.follows(&name) {
            match self.bring_reference(slot, shown, &name).await? {
                Past::There => {}
                Past::None => return Ok(None),
                Past::Broken(why) => return Ok(broken(inner, &why)),
            }
        }
        self.published(slot, shown, rest).await
    }

    /// A branch or a tag moves with the table from now on, if it can be shown.
    async fn bring_reference(
        &self,
        slot: &Slot,
        shown: &std::sync::Arc<Shown>,
        name: &str,
    ) -> Result<Past, ViewError> {
        let reference = |shown: &Shown| shown.publication.metadata().refs.get(name).map(|is| is.snapshot);
        let fault = |shown: &Shown| reference(shown).and_then(|snapshot| shown.publication.fault(snapshot));
        if let Some(broken) = Past::lately(fault(shown)) {
            return Ok(broken);
        }
        let _turn = slot.writing.turn.lock().await; // of the version that is shown by then
        let shown = slot.current().unwrap_or_else(|| shown.clone());
        if let Some(broken) = Past::lately(fault(&shown)) {
            return Ok(broken); // whoever was first has tried
        }
        let bring = async {
            shown.publication.reference(name).await?;
            self.learn(&shown, reference(&shown)).await
        };
        let past = Past::of(bring.await)?;
        if matches!(past, Past::There) {
            slot.follow(name);
        }
        Ok(past)
    }

    pub(super) async fn learn(&self, shown: &Shown, snapshot: Option<i64>) -> Result<(), ViewError> {
        let is_news = |id: &i64| !shown.learned.lock().contains(id);
        if let Some(snapshot) = snapshot.filter(is_news) {
            let files = shown.publication.files(snapshot).await?;
            self.lake().learn(&shown.publication, &files, false);
            shown.learned.lock().insert(snapshot);
        }
        Ok(())
    }
}

/// What stands in one of these folders, where it is not what is published there.
pub(super) fn list_past(shown: &Shown, rest: &str) -> Option<Vec<Listed>> {
    let folders = |names: Vec<String>| names.into_iter().map(|name| (name, Kind::Folder)).collect();
    let publication = &shown.publication;
    let (first, below) = rest.split_once('/').unwrap_or((rest, ""));
    let snapshot = match first {
        "snapshots" if below.is_empty() => {
            let ids = publication.metadata().snapshots.iter().map(|snapshot| snapshot.id.to_string());
            return Some(folders(ids.collect()));
        }
        "snapshots" => Some(below.parse().ok()?),
        "refs" if split_name(below).is_none_or(|(name, _)| name.is_empty()) => {
            return Some(folders(references(shown, below)));
        }
        "refs" => {
            let name = split_name(below).filter(|(_, inner)| inner.is_empty())?.0;
            publication.metadata().refs.get(&unescape_name(name)?).map(|reference| reference.snapshot)
        }
        _ => return None,
    };
    // A reference that dangles is one to no snapshot.
    let is_broken = snapshot.is_none_or(|snapshot| publication.fault(snapshot).is_some());
    is_broken.then(|| vec![(ERROR.to_owned(), Kind::File)])
}

/// What stands in the folder of all branches and tags, or in that of a part of long names.
fn references(shown: &Shown, part: &str) -> Vec<String> {
    let metadata = shown.publication.metadata();
    let names = metadata.refs.keys().chain(metadata.dangling.keys()).map(|name| escape_name(name));
    let below = |name: String| {
        let rest = if part.is_empty() { &*name } else { name.strip_prefix(part)?.strip_prefix('/')? };
        rest.split('/').next().map(str::to_owned)
    };
    let pieces: BTreeSet<String> = names.filter_map(below).collect();
    pieces.into_iter().collect()
}
