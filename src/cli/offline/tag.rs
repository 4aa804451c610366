//! A name for a version.
use super::import::require_conditions;
use super::{Choice, Opened};
use crate::config::{Layout, RemoteSettings};
use crate::remote::{Condition, RemoteError};
use crate::state::choice::choose;
use crate::state::head::{self, TAGS_MAX, VersionId, head_key, read_head};
use crate::{Error, ErrorKind, Result};
use bytes::Bytes;
use serde::Serialize;

/// How often HEAD may move while a tag is set.
const ATTEMPTS: u32 = 16;

/// What became of a tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tagged {
    /// The tag.
    pub tag: String,
    /// Its version now; `None`: it was taken away.
    pub version: Option<VersionId>,
    /// Its version before.
    pub before: Option<VersionId>,
}

/// Whether a version in `layout` can have this tag.
pub fn check_tag(layout: Layout, tag: &str) -> Result<()> {
    head::check_tag(tag).map_err(|_| {
        let message = format!("a tag has 1 to 128 of A-Z a-z 0-9 . _ - and is no number: {tag}");
        Error::new(ErrorKind::Invalid, message)
    })?;
    if layout == Layout::Single {
        let message = "layout single keeps the newest version only: nothing to tag";
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    Ok(())
}

/// Sets a tag to a version, or takes it away (`None`).
pub fn tag(remote: &RemoteSettings, tag: &str, choice: Option<&Choice>) -> Result<Tagged> {
    check_tag(remote.layout, tag)?;
    let opened = Opened::new(remote)?;
    let key = head_key(remote.name.as_str());
    let read = || opened.runtime.block_on(read_head(&*opened.store, remote.name.as_str()));
    let mut probed = false;
    for _ in 0..ATTEMPTS {
        let (head, stored) = read()?.ok_or_else(|| opened.unknown(remote))?;
        let before = head.tags.get(tag).copied();
        let version = match choice {
            Some(choice) => Some(choose(head.clone(), choice)?.version),
            None => None,
        };
        let tagged = Tagged { tag: tag.to_owned(), version, before };
        match (before, version) {
            (None, None) => return Err(Error::new(ErrorKind::NotFound, format!("no such tag: {tag}"))),
            (None, Some(_)) if head.tags.len() >= TAGS_MAX => {
                return Err(Error::new(ErrorKind::Full, format!("name has {TAGS_MAX} tags already")));
            }
            _ if before == version => return Ok(tagged),
            _ => {}
        }
        // Where nothing is refused this could take away a version that was made meanwhile.
        if !std::mem::replace(&mut probed, true) {
            require_conditions(&opened, remote)?;
        }
        let bytes = Bytes::from(head.tagged(tag, version, stored.clone()).to_bytes()?);
        let put = opened.store.put(&key, bytes, Condition::IfMatch(stored));
        match opened.runtime.block_on(put) {
            Ok(_) => return Ok(tagged),
            Err(RemoteError::Precondition { .. }) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(Error::new(
        ErrorKind::Busy,
        format!("versions are made faster than one can be tagged: {}", remote.name),
    ))
}
