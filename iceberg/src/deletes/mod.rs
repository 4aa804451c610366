//! Files of position deletes and deletion vectors: they name data files inside, so they are rewritten too.
mod avro;
mod orc;
mod parquet;

use crate::error::TableError;
use crate::puffin::rewrite_puffin;
use bytes::Bytes;

/// The largest file of deletes that is rewritten, in bytes; it is held in memory for that.
pub(crate) const DELETES_MAX_BYTES: u64 = 1 << 30;

/// What a manifest tells of a rewritten file of deletes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The first and the last path in it, in the order of their bytes.
    pub bounds: Option<(String, String)>,
    /// Where its row groups begin; `None` if the format has none.
    pub splits: Option<Vec<i64>>,
    /// How many bytes each column takes, by field id: all there are; `None` if the format does not tell.
    pub sizes: Option<Vec<(i32, i64)>>,
}

/// The format of a rewritten file, if that is not the one that it had. Engines that read Iceberg's deletes read them in
/// Parquet, few of them in ORC.
pub(crate) fn new_format(format: &str) -> Option<&'static str> {
    format.eq_ignore_ascii_case("ORC").then_some("PARQUET")
}

/// The same deletes with every path mapped by `map`, in the [new format](new_format). `format` and `rows` are the
/// manifest's, `name` is for the errors.
pub(crate) fn rewrite_deletes(
    format: &str,
    bytes: &Bytes,
    rows: u64,
    name: &str,
    map: impl FnMut(&str) -> Result<String, String>,
) -> Result<Vec<u8>, TableError> {
    match format.to_ascii_uppercase().as_str() {
        "PUFFIN" => rewrite_puffin(bytes, name, map),
        "PARQUET" => parquet::rewrite(bytes, name, map),
        "AVRO" => avro::rewrite(bytes, name, map),
        "ORC" => orc::rewrite(bytes, rows, name, map),
        other => Err(unsupported(other, name)),
    }
}

/// What a manifest must tell of a file that was rewritten. `format` is the one it has now.
pub(crate) fn facts(format: &str, bytes: Bytes, name: &str) -> Result<Facts, TableError> {
    match format.to_ascii_uppercase().as_str() {
        "PUFFIN" => Ok(Facts::default()),
        "PARQUET" => parquet::facts(bytes, name),
        "AVRO" => avro::facts(&bytes, name),
        other => Err(unsupported(other, name)),
    }
}

fn unsupported(format: &str, name: &str) -> TableError {
    TableError::Unsupported {
        what: format!("position deletes in {format} ({name})"),
        advice: "compact them (rewrite_position_delete_files) with write.delete.format.default=parquet",
    }
}
