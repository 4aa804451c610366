//! [`Restoring`]: that a restore has begun to change the directory, until its version is the base.
//!
//! Until then the directory is neither what the version of before has nor what the new one has. Records follow what is
//! placed, and a start that finds a restore under way goes on with it: of what differs then only what is listed here was
//! changed by somebody, before it began.
use super::key::{path_of, record_key};
use super::{BATCH_MAX, CLEAN, LINKS, Records, Writer};
use crate::journal::{Batch, JournalError, Tree};
use crate::path::RelPath;
use crate::state::head::VersionId;
use crate::state::identity::Identity;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub(super) const RESTORING: Tree = Tree("restoring");
/// Where the header is.
const HEADER_KEY: &[u8] = &[0];
/// What every listed path begins with; the key of its record follows.
const LOCAL: u8 = 1;
/// The value of one at which nothing stood.
const GONE: &[u8] = &[1];
/// The number in the header.
const HEADER_VERSION: u32 = 1;

/// A restore that has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restoring {
    /// The version that it brings.
    pub version: VersionId,
    /// What is listed stays as it is where the version has it otherwise.
    pub keeps: bool,
    /// That version is the base by now, and something is left to be tidied.
    pub settled: bool,
    /// What differed from the version of before when it began, each path by itself, and whether nothing stood there.
    pub local: BTreeMap<RelPath, bool>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) restoring_version: u32,
    pub(super) version: VersionId,
    pub(super) keeps: bool,
    pub(super) settled: bool,
}

impl Header {
    pub(super) fn of(version: VersionId, keeps: bool) -> Self {
        Self { restoring_version: HEADER_VERSION, version, keeps, settled: false }
    }
}

impl Records {
    /// Writes down that a restore begins, durably. To be called before it changes anything.
    pub fn begin_restore(
        &self,
        version: VersionId,
        keeps: bool,
        local: impl IntoIterator<Item = (RelPath, bool)>,
    ) -> Result<(), JournalError> {
        // Of one that was cut off before its header there may be a list.
        self.drop_all(&[RESTORING])?;
        let mut writer = Writer::new(self);
        for (path, gone) in local {
            let value = if gone { GONE } else { b"" };
            writer.batch.put(RESTORING, &[&[LOCAL][..], &record_key(&path)].concat(), value);
            writer.spill()?;
        }
        // The header counts; a list without one is nothing.
        let mut batch = std::mem::take(&mut writer.batch);
        put_header(&mut batch, &Header::of(version, keeps))?;
        self.journal.apply(batch)?;
        self.journal.flush()
    }

    /// The restore under way.
    pub fn restoring(&self) -> Result<Option<Restoring>, JournalError> {
        let Some(Header { version, keeps, settled, .. }) = self.restoring_header()? else { return Ok(None) };
        let paths = self.journal.scan_prefix(RESTORING, &[LOCAL]);
        let local = paths.map(|pair| {
            let (key, value) = pair?;
            Ok((path_of(key.get(1..).unwrap_or_default())?, value == GONE))
        });
        let local = local.collect::<Result<_, JournalError>>()?;
        Ok(Some(Restoring { version, keeps, settled, local }))
    }

    fn restoring_header(&self) -> Result<Option<Header>, JournalError> {
        let Some(bytes) = self.journal.get(RESTORING, HEADER_KEY)? else { return Ok(None) };
        let header: Header = serde_json::from_slice(&bytes)
            .map_err(|e| JournalError::corrupt(format!("restore under way: {e}")))?;
        if header.restoring_version != HEADER_VERSION {
            return Err(JournalError::corrupt("restore under way of an unknown version"));
        }
        Ok(Some(header))
    }

    /// Records what a restore under way has placed; durably, if somebody else's work may stand beside it.
    pub fn placed(
        &self,
        entries: impl IntoIterator<Item = (RelPath, Identity)>,
        durably: bool,
    ) -> Result<(), JournalError> {
        let mut writer = Writer::new(self);
        for (path, ident) in entries {
            writer.put(&path, &ident)?;
        }
        self.journal.apply(std::mem::take(&mut writer.batch))?;
        if durably { self.journal.flush() } else { Ok(()) }
    }

    /// In the batch that makes its version the base.
    pub(super) fn settle_restore(&self, batch: &mut Batch) -> Result<(), JournalError> {
        match self.restoring_header()? {
            Some(header) => put_header(batch, &Header { settled: true, ..header }),
            None => Ok(()),
        }
    }

    /// Nothing is under way any more.
    pub fn end_restore(&self) -> Result<(), JournalError> {
        self.drop_all(&[RESTORING])?;
        self.journal.flush()
    }

    /// Forgets a restore that will not be gone on with, and all that it has placed.
    pub fn forget_restore(&self) -> Result<(), JournalError> {
        match self.restoring_header()? {
            Some(_) => self.drop_all(&[CLEAN, LINKS, RESTORING]),
            None => Ok(()),
        }
    }

    fn drop_all(&self, trees: &[Tree]) -> Result<(), JournalError> {
        let mut batch = Batch::new();
        for tree in trees {
            // The header is the first of its tree.
            for pair in self.journal.scan_prefix(*tree, b"") {
                batch.delete(*tree, &pair?.0);
                if batch.len() >= BATCH_MAX {
                    self.journal.apply(std::mem::take(&mut batch))?;
                }
            }
        }
        self.journal.apply(batch)
    }
}

fn put_header(batch: &mut Batch, header: &Header) -> Result<(), JournalError> {
    let bytes = serde_json::to_vec(header).map_err(|e| JournalError::corrupt(e.to_string()))?;
    batch.put(RESTORING, HEADER_KEY, bytes);
    Ok(())
}
