//! Keys of records: byte order is path order, and a directory's content follows it directly.
use crate::journal::{Journal, JournalError, Pairs, Tree};
use crate::path::RelPath;
use crate::state::identity::Identity;

/// A path as a key: slashes become NUL, so that bytes sort as paths do.
pub fn record_key(path: &RelPath) -> Vec<u8> {
    path.as_bytes().iter().map(|b| if *b == b'/' { 0 } else { *b }).collect()
}

/// What every key strictly below a path starts with (below the root: nothing).
pub fn prefix_below(path: &RelPath) -> Vec<u8> {
    let mut key = record_key(path);
    if !key.is_empty() {
        key.push(0);
    }
    key
}

/// The path of a key.
pub fn path_of(key: &[u8]) -> Result<RelPath, JournalError> {
    let bytes: Vec<u8> = key.iter().map(|b| if *b == 0 { b'/' } else { *b }).collect();
    RelPath::new(bytes).map_err(|e| JournalError::corrupt(format!("key: {e}")))
}

/// The names directly in a directory, with their records; see `Records::children`. What stands
/// deeper is stepped over with one seek for each directory.
pub struct Children<'a> {
    journal: &'a dyn Journal,
    tree: Tree,
    prefix: Vec<u8>,
    pairs: Option<Pairs<'a>>,
    last: Vec<u8>,
}

impl<'a> Children<'a> {
    pub(super) fn new(journal: &'a dyn Journal, tree: Tree, prefix: Vec<u8>) -> Self {
        let pairs = Some(journal.scan_prefix(tree, &prefix));
        Self { journal, tree, prefix, pairs, last: Vec::new() }
    }

    fn step(&mut self) -> Result<Option<(Vec<u8>, Option<Identity>)>, JournalError> {
        while let Some(pair) = self.pairs.as_mut().and_then(Iterator::next) {
            let (key, value) = pair?;
            let rest = key.get(self.prefix.len()..).unwrap_or_default();
            if rest.is_empty() {
                continue; // the root itself
            }
            let Some(end) = rest.iter().position(|b| *b == 0) else {
                self.last = rest.to_vec();
                return Ok(Some((self.last.clone(), Some(super::decode(&value)?))));
            };
            let name = rest[..end].to_vec();
            let from = [&self.prefix[..], &name, &[1]].concat();
            self.pairs = Some(self.journal.scan(self.tree, &self.prefix, &from));
            if name != self.last {
                self.last.clone_from(&name);
                return Ok(Some((name, None)));
            }
        }
        Ok(None)
    }
}

impl Iterator for Children<'_> {
    type Item = Result<(Vec<u8>, Option<Identity>), JournalError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.step().transpose();
        if !matches!(item, Some(Ok(_))) {
            self.pairs = None;
        }
        item
    }
}

impl std::fmt::Debug for Children<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Children")
            .field("prefix", &self.prefix.escape_ascii().to_string())
            .finish_non_exhaustive()
    }
}
