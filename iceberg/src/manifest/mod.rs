//! Manifest lists and manifests: what is in them, and what they become below a mount.
//!
//! Fields are found by their Iceberg field ids in the schema that each file brings along.
mod crew;
mod entry;
mod evidence;
mod inline;
mod list;
mod metrics;
mod partition;

pub(crate) use entry::{Entry, EntryChange, Status, filter_manifest, read_manifest, rewrite_manifest};
pub(crate) use evidence::{ColumnMetrics, Evidence, PartitionValue};
pub(crate) use inline::inline_list;
pub(crate) use list::{read_list, rewrite_list};
pub(crate) use metrics::{Bounds, MetricsChange};

/// The largest list or manifest, in bytes. Writers end a manifest at 8 MiB.
pub(crate) const MANIFEST_MAX_BYTES: u64 = 512 << 20;
/// The most manifests of a list.
pub(crate) const MANIFESTS_MAX: usize = 1 << 20;
/// The most entries of a manifest.
pub(crate) const ENTRIES_MAX: usize = 8 << 20;
/// The field of position deletes that names the data file, in files and in bounds.
pub(crate) const FILE_PATH_FIELD: i32 = 2_147_483_546;
/// The field that says which of its rows.
pub(crate) const POSITION_FIELD: i32 = 2_147_483_545;

use crate::avro::AvroError;
use crate::error::TableError;

/// Says which file an error of the format is about.
pub(crate) fn fault(what: &'static str, name: &str) -> impl Fn(AvroError) -> TableError {
    let what = format!("{what} {name}");
    move |error| match error {
        AvroError::Codec(_) => TableError::Unsupported {
            what: format!("{what}: {error}"),
            advice: "write the metadata again with another codec (write.avro.compression-codec, rewrite_manifests)",
        },
        error => TableError::Malformed { what: what.clone(), why: error.to_string() },
    }
}
