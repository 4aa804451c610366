//! [`Placer`]: makes one file, link or node in an open directory, whole and with its attributes.
use super::attributes::{Attributes, Note};
use crate::layer::entry::{Kind, Metadata};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How the names begin that things have before they take another one's place; the number of the process follows.
const TEMPORARY: &str = ".icecache-";
/// How many of them this process has given, whoever places.
static TEMPORARY_NAMES: AtomicU64 = AtomicU64::new(0);

/// Whether this is such a name, and of no other process that lives: it was killed. Of this one's number one is as well, if
/// this one has made none yet: the first process of a container has the number of the one before.
pub(crate) fn is_left_over(name: &[u8]) -> bool {
    let Ok(name) = std::str::from_utf8(name) else { return false };
    let parts = name.strip_prefix(TEMPORARY).and_then(|rest| rest.strip_suffix('~')?.split_once('-'));
    let Some((process, count)) = parts else { return false };
    let number = |text: &str| i32::from_str_radix(text, 16).ok().filter(|n| *n >= 0);
    let Some((process, _)) = number(process).zip(number(count)) else { return false };
    let Some(process) = rustix::process::Pid::from_raw(process) else { return false };
    process == rustix::process::getpid() || rustix::process::test_kill_process(process) == Err(Errno::SRCH)
}

fn temporary_name() -> Vec<u8> {
    let n = TEMPORARY_NAMES.fetch_add(1, Ordering::Relaxed);
    format!("{TEMPORARY}{:x}-{n:x}~", std::process::id()).into_bytes()
}

/// Makes entries; shared by all writing threads.
#[derive(Debug, Default)]
pub(crate) struct Placer {
    attributes: Attributes,
    careful: AtomicBool,
}

/// A new file: under its own name, or (something stands there) a temporary one.
#[derive(Debug)]
pub(crate) struct NewFile {
    pub(crate) file: File,
    temporary: Option<Vec<u8>>,
}

impl NewFile {
    /// One that [`Placer::begin`] made without a name.
    pub(crate) fn nameless(file: File) -> Self {
        Self { file, temporary: None }
    }

    /// The file, if it has no name, not even for the time being.
    pub(crate) fn into_nameless(self) -> Option<File> {
        self.temporary.is_none().then_some(self.file)
    }
}

impl Placer {
    /// From now on no file has its name before it is whole, small ones included: whoever is killed leaves none that looks
    /// as if somebody had changed it.
    pub(crate) fn be_careful(&self) {
        self.careful.store(true, Ordering::Relaxed);
    }

    /// What could not be kept so far.
    pub(crate) fn notes(&self) -> Vec<Note> {
        self.attributes.notes()
    }

    /// Gives an open file or directory its attributes.
    pub(crate) fn apply(&self, fd: impl AsFd, meta: &Metadata) -> Result<(), Errno> {
        self.attributes.apply(fd, meta)
    }

    /// The same, but for one that shall rather not come than without attributes that do not fit: `E2BIG`.
    pub(crate) fn apply_all(&self, fd: impl AsFd, meta: &Metadata) -> Result<(), Errno> {
        self.attributes.apply_all(fd, meta)
    }

