//! `icecache export DIR --to FILE.tar.zst`; or of a name, without a mount.
use super::flags::{Flags, RemoteScope};
use super::offline::{self, Choice};
use super::output::{bytes, safe, safe_path};
use super::progress::View;
use super::{Context, Exit, locate};
use crate::config::place;
use crate::serve::startup::Progress;
use crate::sync::Mutex;
use crate::{Error, ErrorKind, Result};
use serde::Serialize;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub struct Export {
    /// The mounted directory; without it the newest version of --name in --remote
    dir: Option<PathBuf>,
    /// The archive to write; must not exist
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Replace an archive that exists
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    flags: Flags<RemoteScope>,
}

impl Export {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let to = place::resolve(&self.to).map_err(|e| Error::io("cannot tell the working directory", e))?;
        match &self.dir {
            Some(dir) => {
                let (entry, mut client) = locate::daemon(dir, context)?;
                if to.starts_with(&entry.dir) {
                    let message = format!("archive would lie in what it contains: {}", to.display());
                    return Err(Error::new(ErrorKind::Invalid, message));
                }
                let reply = self.write(&to, |file| client.export(&file))?;
                report(&reply, (reply.entries, reply.bytes), &to, context)
            }
            None => {
                let remote = self.flags.remote(context)?;
                let view = Mutex::new(View::new(&context.output));
                let show = |progress: &Progress| view.lock().show(progress);
                let done = self.write(&to, |file| offline::export(&remote, &Choice::Newest, file, &show));
                drop(view);
                let (reply, notes) = done?;
                for note in &notes {
                    context.output.warn(&safe(note));
                }
                report(&reply, (reply.entries, reply.bytes), &to, context)
            }
        }
    }

    /// Under a name that says it is unfinished, until it is whole.
    fn write<T>(&self, to: &Path, write: impl FnOnce(File) -> Result<T>) -> Result<T> {
        if !self.force && fs::symlink_metadata(to).is_ok() {
            let message = format!("archive exists, see --force: {}", to.display());
            return Err(Error::new(ErrorKind::Busy, message));
        }
        let partial = partial(to)?;
        let failed = |e| Error::io(format!("cannot write archive: {}", to.display()), e);
        let file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial).map_err(failed)?;
        let written = file.try_clone().map_err(failed).and_then(write).and_then(|reply| {
            file.sync_all().and_then(|()| fs::rename(&partial, to)).map_err(failed)?;
            Ok(reply)
        });
        written.inspect_err(|_| {
            let _ = fs::remove_file(&partial);
        })
    }
}

fn report(reply: &impl Serialize, (entries, size): (u64, u64), to: &Path, context: &Context) -> Result<Exit> {
    if context.output.json {
        context.output.value(reply)?;
    }
    context.output.say(&format!("exported {entries} entries, {} to {}", bytes(size), safe_path(to)));
    Ok(Exit::Done)
}

fn partial(to: &Path) -> Result<PathBuf> {
    let name = to
        .file_name()
        .ok_or_else(|| Error::new(ErrorKind::Invalid, format!("archive must be a file: {}", to.display())))?;
    let mut partial = name.to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    Ok(to.with_file_name(partial))
}
