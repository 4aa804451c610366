//! `icecache export DIR --to FILE.tar.zst`.
use super::output::{bytes, safe_path};
use super::{Context, Exit, locate};
use crate::config::place;
use crate::{Error, ErrorKind, Result};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub struct Export {
    /// The mounted directory
    dir: PathBuf,
    /// The archive to write; must not exist
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Replace an archive that exists
    #[arg(long)]
    force: bool,
}

impl Export {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let (entry, mut client) = locate::daemon(&self.dir, context)?;
        let to = place::resolve(&self.to).map_err(|e| Error::io("cannot tell the working directory", e))?;
        if to.starts_with(&entry.dir) {
            let message = format!("archive would lie in what it contains: {}", to.display());
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        if !self.force && fs::symlink_metadata(&to).is_ok() {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("archive exists, see --force: {}", to.display()),
            ));
        }
        // A name that says it is unfinished, until it is whole.
        let partial = partial(&to)?;
        let failed = |e| Error::io(format!("cannot write archive: {}", to.display()), e);
        let file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial).map_err(failed)?;
        let exported = client.export(&file).and_then(|reply| {
            file.sync_all().and_then(|()| fs::rename(&partial, &to)).map_err(failed)?;
            Ok(reply)
        });
        let reply = exported.inspect_err(|_| {
            let _ = fs::remove_file(&partial);
        })?;
        if context.output.json {
            context.output.value(&reply)?;
        }
        let what = format!("{} entries, {}", reply.entries, bytes(reply.bytes));
        context.output.say(&format!("exported {what} to {}", safe_path(&to)));
        Ok(Exit::Done)
    }
}

fn partial(to: &Path) -> Result<PathBuf> {
    let name = to
        .file_name()
        .ok_or_else(|| Error::new(ErrorKind::Invalid, format!("archive must be a file: {}", to.display())))?;
    let mut partial = name.to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    Ok(to.with_file_name(partial))
}
