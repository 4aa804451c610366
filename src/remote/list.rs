//! What a store holds: objects by prefix, a page at a time.
use super::{ObjectStore, RemoteError};
use crate::clock::Timestamp;
use futures::stream::{self, Stream};

/// No page has more objects (the limit of S3).
pub const PAGE_MAX_OBJECTS: usize = 1000;

/// One object of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key, as [`get`](ObjectStore::get) takes it.
    pub key: String,
    /// Its length in bytes.
    pub length: u64,
    /// When it was last written, by the clock of the store.
    pub modified: Timestamp,
}

/// Some of the objects of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// In ascending order of the bytes of their keys; at most [`PAGE_MAX_OBJECTS`].
    pub objects: Vec<Listed>,
    /// Whether there are more after the last of these. Never set on a page without objects.
    pub more: bool,
}

/// Some of what stands on one level: what begins with a prefix, up to the next slash.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Level {
    /// Objects, in ascending order of the bytes of their keys.
    pub objects: Vec<Listed>,
    /// What the keys of others begin with, each once, with that slash.
    pub folders: Vec<String>,
    /// What the next part comes after; `None`: this was the last.
    pub next: Option<String>,
}

impl Level {
    /// The level of a page that knows nothing of levels.
    pub(super) fn of(page: Page, prefix: &str) -> Self {
        let mut level = Self::default();
        let more = page.more;
        for object in page.objects {
            let rest = object.key.get(prefix.len()..).unwrap_or_default();
            match rest.split_once('/') {
                Some((name, _)) => {
                    let folder = format!("{prefix}{name}/");
                    level.next = Some(behind(&folder));
                    if level.folders.last() != Some(&folder) {
                        level.folders.push(folder);
                    }
                }
                None => {
                    level.next = Some(object.key.clone());
                    level.objects.push(object);
                }
            }
        }
        level.next = level.next.filter(|_| more);
        level
    }

    /// What a server has said, which comes after `after`.
    pub(super) fn checked(
        mut self,
        prefix: &str,
        after: Option<&str>,
        more: bool,
    ) -> Result<Self, RemoteError> {
        // Some name the folder again that they are to go on behind.
        self.folders.retain(|folder| after.is_none_or(|after| behind(folder).as_str() > after));
        let last = self.objects.last().map(|object| object.key.clone());
        self.next = last.max(self.folders.last().map(|folder| behind(folder))).filter(|_| more);
        let folders = self.folders.iter().all(|folder| folder.starts_with(prefix) && folder.ends_with('/'));
        if !folders || more && self.next.is_none() {
            let message = format!("list of {prefix:?}: the server does not list what was asked for");
            return Err(RemoteError::Refused { message });
        }
        Ok(self)
    }
}

/// Past everything in a folder: nothing in a key comes after this.
fn behind(folder: &str) -> String {
    format!("{folder}{}", char::MAX)
}

/// Objects whose keys begin with `prefix` and come after `after`, page by page, each asked for when the one
/// before is used up. The first error ends it.
pub fn objects<'a>(
    store: &'a dyn ObjectStore,
    prefix: &'a str,
    after: Option<String>,
) -> impl Stream<Item = Result<Listed, RemoteError>> + Send + 'a {
    let pages = stream::try_unfold(Some(after), move |state| async move {
        let Some(after) = state else { return Ok(None) };
        let page = store.list(prefix, after.as_deref()).await?;
        let next = page.objects.last().filter(|_| page.more).map(|last| Some(last.key.clone()));
        let items = page.objects.into_iter().map(Ok);
        Ok::<_, RemoteError>(Some((stream::iter(items), next)))
    });
    futures::TryStreamExt::try_flatten(pages)
}

/// Refuses a page that would lead a reader in a circle or past something: keys out of order, keys that were
/// not asked for, "more" without anything to go on from.
pub(super) fn check(page: &Page, prefix: &str, after: Option<&str>) -> Result<(), RemoteError> {
    let refused = |what: &str| Err(RemoteError::Refused { message: format!("list of {prefix:?}: {what}") });
    if page.more && page.objects.is_empty() {
        return refused("an empty page is said not to be the last");
    }
    let mut last = after;
    for object in &page.objects {
        if !object.key.starts_with(prefix) || last.is_some_and(|last| *object.key <= *last) {
            return refused("the server does not list in order what was asked for");
        }
        last = Some(&object.key);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(keys: &[&str], more: bool) -> Page {
        let listed = |key: &&str| Listed { key: key.to_string(), length: 0, modified: Timestamp::default() };
        Page { objects: keys.iter().map(listed).collect(), more }
    }

    #[test]
    fn a_level_goes_on_behind_the_folders_that_it_has() {
        let level = |keys: &[&str], more| Level::of(page(keys, more), "p/");
        let keys = |level: &Level| level.objects.iter().map(|object| object.key.clone()).collect::<Vec<_>>();
        let first = level(&["p/a", "p/b/1", "p/b/2", "p/c", "p/d/1"], true);
        assert_eq!(
            (keys(&first), &first.folders),
            (vec!["p/a".into(), "p/c".into()], &vec!["p/b/".into(), "p/d/".into()])
        );
        assert_eq!(first.next, Some(behind("p/d/")));
        assert_eq!(level(&["p/a", "p/b/1", "p/c"], true).next.as_deref(), Some("p/c"));
        assert_eq!(level(&["p/b/1"], false).next, None);
        let said = |folders: &[&str], more| {
            let folders = folders.iter().map(|folder| (*folder).to_owned()).collect();
            Level { folders, ..Level::default() }.checked("p/", Some(&behind("p/b/")), more)
        };
        assert_eq!(
            said(&["p/b/", "p/d/"], true).unwrap(),
            Level { folders: vec!["p/d/".into()], next: Some(behind("p/d/")), ..Level::default() }
        );
        assert_eq!(said(&["p/b/"], false).unwrap(), Level::default());
        for (folders, more) in [(&["p/b/"][..], true), (&["q/d/"], false), (&["p/d"], false), (&[], true)] {
            assert!(said(folders, more).is_err(), "{folders:?}");
        }
    }

    #[test]
    fn a_page_goes_on_from_where_the_last_ended() {
        assert!(check(&page(&["a/b", "a/c"], true), "a/", Some("a/a")).is_ok());
        assert!(check(&page(&[], false), "a/", None).is_ok());
        for (keys, more, after) in [
            (&["a/c", "a/b"][..], false, None),
            (&["a/b", "a/b"][..], false, None),
            (&["a/b"][..], true, Some("a/b")),
            (&["b"][..], false, None),
            (&[][..], true, None),
        ] {
            assert!(check(&page(keys, more), "a/", after).is_err(), "{keys:?} {more} {after:?}");
        }
    }
}
