//! [`chosen`]: which blocks of a Parquet file some of its columns are in.
use super::footer;
use super::selection::Column;
use crate::cache::{Blob, CacheError};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

/// The numbers of the blocks: those of the columns, and of the indexes and the footer at the end of the file. All, if
/// its footer cannot be read: it is not known then how it is read. Brings the footer.
///
/// # Errors
/// The footer cannot be brought.
pub(super) async fn chosen(
    blob: &Blob,
    columns: &Arc<BTreeSet<Column>>,
) -> Result<BTreeSet<u32>, CacheError> {
    let wanted = columns.clone();
    let is_wanted = move |id: Option<i32>, path: &str| wanted.iter().any(|column| column.is(id, path));
    let Some(found) = footer::columns(blob, is_wanted).await? else {
        return Ok((0..blob.blocks().1).collect());
    };
    let chunks = found.chunks().iter().map(|chunk| chunk.bytes.clone());
    Ok(chunks
        .chain(std::iter::once(found.end()..blob.size()))
        .flat_map(|bytes| numbers(blob, &bytes))
        .collect())
}

/// The blocks that have these bytes.
fn numbers(blob: &Blob, bytes: &Range<u64>) -> Range<u32> {
    let length = blob.block_bytes();
    (bytes.start / length) as u32..bytes.end.div_ceil(length) as u32
}
