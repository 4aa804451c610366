//! `icecache export DIR --to FILE.tar.zst`; or of a name, without a mount.
use super::archive::Archive;
use super::flags::{Flags, RemoteScope};
use super::offline::{self, Choice, spool};
use super::output::{bytes, safe};
use super::progress::View;
use super::unfinished::Unfinished;
use super::{Context, Exit, locate};
use crate::serve::control::ExportReply;
use crate::serve::startup::Progress;
use crate::sync::Mutex;
use crate::{Error, ErrorKind, Result};
use serde::Serialize;
use std::io::{self, Seek};
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub struct Export {
    /// The mounted directory; without it the newest version of --name in --remote
    #[arg(conflicts_with_all = ["remote", "name"])]
    dir: Option<PathBuf>,
    /// The archive to write: a file that is not there yet, or a pipe; - is stdout
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
        if context.output.json && self.to == Path::new("-") {
            let message = "stdout has either the archive or JSON: leave --json out, or name a file";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let unfinished = Unfinished::begin()?;
        let Some(dir) = &self.dir else { return self.of_name(&unfinished, context) };
        let (entry, mut client) = locate::daemon(dir, context)?;
        let archive = Archive::at(&self.to, self.force)?;
        let reply: ExportReply = match &archive {
            Archive::File(to) if to.starts_with(&entry.dir) => {
                let message = format!("archive would lie in what it contains: {}", to.display());
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            Archive::File(_) => archive.write(&unfinished, |file| client.export(&file))?,
            // Whoever reads it may be slow, or stop, and the daemon saves nothing before an archive is written.
            Archive::Stream { .. } => archive.write(&unfinished, |mut file| {
                let mut spool = spool()?;
                let reply = client.export(&spool)?;
                let copied = spool.rewind().and_then(|()| io::copy(&mut spool, &mut file));
                copied.map_err(|e| Error::io(format!("cannot write archive: {}", archive.shown()), e))?;
                Ok(reply)
            })?,
        };
        report(&reply, (reply.entries, reply.bytes), &archive, context)
    }

    /// The newest version that is in a remote.
    fn of_name(&self, unfinished: &Unfinished, context: &Context) -> Result<Exit> {
        let remote = self.flags.remote(context)?;
        let archive = Archive::at(&self.to, self.force)?;
        let view = Mutex::new(View::new(&context.output));
        let show = |progress: &Progress| view.lock().show(progress);
        let done = archive
            .write(unfinished, |file| offline::export(&remote, &Choice::Newest, file, unfinished, &show));
        drop(view);
        let (reply, notes) = done?;
        for note in &notes {
            context.output.warn(&safe(note));
        }
        report(&reply, (reply.entries, reply.bytes), &archive, context)
    }
}

fn report(
    reply: &impl Serialize,
    (entries, size): (u64, u64),
    archive: &Archive,
    context: &Context,
) -> Result<Exit> {
    if context.output.json {
        context.output.value(reply)?;
    }
    context.output.say(&format!("exported {entries} entries, {} to {}", bytes(size), archive.shown()));
    Ok(Exit::Done)
}
