//! [`Filter`]: a predicate on the entries of the manifests of one table.
use super::Predicate;
use super::bound::{BoundPredicate, FileFacts};
use crate::avro::AvroError;
use crate::error::TableError;
use crate::manifest::Evidence;
use crate::metadata::{Metadata, PartitionSpec};
use std::collections::HashMap;

/// A predicate on the entries of the manifests of one table.
#[derive(Debug)]
pub(crate) struct Filter {
    predicate: BoundPredicate,
    specs: HashMap<i64, PartitionSpec>,
}

impl Filter {
    /// On the current schema of the table.
    pub fn new(metadata: &Metadata, predicate: &Predicate) -> Result<Self, TableError> {
        Ok(Self { predicate: predicate.bind(&metadata.fields()?)?, specs: metadata.partition_specs()? })
    }

    /// Whether a data file may have rows that are wanted.
    pub fn may_match(&self, evidence: &Evidence<'_>) -> Result<bool, AvroError> {
        let spec = evidence.spec.and_then(|id| self.specs.get(&id)).map_or(&[][..], Vec::as_slice);
        // A table without partitions has nothing to read there; and where they tell enough, metrics are not read.
        let partition = if spec.is_empty() { Vec::new() } else { evidence.partition()? };
        let mut facts = FileFacts { columns: Vec::new(), partition, spec };
        if !self.predicate.may_match(&facts) {
            return Ok(false);
        }
        facts.columns = evidence.columns(self.predicate.field_ids())?;
        Ok(self.predicate.may_match(&facts))
    }
}
