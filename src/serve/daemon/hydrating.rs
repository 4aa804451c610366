//! What `hydrate` asks of a mount.
use crate::error::{Error, ErrorKind, Result};
use crate::path::RelPath;
use crate::serve::control::HydrateReply;
use crate::state::absent::Hydrator;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

/// Brings what is only in the remote: all, or what stands at these paths and below them.
pub async fn hydrate(hydrator: Option<&Arc<Hydrator>>, paths: Vec<PathBuf>) -> Result<HydrateReply> {
    let Some(hydrator) = hydrator else {
        return Ok(HydrateReply { files: 0, absent_files: 0, absent_bytes: 0 });
    };
    let absent = hydrator.absent().clone();
    let before = absent.left().files;
    let brought = if paths.is_empty() {
        hydrator.bring_all(false, || ()).await
    } else {
        let mut files = Vec::new();
        for path in paths {
            let path = RelPath::new(path.as_os_str().as_bytes()).map_err(|e| {
                Error::new(ErrorKind::Invalid, format!("not a path of this mount: {e}: {}", path.display()))
            })?;
            files.extend(absent.node_at(&path).map(|n| absent.files_within(n)).unwrap_or_default());
        }
        files.sort_unstable();
        files.dedup();
        hydrator.bring(files).await
    };
    brought.map_err(|e| {
        let failed = Error::new(ErrorKind::Unavailable, "content could not be brought");
        failed.with_source(e)
    })?;
    let left = absent.left();
    let files = before.saturating_sub(left.files);
    Ok(HydrateReply { files, absent_files: left.files, absent_bytes: left.bytes })
}
