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
