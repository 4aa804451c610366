//! `icecache import FILE.tar.zst --remote URL --name NAME`, and from the archive of layout single.
use super::flags::{Flags, RemoteScope};
use super::output::{bytes, safe};
use super::progress::View;
use super::{Context, Exit, offline};
use crate::sync::Mutex;
use crate::{Error, ErrorKind, Result};
use std::fs::File;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Import {
    /// The archive, a tar compressed with zstd
    #[arg(required_unless_present = "from_single")]
    file: Option<PathBuf>,
    /// Take the archive that layout single, or the original tool, keeps under this name (<prefix>/<name>.zst); it stays
    #[arg(long, conflicts_with = "file")]
    from_single: bool,
    #[command(flatten)]
    flags: Flags<RemoteScope>,
}

impl Import {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let remote = self.flags.remote(context)?;
        let archive = match &self.file {
            Some(file) => {
                let failed = |e| Error::io(format!("cannot open archive: {}", file.display()), e);
                let archive = File::open(file).map_err(failed)?;
                if archive.metadata().map_err(failed)?.is_dir() {
                    let message = format!("not an archive but a directory: {}", file.display());
                    return Err(Error::new(ErrorKind::Invalid, message));
                }
                archive
            }
            None => offline::single_archive(&remote)?,
        };
        let view = Mutex::new(View::new(&context.output));
        let imported = offline::import(&remote, archive, &|progress| view.lock().show(progress))?;
        drop(view);
        if context.output.json {
            context.output.value(&imported)?;
        } else {
            context.output.line(&safe(&imported.version));
        }
        let what = format!("{} entries, {}", imported.entries, bytes(imported.bytes));
        context.output.say(&format!("{what} are now the newest version of {}", remote.name));
        Ok(Exit::Done)
    }
}
