//! Copies a tree between two directories: for moves between file systems.
use super::attributes::metadata;
use super::place::{Placer, numbered};
use crate::layer::entry::Kind;
use crate::layer::tar::SparseMap;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

/// Copies `name` and everything below it to the first free name in `to`; returns that name.
pub(crate) fn copy_to_free_name(
    placer: &Placer,
    parent: BorrowedFd<'_>,
    name: &[u8],
    to: BorrowedFd<'_>,
) -> io::Result<Vec<u8>> {
    for n in 0.. {
        let free = numbered(name, n);
        match rustix::fs::statat(to, free.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {
                copy(placer, parent, name, to, &free)?;
                return Ok(free);
            }
            other => other?,
        };
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn copy(
    placer: &Placer,
    parent: BorrowedFd<'_>,
    name: &[u8],
    to: BorrowedFd<'_>,
    to_name: &[u8],
) -> io::Result<()> {
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let meta = metadata(parent, name, &stat)?;
    let rdev = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let from = File::from(rustix::fs::openat(parent, name, flags, Mode::empty())?);
            placer.file((to, to_name), &meta, false, |file| {
                copy_data(&from, file, stat.st_size as u64)
                    .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
            })?;
            return Ok(());
        }
        FileType::Directory => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let from = rustix::fs::openat(parent, name, flags, Mode::empty())?;
            placer.directory(to, to_name)?;
            let into = rustix::fs::openat(to, to_name, flags, Mode::empty())?;
            for child in rustix::fs::Dir::read_from(&from)? {
                let child = child?;
                let child = child.file_name().to_bytes();
                if !matches!(child, b"." | b"..") {
                    copy(placer, from.as_fd(), child, into.as_fd(), child)?;
                }
            }
            placer.finish_directory(to, to_name, &meta)?;
            return Ok(());
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(parent, name, Vec::new())?.into_bytes();
            Kind::Symlink { target }
        }
        FileType::Fifo => Kind::Fifo,
        FileType::CharacterDevice => Kind::CharDevice { rdev },
        FileType::BlockDevice => Kind::BlockDevice { rdev },
        // A socket is an address of a process that listens on the other one.
        FileType::Socket | FileType::Unknown => return Ok(()),
    };
    Ok(placer.special(to, to_name, &kind, &meta)?)
}

fn copy_data(from: &File, to: &File, size: u64) -> io::Result<()> {
    let mut buf = vec![0; 256 << 10];
    for extent in SparseMap::of(from, size)?.extents {
        let (mut at, end) = (extent.offset, extent.offset + extent.len);
        while at < end {
            let want = buf.len().min((end - at) as usize);
            let n = from.read_at(&mut buf[..want], at)?;
            if n == 0 {
                break;
            }
            to.write_all_at(&buf[..n], at)?;
            at += n as u64;
        }
    }
    to.set_len(size)
}
