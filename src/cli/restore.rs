//! `icecache restore --remote URL --name NAME --to PATH [VERSION | --at TIME]`.
use super::flags::{Flags, RemoteScope};
use super::offline::Choice;
use super::output::{bytes, safe, safe_path};
use super::progress::View;
use super::version::Version;
use super::{Context, Exit, offline};
use crate::sync::Mutex;
use crate::{Error, ErrorKind, Result};
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub struct Restore {
    #[command(flatten)]
    version: Version,
    /// The newest version that is not after this time: RFC 3339, or how long ago (30m, 2h, 7d)
    #[arg(long, value_name = "TIME", conflicts_with_all = Version::ARGUMENTS)]
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
            None => Choice::of(self.version.typed()),
        };
        let made = Made::target(&self.to)?;
        let target = target(&self.to, self.force)?;
        let view = Mutex::new(View::new(&context.output));
        let done = offline::restore(&remote, &choice, &target, &|progress| view.lock().show(progress));
        drop(view);
        let (restored, notes) = done.map_err(|e| made.leave(e))?;
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

fn failed(to: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    |e| Error::io(format!("cannot use target directory: {}", to.display()), e)
}

/// The target directory, and what was made for it.
#[derive(Debug)]
struct Made {
    to: PathBuf,
    /// The directories on the way to it, deepest first.
    missing: Vec<PathBuf>,
    /// Nothing was in it.
    empty: bool,
}

impl Made {
    fn target(to: &Path) -> Result<Self> {
        let missing = to.ancestors().filter(|dir| !dir.as_os_str().is_empty() && !dir.exists());
        let missing = missing.map(Path::to_owned).collect();
        fs::create_dir_all(to).map_err(failed(to))?;
        Ok(Self { to: to.to_owned(), missing, empty: is_empty(to).map_err(failed(to))? })
    }

    /// After a failure: what has nothing in it goes again, what has is told.
    fn leave(&self, error: Error) -> Error {
        if is_empty(&self.to).unwrap_or(false) {
            // From below, up to the first that somebody else uses by now.
            let _others = self.missing.iter().try_for_each(fs::remove_dir);
            return error;
        }
        // Nothing is written before the version is found.
        if !self.empty && matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Invalid) {
            return error;
        }
        error.context(format!("what was written is incomplete, remove it: {}", self.to.display()))
    }
}

fn is_empty(dir: &Path) -> std::io::Result<bool> {
    Ok(fs::read_dir(dir)?.next().is_none())
}

/// Opens the target directory; refuses one that has content.
fn target(to: &Path, force: bool) -> Result<fs::File> {
    let failed = failed(to);
    if !force && !is_empty(to).map_err(&failed)? {
        let message =
            format!("target directory is not empty, --force writes into it anyway: {}", to.display());
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    fs::File::open(to).map_err(&failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_with_content_is_refused_unless_forced() {
        let temp = tempfile::tempdir().expect("temp");
        let new = temp.path().join("new/dir");
        let made = Made::target(&new).expect("made");
        assert!(target(&new, false).is_ok() && target(&new, false).is_ok());
        assert_eq!(target(temp.path(), false).expect_err("has content").kind(), ErrorKind::Invalid);
        assert!(target(temp.path(), true).is_ok());
        let lost = || Error::new(ErrorKind::Corrupt, "lost");
        fs::write(new.join("f"), "half").expect("write");
        assert!(made.leave(lost()).message().contains("incomplete"));
        fs::remove_file(new.join("f")).expect("remove");
        assert_eq!(made.leave(lost()).message(), "lost");
        assert!(!temp.path().join("new").exists(), "what was made for nothing stayed");
        // What is not ours stays, and may be as it was.
        let there = Made::target(temp.path()).expect("there");
        assert_eq!(there.leave(lost()).message(), "lost");
        assert!(temp.path().exists());
    }
}