    /// Makes a regular file: `fill` writes its content, then it gets its attributes. A `large` one, which takes a while,
    /// gets its name last.
    pub(crate) fn file<E: From<Errno>>(
        &self,
        (parent, name): (BorrowedFd<'_>, &[u8]),
        meta: &Metadata,
        large: bool,
        fill: impl FnOnce(&File) -> Result<(), E>,
    ) -> Result<rustix::fs::Stat, E> {
        if large || self.careful.load(Ordering::Relaxed) {
            let new = self.begin(parent)?;
            return match fill(&new.file) {
                Ok(()) => Ok(self.finish(&new, parent, name, meta)?),
                Err(e) => {
                    self.end(&new, parent);
                    Err(e)
                }
            };
        }
        let new = self.create(parent, name)?;
        let result = fill(&new.file).and_then(|()| {
            self.apply(&new.file, meta)?;
            if let Some(temporary) = &new.temporary {
                self.publish(parent, temporary, name)?;
            }
            Ok(rustix::fs::fstat(&new.file)?)
        });
        if result.is_err() {
            let made = new.temporary.as_deref().unwrap_or(name);
            let _ = rustix::fs::unlinkat(parent, made, AtFlags::empty());
        }
        result
    }

    fn create(&self, parent: BorrowedFd<'_>, name: &[u8]) -> Result<NewFile, Errno> {
        let open = |name: &[u8]| {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600)).map(File::from)
        };
        match open(name) {
            Ok(file) => Ok(NewFile { file, temporary: None }),
            Err(Errno::EXIST) => loop {
                let temporary = temporary_name();
                match open(&temporary) {
                    Err(Errno::EXIST) => {}
                    other => return Ok(NewFile { file: other?, temporary: Some(temporary) }),
                }
            },
            Err(e) => Err(e),
        }
    }

    /// Puts a finished thing in its place, whatever stands there.
    fn publish(&self, parent: BorrowedFd<'_>, temporary: &[u8], name: &[u8]) -> Result<(), Errno> {
        match rustix::fs::renameat(parent, temporary, parent, name) {
            Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => {
                remove_all(parent, name)?;
                rustix::fs::renameat(parent, temporary, parent, name)
            }
            other => other,
        }
    }

    /// Makes something without content: `make` gets the name to use.
    fn node(
        &self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        meta: Option<&Metadata>,
        is_symlink: bool,
        make: impl Fn(&[u8]) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let mut temporary = None;
        match make(name) {
            Err(Errno::EXIST) => loop {
                let other = temporary_name();
                match make(&other) {
                    Err(Errno::EXIST) => {}
                    result => {
                        result?;
                        temporary = Some(other);
                        break;
                    }
                }
            },
            other => other?,
        }
        let made = temporary.as_deref().unwrap_or(name);
        let result = meta
            .map_or(Ok(()), |meta| self.attributes.apply_at(parent, made, meta, is_symlink))
            .and_then(|()| match &temporary {
                Some(temporary) => self.publish(parent, temporary, name),
                None => Ok(()),
            });
        if result.is_err() {
            let _ = rustix::fs::unlinkat(parent, made, AtFlags::empty());
        }
        result
    }

    /// Makes a symbolic link, named pipe or device.
    pub(crate) fn special(
        &self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        kind: &Kind,
        meta: &Metadata,
    ) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(0o600);
        let node =
            |file_type, dev| move |name: &[u8]| rustix::fs::mknodat(parent, name, file_type, mode, dev);
        match kind {
            Kind::Symlink { target } => self.node(parent, name, Some(meta), true, |name| {
                rustix::fs::symlinkat(target.as_slice(), parent, name)
            }),
            Kind::Fifo => self.node(parent, name, Some(meta), false, node(FileType::Fifo, 0)),
            Kind::CharDevice { rdev } => {
                let dev = rustix::fs::makedev(rdev.0, rdev.1);
                self.node(parent, name, Some(meta), false, node(FileType::CharacterDevice, dev))
            }
            Kind::BlockDevice { rdev } => {
                let dev = rustix::fs::makedev(rdev.0, rdev.1);
                self.node(parent, name, Some(meta), false, node(FileType::BlockDevice, dev))
            }
            Kind::File { .. } | Kind::Directory | Kind::HardLink { .. } | Kind::Whiteout => Err(Errno::INVAL),
        }
    }

    /// Makes another name of a file (of a symbolic link itself, never of its target).
    pub(crate) fn hard_link(
        &self,
        from: BorrowedFd<'_>,
        from_name: &[u8],
        parent: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<(), Errno> {
        let target = rustix::fs::statat(from, from_name, AtFlags::SYMLINK_NOFOLLOW)?;
        match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            // Renaming one name of a file over another does nothing and leaves both.
            Ok(there) if (there.st_dev, there.st_ino) == (target.st_dev, target.st_ino) => return Ok(()),
            Ok(_) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e),
        }
        self.node(parent, name, None, false, |name| {
            rustix::fs::linkat(from, from_name, parent, name, AtFlags::empty())
        })
    }

    /// Makes a directory, or takes the one that is there; anything else there is removed.
    pub(crate) fn directory(&self, parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(0o700);
        match rustix::fs::mkdirat(parent, name, mode) {
            Err(Errno::EXIST) => {
                let there = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(there.st_mode) != FileType::Directory {
                    rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
                    rustix::fs::mkdirat(parent, name, mode)?;
                } else if there.st_mode & 0o300 != 0o300 {
                    // Until its own attributes come, last, we must be able to write into it.
                    let _ = rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty());
                }
                Ok(())
            }
            other => other,
        }
    }

    /// Sets the attributes of a directory.
    pub(crate) fn finish_directory(
        &self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        meta: &Metadata,
    ) -> Result<rustix::fs::Stat, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
            Err(Errno::ACCESS) => {
                // It is a directory (a link would be LOOP or NOTDIR), but one we may not read.
                rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
                rustix::fs::openat(parent, name, flags, Mode::empty())?
            }
            other => other?,
        };
        match name {
            b"." => self.attributes.apply_to_root(&fd, meta)?,
            _ => self.apply(&fd, meta)?,
        }
        rustix::fs::fstat(&fd)
    }

    /// A new file that nobody sees until it is [`name`](Self::name)d, by a call that leaves no trace in its
    /// directory. Not everywhere possible.
    pub(crate) fn begin_nameless(&self, parent: BorrowedFd<'_>) -> Result<NewFile, Errno> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::openat(parent, c".", flags, Mode::from_raw_mode(0o600))?;
        Ok(NewFile::nameless(file.into()))
    }

    /// The same where that is not possible: under a name of its own for the time being.
    pub(crate) fn begin(&self, parent: BorrowedFd<'_>) -> Result<NewFile, Errno> {
        match self.begin_nameless(parent) {
            // The file system cannot; ISDIR and NOENT come from those that do not know the flag.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {}
            other => return other,
        }
        let mode = Mode::from_raw_mode(0o600);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            let temporary = temporary_name();
            match rustix::fs::openat(parent, temporary.as_slice(), flags, mode) {
                Err(Errno::EXIST) => {}
                other => return Ok(NewFile { file: other?.into(), temporary: Some(temporary) }),
            }
        }
    }

    /// Gives a file that was [`begin`](Self::begin)-ed in `home` a name; `EXIST` if something stands there.
    pub(crate) fn name(
        &self,
        new: &NewFile,
        home: BorrowedFd<'_>,
        parent: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<(), Errno> {
        match &new.temporary {
            Some(temporary) => rustix::fs::linkat(home, temporary.as_slice(), parent, name, AtFlags::empty()),
            None => {
                let path = format!("/proc/self/fd/{}", new.file.as_raw_fd());
                rustix::fs::linkat(rustix::fs::CWD, path, parent, name, AtFlags::SYMLINK_FOLLOW)
            }
        }
    }

    /// Gives a file that was [`begin`](Self::begin)-ed in `parent` its attributes and its name there, whatever stands
    /// in its place.
    pub(crate) fn finish(
        &self,
        new: &NewFile,
        parent: BorrowedFd<'_>,
        name: &[u8],
        meta: &Metadata,
    ) -> Result<rustix::fs::Stat, Errno> {
        let named = self.apply(&new.file, meta).and_then(|()| match self.name(new, parent, parent, name) {
            Err(Errno::EXIST) => {
                // Something has the name at every moment.
                let temporary = loop {
                    let temporary = temporary_name();
                    match self.name(new, parent, parent, &temporary) {
                        Err(Errno::EXIST) => {} // left over
                        other => break other.map(|()| temporary)?,
                    }
                };
                self.publish(parent, &temporary, name).inspect_err(|_| {
                    let _gone = rustix::fs::unlinkat(parent, temporary.as_slice(), AtFlags::empty());
                })
            }
            other => other,
        });
        self.end(new, parent);
        named.and_then(|()| rustix::fs::fstat(&new.file))
    }

    /// Whether its directory has a name of it that [`end`](Self::end) takes away.
    pub(crate) fn is_named(&self, new: &NewFile) -> bool {
        new.temporary.is_some()
    }

    /// Nothing stays of it but its names.
    pub(crate) fn end(&self, new: &NewFile, home: BorrowedFd<'_>) {
        if let Some(temporary) = &new.temporary {
            let _gone = rustix::fs::unlinkat(home, temporary.as_slice(), AtFlags::empty());
        }
    }
}

