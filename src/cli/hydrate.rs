//! `icecache hydrate DIR [PATH…]`.
use super::progress::View;
use super::{Context, Exit, locate};
use crate::serve::startup::Progress;
use crate::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// How often the daemon is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, clap::Args)]
pub struct Hydrate {
    /// The mounted directory
    dir: PathBuf,
    /// What to bring, with all below it: in the directory or relative to it; without any: everything
    paths: Vec<PathBuf>,
}

impl Hydrate {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let (place, mut client) = locate::daemon(&self.dir, context)?;
        let mut watcher = locate::daemon(&self.dir, context)?.1;
        let paths = self.paths.iter().map(|path| within(&place.dir, path)).collect::<Result<_>>()?;
        let total = watcher.status()?.absent_bytes;
        let (done, ended) = channel::<()>();
        let bringing = std::thread::spawn(move || {
            let reply = client.hydrate(paths);
            drop(done);
            reply
        });
        {
            let mut view = View::new(&context.output);
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(LOOK_EVERY) {
                let status: crate::serve::control::Status = watcher.status()?;
                view.show(&Progress {
                    phase: "bringing".into(),
                    bytes: total.saturating_sub(status.absent_bytes),
                    bytes_total: total,
                    ..Progress::default()
                });
            }
        }
        let reply =
            bringing.join().map_err(|_| Error::new(ErrorKind::Io, "waiting for the daemon failed"))??;
        if context.output.json {
            context.output.value(&reply)?;
        }
        context
            .output
            .say(&format!("brought {} files; {} are only in the remote", reply.files, reply.absent_files));
        Ok(Exit::Done)
    }
}

/// A path as the daemon names it.
fn within(dir: &Path, path: &Path) -> Result<PathBuf> {
    let outside = || Error::new(ErrorKind::Invalid, format!("not in the directory: {}", path.display()));
    let full = if path.is_absolute() { path.to_owned() } else { dir.join(path) };
    // The name itself may be a link that is to be brought, and not what it leads to.
    let (parent, name) = (full.parent().ok_or_else(outside)?, full.file_name());
    let parent =
        parent.canonicalize().map_err(|e| Error::io(format!("cannot find {}", full.display()), e))?;
    let full = name.map_or_else(|| parent.clone(), |name| parent.join(name));
    full.symlink_metadata().map_err(|e| Error::io(format!("cannot find {}", full.display()), e))?;
    full.strip_prefix(dir).map(Path::to_owned).map_err(|_| outside())
}
