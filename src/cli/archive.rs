//! [`Archive`]: where an archive is written to.
use super::output::safe_path;
use super::unfinished::Unfinished;
use crate::config::place;
use crate::{Error, ErrorKind, Result};
use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A file, which is there when it is whole; or what takes bytes as they come.
#[derive(Debug)]
pub enum Archive {
    /// A file that may be made, or replaced.
    File(PathBuf),
    /// A pipe, a device, or stdout.
    Stream {
        /// Open for writing.
        file: File,
        /// What it is called.
        shown: String,
    },
}

impl Archive {
    /// What is meant by `to`. A file that is there is replaced only by `force`, and nothing else ever is.
    pub fn at(to: &Path, force: bool) -> Result<Self> {
        if to == Path::new("-") {
            let file = io::stdout().as_fd().try_clone_to_owned();
            let file = file.map_err(|e| Error::io("cannot write to stdout", e))?;
            return Self::stream(file.into(), "stdout".to_owned());
        }
        let to = place::resolve(to).map_err(|e| Error::io("cannot tell the working directory", e))?;
        let failed = |e| Error::io(format!("cannot write archive: {}", to.display()), e);
        let is_no_file = |what: &str| {
            let message = format!("archive must be a file, a pipe or a character device, not {what}");
            Err(Error::new(ErrorKind::Invalid, format!("{message}: {}", to.display())))
        };
        // Links are resolved, but those that lead to nothing, or to what has no name.
        let is_link = fs::symlink_metadata(&to).is_ok_and(|there| there.is_symlink());
        let kind = match fs::metadata(&to) {
            Ok(there) => there.file_type(),
            Err(e) if e.kind() == io::ErrorKind::NotFound && is_link => {
                return is_no_file("a link that leads to nothing");
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::File(to)),
            Err(e) => return Err(failed(e)),
        };
        if kind.is_fifo() || kind.is_char_device() {
            let file = OpenOptions::new().write(true).open(&to).map_err(failed)?;
            return Self::stream(file, safe_path(&to));
        }
        match kind {
            _ if kind.is_dir() => is_no_file("a directory"),
            _ if kind.is_block_device() => is_no_file("a disk"),
            _ if !kind.is_file() => is_no_file("a socket"),
            _ if is_link => is_no_file("a link to a file without a name"),
            _ if !force => {
                let message = format!("archive exists, see --force: {}", to.display());
                Err(Error::new(ErrorKind::Busy, message))
            }
            _ => Ok(Self::File(to)),
        }
    }

    fn stream(file: File, shown: String) -> Result<Self> {
        if file.is_terminal() {
            let message = format!("archive must be a file or a pipe, not a terminal: {shown}");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(Self::Stream { file, shown })
    }

    /// What it is called, for people.
    pub fn shown(&self) -> String {
        match self {
            Self::File(to) => safe_path(to),
            Self::Stream { shown, .. } => shown.clone(),
        }
    }

    /// Has it written. A file has a name that says it is unfinished, until it is whole.
    pub fn write<T>(&self, unfinished: &Unfinished, write: impl FnOnce(File) -> Result<T>) -> Result<T> {
        let failed = |e| Error::io(format!("cannot write archive: {}", self.shown()), e);
        let to = match self {
            Self::Stream { file, .. } => return write(file.try_clone().map_err(failed)?),
            Self::File(to) => to,
        };
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let partial = partial(to)?;
        let file = unfinished.make(&partial, |path| options.open(path)).map_err(failed)?;
        let reply = write(file.try_clone().map_err(failed)?)?;
        file.sync_all().map_err(failed)?;
        unfinished.keep(&partial, |path| fs::rename(path, to)).map_err(failed)?;
        Ok(reply)
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

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_a_file_is_ever_replaced() {
        let temp = tempfile::tempdir().expect("temp");
        let base = fs::canonicalize(temp.path()).expect("there");
        let (file, link) = (base.join("file"), base.join("link"));
        fs::write(&file, "x").expect("writes");
        symlink(&file, &link).expect("links");
        symlink("nowhere", base.join("dangling")).expect("links");
        fs::create_dir(base.join("directory")).expect("makes");
        let _socket = UnixListener::bind(base.join("socket")).expect("binds");
        let kind = |to: &Path, force| Archive::at(to, force).map_err(|e| e.kind());
        for to in [&file, &link] {
            assert_eq!(kind(to, false).expect_err("exists"), ErrorKind::Busy);
            let archive = kind(to, true).expect("replaced");
            assert!(matches!(&archive, Archive::File(found) if *found == file), "{archive:?}");
        }
        for (name, what) in
            [("dangling", "leads to nothing"), ("directory", "a directory"), ("socket", "a socket")]
        {
            for force in [false, true] {
                let error = Archive::at(&base.join(name), force).expect_err(name);
                assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains(what), "{error}");
            }
        }
        let device = kind(Path::new("/dev/null"), false).expect("a device");
        assert!(matches!(device, Archive::Stream { .. }), "{device:?}");
        let new = kind(&base.join("new"), false).expect("a new one");
        assert!(matches!(&new, Archive::File(found) if *found == base.join("new")), "{new:?}");
    }
}
