//! What `hydrate` asks of a mount.
use crate::error::{Error, ErrorKind, Result};
use crate::path::RelPath;
use crate::serve::control::HydrateReply;
use crate::state::absent::{Failure, Hydrator, LostFiles};
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
    brought.map_err(|e| failed(hydrator, e))?;
    let left = absent.left();
    let files = before.saturating_sub(left.files);
    Ok(HydrateReply { files, absent_files: left.files, absent_bytes: left.bytes })
}

fn failed(hydrator: &Hydrator, failure: Failure) -> Error {
    let kind = match failure.kind() {
        kind @ (ErrorKind::Corrupt | ErrorKind::Denied | ErrorKind::Full | ErrorKind::Unsupported) => kind,
        _ => ErrorKind::Unavailable,
    };
    let message = match hydrator.lost() {
        Some(lost) if matches!(kind, ErrorKind::Corrupt | ErrorKind::Unsupported) => cannot_come(&lost),
        _ => "content could not be brought".to_owned(),
    };
    Error::new(kind, message).with_source(failure)
}

fn cannot_come(lost: &LostFiles) -> String {
    let noun = if lost.files == 1 { "file" } else { "files" };
    let why = if lost.damaged {
        "the remote has lost or damaged the content"
    } else {
        "extended attributes do not fit here"
    };
    format!("{} {noun} cannot come, {why}", lost.files)
}

/// How many files cannot come, and why the first of them does not, in words.
pub fn lost(hydrator: Option<&Arc<Hydrator>>) -> (u64, Option<String>) {
    let lost = hydrator.and_then(|hydrator| hydrator.lost());
    lost.map_or((0, None), |lost| (lost.files, Some(format!("{}: {}", cannot_come(&lost), lost.first))))
}
