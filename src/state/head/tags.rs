//! Tags: names that people give to versions. They change while their version does not.
use super::{Head, HeadError, VersionId};
use crate::remote::Tag;

/// The longest name of a tag, in bytes.
pub const TAG_BYTES_MAX: usize = 128;
/// The most tags a name may have.
pub const TAGS_MAX: usize = 10_000;
/// How many earlier documents of a version are remembered.
const FORMERLY_MAX: usize = 64;
/// The longest thing a store may call an object, in bytes.
const STORE_TAG_BYTES_MAX: usize = 1024;

impl Head {
    /// The same version with a tag set (`None`: taken away). `stored`: what the store calls this document.
    #[must_use]
    pub fn tagged(&self, tag: &str, version: Option<VersionId>, stored: Tag) -> Self {
        let mut tagged = self.clone();
        match version {
            Some(version) => tagged.tags.insert(tag.to_owned(), version),
            None => tagged.tags.remove(tag),
        };
        tagged.was_stored(stored);
        tagged
    }

    /// Notes what the store called the document that this one replaces, of the same version.
    pub(super) fn was_stored(&mut self, stored: Tag) {
        self.formerly.push(stored);
        let excess = self.formerly.len().saturating_sub(FORMERLY_MAX);
        self.formerly.drain(..excess);
    }

    /// Whether `other` is this version with other tags or merged layers, and not another writer's next one.
    /// (The newest layer of a version is never merged.)
    pub fn is_version_of(&self, other: &Self) -> bool {
        let last = |head: &Self| head.layers.last().map(|layer| (layer.key.clone(), layer.digest));
        (self.version, self.writer, self.fence) == (other.version, other.writer, other.fence)
            && last(self) == last(other)
    }

    /// Whether this document is of version `version` and the store called an earlier one of it `stored`.
    pub fn was(&self, version: VersionId, stored: &Tag) -> bool {
        self.version == version && self.formerly.contains(stored)
    }

    pub(super) fn check_tags(&self) -> Result<(), HeadError> {
        let invalid = |text: String| Err(HeadError::Invalid(text));
        if self.tags.len() > TAGS_MAX {
            return invalid(format!("{} tags", self.tags.len()));
        }
        if self.formerly.len() > FORMERLY_MAX || self.formerly.iter().any(|t| t.0.len() > STORE_TAG_BYTES_MAX)
        {
            return invalid("list of earlier documents".into());
        }
        for (tag, version) in &self.tags {
            check_tag(tag)?;
            if *version == 0 || *version > self.version {
                return invalid(format!("tag {tag:?} of version {version}"));
            }
        }
        Ok(())
    }
}

/// Whether text can name a tag: 1 to 128 of `A-Z a-z 0-9 . _ -`, and no number, since those are versions.
pub fn check_tag(tag: &str) -> Result<(), HeadError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let good = (1..=TAG_BYTES_MAX).contains(&tag.len())
        && tag.bytes().all(plain)
        && !tag.bytes().all(|b| b.is_ascii_digit());
    if good { Ok(()) } else { Err(HeadError::Invalid(format!("name of a tag {tag:?}"))) }
}
