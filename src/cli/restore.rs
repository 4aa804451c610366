//! `icecache restore --remote URL --name NAME --to PATH [VERSION | --at TIME]`.
use super::flags::{Flags, RemoteScope};
use super::offline::Choice;
use super::output::{bytes, safe, safe_path};
use super::progress::View;
use super::{Context, Exit, offline};
use crate::sync::Mutex;
use crate::{Error, ErrorKind, Result};
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub struct Restore {
    /// The version or tag, as 'icecache log' prints it; without it the newest
    version: Option<String>,
    /// The newest version that is not after this time: RFC 3339, or how long ago (2h, 30m)
    #[arg(long, value_name = "TIME", conflicts_with = "version")]
    at: Option<String>,
    /// The directory to write into; created if it does not exist
    #[arg(long, value_name = "PATH")]
    to: PathBuf,
    /// Write into a directory that has content; files of the same path are replaced
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    flags: Flags<RemoteScope>,
}

impl Restore {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let remote = self.flags.remote(context)?;
        let choice = match &self.at {
            Some(time) => Choice::at(time, jiff::Timestamp::now())?,
            None => Choice::of(self.version),
        };
        let target = target(&self.to, self.force)?;
        let view = Mutex::new(View::new(&context.output));
        let done = offline::restore(&remote, &choice, &target, &|progress| view.lock().show(progress));
        drop(view);
        let (restored, notes) = done?;
        for note in &notes {
            context.output.warn(&safe(note));
        }
        if context.output.json {
            context.output.value(&restored)?;
        } else {
            context.output.line(&safe(&restored.version));
        }
        let what = format!("{} entries, {}", restored.entries, bytes(restored.bytes));
        context.output.say(&format!("restored {what} into {}", safe_path(&self.to)));
        Ok(Exit::Done)
    }
}

/// Opens the target directory; refuses one that has content.
fn target(to: &Path, force: bool) -> Result<fs::File> {
    let failed = |e| Error::io(format!("cannot use target directory: {}", to.display()), e);
    fs::create_dir_all(to).map_err(failed)?;
    if !force && fs::read_dir(to).map_err(failed)?.next().is_some() {
        let message =
            format!("target directory is not empty, --force writes into it anyway: {}", to.display());
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    fs::File::open(to).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_with_content_is_refused_unless_forced() {
        let temp = tempfile::tempdir().expect("temp");
        assert!(target(&temp.path().join("new/dir"), false).is_ok());
        assert!(target(&temp.path().join("new/dir"), false).is_ok());
        assert_eq!(target(temp.path(), false).expect_err("has content").kind(), ErrorKind::Invalid);
        assert!(target(temp.path(), true).is_ok());
    }
}
