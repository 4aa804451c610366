//! Temporary files that nobody has to take away.
use crate::{Error, Result};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use uuid::Uuid;

/// A file without a name, to write to and to read.
pub fn spool() -> Result<File> {
    let path = std::env::temp_dir().join(format!("icecache-spool-{}", Uuid::new_v4()));
    let failed = |e| Error::io(format!("cannot create temporary file: {}", path.display()), e);
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
    fs::remove_file(&path).map_err(failed)?;
    Ok(file)
}
