//! The version of a name that somebody chose.
use super::head::{Head, check_tag};
use crate::config::Choice;
use crate::{Error, ErrorKind, Result};
use jiff::Timestamp;

/// The document as of the chosen version. `NotFound` if there is no such version, `Invalid` if the word can
/// be none.
pub fn choose(head: Head, choice: &Choice) -> Result<Head> {
    match choice {
        Choice::Newest => Ok(head),
        Choice::Version(word) => by_word(&head, word),
        Choice::At(time) => by_time(&head, *time),
    }
}

fn by_word(head: &Head, word: &str) -> Result<Head> {
    let number = match head.tags.get(word) {
        Some(version) => Some(*version),
        None => word.parse().ok(),
    };
    if number.is_none() && check_tag(word).is_err() {
        let message = format!("version must be a number or a tag, see 'icecache log': {word}");
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    let found = number.and_then(|number| head.at(number));
    found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no such version: {word}")))
}

/// Times come from clocks and need not ascend: the newest version is the one with the highest number.
fn by_time(head: &Head, time: Timestamp) -> Result<Head> {
    let versions = head.versions();
    let newest = versions.iter().find(|(layer, _)| layer.time <= time);
    newest.and_then(|(layer, _)| head.at(layer.version)).ok_or_else(|| {
        let oldest = versions.iter().map(|(layer, _)| layer).min_by_key(|layer| layer.time);
        let oldest = oldest
            .map_or_else(String::new, |l| format!("the oldest is version {} of {}, ", l.version, l.time));
        Error::new(ErrorKind::NotFound, format!("no version is that old, {oldest}asked for: {time}"))
    })
}
