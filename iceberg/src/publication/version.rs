//! The numbers of versions: the `N` of `v<N>.metadata.json`.
use super::folder::Folder;
use super::sweep::numbers;
use crate::document::Object;
use crate::error::TableError;
use crate::location::Location;
use crate::metadata::SOURCE_PROPERTY;

/// The file that says which version is the current one.
pub(super) const HINT: &str = "version-hint.text";

/// The name of the metadata of a version.
pub(super) fn metadata_name(number: u64) -> String {
    format!("v{number}.metadata.json")
}

/// The number of a version that is made from `source`: the same again if it is the newest in the folder, else
/// greater than all there, because readers that know `v<N>` look for `v<N+1>`, and no path may change its bytes.
pub(super) fn number(folder: &Folder, source: &str, wish: u64) -> Result<u64, TableError> {
    let newest = numbers(folder, "metadata")?.pop_last();
    let Some(newest) = newest else { return Ok(wish) };
    if made_from(folder, newest)?.as_deref() == Some(source) {
        return Ok(newest);
    }
    Ok(wish.max(newest.saturating_add(1)))
}

/// The number of a version that is there already: of the newest one or of the one that the hint names, if that is made
/// from `source`. Nothing newer was ever the current one.
pub(super) fn number_again(folder: &Folder, source: &str) -> Result<Option<u64>, TableError> {
    let newest = numbers(folder, "metadata")?.pop_last();
    for number in newest.into_iter().chain(hinted(folder, "metadata")?) {
        if made_from(folder, number)?.as_deref() == Some(source) {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

/// The number that the hint in a folder `metadata` names.
pub(super) fn hinted(folder: &Folder, path: &str) -> Result<Option<u64>, TableError> {
    let hint = folder.read(&format!("{path}/{HINT}"))?;
    Ok(hint.and_then(|hint| std::str::from_utf8(&hint).ok()?.parse().ok()))
}

/// What the metadata of a version was made from.
fn made_from(folder: &Folder, number: u64) -> Result<Option<String>, TableError> {
    let Some(bytes) = folder.read(&format!("metadata/{}", metadata_name(number)))? else { return Ok(None) };
    // What cannot be read was not written by these rules, and is not this version.
    let read = || -> Option<String> {
        let object: Object = serde_json::from_slice(&bytes).ok()?;
        object.get::<Object>("properties").ok()??.get(SOURCE_PROPERTY).ok()?
    };
    Ok(read())
}

/// The number that a version should have: that of its own name (`00007-….metadata.json` is the eighth,
/// `v7.metadata.json` the seventh), else one more than it has predecessors.
pub(super) fn wish(location: &Location, predecessors: u64) -> u64 {
    let name = location.name();
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
    let own = match name.strip_prefix('v') {
        Some(rest) => digits(rest).parse::<u64>().ok(),
        None if name.split_once('-').is_some_and(|(n, _)| n == digits(name)) => {
            digits(name).parse::<u64>().ok().map(|n| n.saturating_add(1))
        }
        None => None,
    };
    // Engines read it as an int.
    own.filter(|n| (1..1 << 30).contains(n)).unwrap_or(predecessors + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_the_names() {
        for (name, number) in [
            ("v7.metadata.json", 7),
            ("v7.gz.metadata.json", 7),
            ("00000-0b34-uuid.metadata.json", 1),
            ("00041-0b34-uuid.gz.metadata.json", 42),
            ("0b34-uuid.metadata.json", 4),
            ("v0.metadata.json", 4),
            ("99999999999-x.metadata.json", 4),
            ("metadata.json", 4),
        ] {
            assert_eq!(wish(&format!("s3://b/t/metadata/{name}").parse().unwrap(), 3), number, "{name}");
        }
    }

    #[test]
    fn no_number_comes_twice() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        assert_eq!(number(&folder, "objects/s3/b/x#1", 3).unwrap(), 3);
        folder
            .write("metadata/v3.metadata.json", br#"{"properties":{"icecache.source":"objects/s3/b/x#1"}}"#)
            .unwrap();
        folder.write("metadata/v2.metadata.json", b"{}").unwrap();
        assert_eq!(number(&folder, "objects/s3/b/x#1", 3).unwrap(), 3);
        assert_eq!(number(&folder, "objects/s3/b/x#2", 3).unwrap(), 4);
        assert_eq!(number(&folder, "objects/s3/b/y", 9).unwrap(), 9);
        assert_eq!(number(&folder, "objects/s3/b/y", 1).unwrap(), 4);
        // The one that is shown is found again although a newer one is there, which never was.
        assert_eq!(number_again(&folder, "objects/s3/b/x#1").unwrap(), Some(3));
        folder.write("metadata/v4.metadata.json", b"{}").unwrap();
        assert_eq!(number_again(&folder, "objects/s3/b/x#1").unwrap(), None);
        folder.write("metadata/version-hint.text", b"3").unwrap();
        assert_eq!(number_again(&folder, "objects/s3/b/x#1").unwrap(), Some(3));
        assert_eq!(number_again(&folder, "objects/s3/b/x#2").unwrap(), None);
        folder.write("metadata/v9.metadata.json", b"not JSON").unwrap();
        assert_eq!(number(&folder, "objects/s3/b/x#1", 3).unwrap(), 10);
    }
}