/// Removes `name` and everything below it, without following links. What is mounted there is no part of it: `EXDEV`, and
/// perhaps some of the rest is gone.
pub(crate) fn remove_all(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        other => return other,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    if rustix::fs::fstat(&dir)?.st_dev != rustix::fs::fstat(parent)?.st_dev {
        return Err(Errno::XDEV);
    }
    for child in rustix::fs::Dir::read_from(&dir)? {
        let child = child?;
        if !matches!(child.file_name().to_bytes(), b"." | b"..") {
            remove_all(dir.as_fd(), child.file_name().to_bytes())?;
        }
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

/// Moves `name` to another directory, under the first free name: itself, then `name.~1~` and so on.
pub(crate) fn move_to_free_name(
    parent: BorrowedFd<'_>,
    name: &[u8],
    to: BorrowedFd<'_>,
) -> Result<Vec<u8>, Errno> {
    let mut n = 0u32;
    loop {
        let free = numbered(name, n);
        match rustix::fs::renameat_with(parent, name, to, free.as_slice(), RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => n += 1,
            other => return other.map(|()| free),
        }
    }
}

/// `name`, or `name.~N~` shortened to what a directory takes.
pub(super) fn numbered(name: &[u8], n: u32) -> Vec<u8> {
    if n == 0 {
        return name.to_vec();
    }
    let suffix = format!(".~{n}~");
    let keep = name.len().min(crate::path::NAME_MAX_BYTES - suffix.len());
    [&name[..keep], suffix.as_bytes()].concat()
}
