//! [`Arrival`]: the content of an entry that is compared with a local file while it comes.
//!
//! It is written only from where the two differ: a file that stands there already needs no room for a second one. What was
//! the same until then is copied from the local file, which may share it.
use crate::layer::LayerError;
use crate::layer::content::Content;
use crate::layer::extract::{NewFile, Placer};
use rustix::fs::Stat;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;

/// Bytes compared, or copied, at once.
const COMPARED: usize = 256 << 10;

/// What came of it.
#[derive(Debug)]
pub(super) enum Arrived {
    /// The local file has the same content.
    Same,
    /// It has another one; this has the entry's, and no name yet.
    Other(NewFile),
    /// It has another one, and nobody wanted the entry's.
    Differs,
}

/// See the module. Parts of the content come in any order, each once.
pub(super) struct Arrival<'a> {
    placer: &'a Placer,
    parent: BorrowedFd<'a>,
    size: u64,
    /// The local file as long as it is the same, and what it was like when that began.
    local: Option<(&'a File, Stat)>,
    /// What was compared.
    same: Vec<Range<u64>>,
    /// Nothing is written.
    only_compares: bool,
    new: Option<NewFile>,
    buffer: Vec<u8>,
}

impl<'a> Arrival<'a> {
    /// Of a content of `size` bytes, for a name in `parent`. Without a local file that could be the same all is written.
    pub(super) fn new(
        (placer, parent): (&'a Placer, BorrowedFd<'a>),
        local: Option<&'a File>,
        size: u64,
    ) -> Self {
        let local = local.and_then(|file| Some((file, rustix::fs::fstat(file).ok()?)));
        let local = local.filter(|(_, there)| there.st_size as u64 == size);
        let (same, buffer) = (Vec::new(), Vec::new());
        Self { placer, parent, size, local, same, only_compares: false, new: None, buffer }
    }

    /// The same, only to know whether the local file has that content.
    pub(super) fn to_compare(
        place: (&'a Placer, BorrowedFd<'a>),
        local: Option<&'a File>,
        size: u64,
    ) -> Self {
        let mut arrival = Self::new(place, local, size);
        arrival.only_compares = true;
        arrival
    }

    /// Takes a part.
    pub(super) fn take(&mut self, at: u64, bytes: &[u8]) -> Result<(), LayerError> {
        if self.has(at, bytes) {
            let end = at + bytes.len() as u64;
            match self.same.last_mut() {
                Some(last) if last.end == at => last.end = end,
                _ => self.same.push(at..end),
            }
            return Ok(());
        }
        if self.only_compares {
            self.local = None;
            return Ok(());
        }
        self.differs()?.write_all_at(bytes, at).map_err(|e| LayerError::io("cannot write file", e))
    }

    /// All parts have come: what none of them has is a hole.
    pub(super) fn end(mut self) -> Result<Arrived, LayerError> {
        let (mut at, mut only_holes) = (0, true);
        if let Some((local, _)) = self.local {
            self.same.sort_unstable_by_key(|part| part.start);
            for part in self.same.iter().chain([&(self.size..self.size)]) {
                // What cannot be read is not known to be the same.
                only_holes = only_holes && is_zero(local, at..part.start, &mut self.buffer).unwrap_or(false);
                at = part.end;
            }
            if only_holes {
                return Ok(Arrived::Same);
            }
        }
        if self.only_compares {
            return Ok(Arrived::Differs);
        }
        let size = self.size;
        self.differs()?.set_len(size).map_err(|e| LayerError::io("cannot set a file's length", e))?;
        // There is one now.
        self.new.take().map(Arrived::Other).ok_or_else(|| LayerError::io("no file", io::ErrorKind::NotFound))
    }

    /// Whether the local file has a part, and all that came before.
    fn has(&mut self, at: u64, bytes: &[u8]) -> bool {
        let Some((local, _)) = self.local else { return false };
        self.buffer.resize(bytes.len().max(self.buffer.len()), 0);
        let found = &mut self.buffer[..bytes.len()];
        matches!(read_full(local, found, at), Ok(length) if length == bytes.len()) && *found == *bytes
    }

    /// The new file. The first time with all that was the same until now.
    fn differs(&mut self) -> Result<&File, LayerError> {
        let new = match self.new.take() {
            Some(new) => new,
            None => self.placer.begin(self.parent).map_err(|e| LayerError::io("cannot make a file", e))?,
        };
        let new = self.new.insert(new);
        if let Some((local, before)) = self.local.take() {
            for part in self.same.drain(..) {
                copy(local, &new.file, part)
                    .map_err(|e| LayerError::io("cannot copy a part of a file", e))?;
            }
            require_as_before(local, &before)?;
        }
        Ok(&new.file)
    }
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        if let Some(new) = &self.new {
            self.placer.end(new, self.parent);
        }
    }
}

/// A new file in `parent` with the content of a local one, to get other attributes.
pub(super) fn copy_of(placer: &Placer, parent: BorrowedFd<'_>, local: &File) -> Result<NewFile, LayerError> {
    let failed = |e: io::Error| LayerError::io("cannot copy a file", e);
    let before = rustix::fs::fstat(local).map_err(|e| failed(e.into()))?;
    let new = placer.begin(parent).map_err(|e| failed(e.into()))?;
    let size = before.st_size as u64;
    let copied = copy(local, &new.file, 0..size).and_then(|()| new.file.set_len(size)).map_err(failed);
    match copied.and_then(|()| require_as_before(local, &before)) {
        Ok(()) => Ok(new),
        Err(e) => {
            placer.end(&new, parent);
            Err(e)
        }
    }
}

/// Fails if somebody has written a file since: then what was copied of it is not what was compared.
fn require_as_before(local: &File, before: &Stat) -> Result<(), LayerError> {
    let failed = |e: io::Error| LayerError::io("cannot compare a file", e);
    let now = rustix::fs::fstat(local).map_err(|e| failed(e.into()))?;
    let times = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec);
    if (now.st_size, times(&now)) != (before.st_size, times(before)) {
        return Err(failed(io::Error::new(io::ErrorKind::ResourceBusy, "somebody writes it")));
    }
    Ok(())
}

/// Copies a part of a file to the same place in another one; holes stay holes.
fn copy(from: &File, to: &File, part: Range<u64>) -> io::Result<()> {
    let mut at = part.start;
    while let Some(data) = from.data_after(at)?.filter(|data| data.start < part.end) {
        let (mut start, end) = (data.start.max(at), data.end.min(part.end));
        while start < end {
            start += copy_some(from, to, start, end - start)?;
        }
        at = end;
        if at >= part.end {
            break;
        }
    }
    Ok(())
}

fn copy_some(from: &File, to: &File, at: u64, length: u64) -> io::Result<u64> {
    let (mut source, mut target) = (at, at);
    let asked = usize::try_from(length).unwrap_or(usize::MAX);
    match rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), asked) {
        Ok(copied) if copied > 0 => return Ok(copied as u64),
        Err(e @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => return Err(e.into()),
        // Not every kernel and file system can; the end of the file is seen below.
        _ => {}
    }
    let mut buffer = vec![0; COMPARED.min(asked)];
    let read = read_full(from, &mut buffer, at)?;
    if read == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    to.write_all_at(&buffer[..read], at)?;
    Ok(read as u64)
}

/// Whether a part of a file is nothing but zeros; holes are not read.
fn is_zero(file: &File, part: Range<u64>, buffer: &mut Vec<u8>) -> io::Result<bool> {
    let mut at = part.start;
    while at < part.end {
        let Some(data) = file.data_after(at)?.filter(|data| data.start < part.end) else { break };
        at = data.start.max(at);
        let wanted = (data.end.min(part.end) - at).min(COMPARED as u64) as usize;
        buffer.resize(wanted.max(buffer.len()), 0);
        let read = read_full(file, &mut buffer[..wanted], at)?;
        if read == 0 || buffer[..read].iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += read as u64;
    }
    Ok(true)
}

/// Compares two files, passing over what is a hole in both.
pub(super) fn is_same_content(one: &File, other: &File) -> io::Result<bool> {
    let size = one.metadata()?.len();
    if other.metadata()?.len() != size {
        return Ok(false);
    }
    let (mut ours, mut theirs) = (vec![0; COMPARED], vec![0; COMPARED]);
    let mut at = 0;
    while at < size {
        let next = [one.data_after(at)?, other.data_after(at)?];
        let Some(start) = next.iter().flatten().map(|range| range.start).min() else { break };
        at = start.max(at);
        let length = read_full(one, &mut ours, at)?;
        if length != read_full(other, &mut theirs, at)? || ours[..length] != theirs[..length] {
            return Ok(false);
        }
        if length == 0 {
            break;
        }
        at += length as u64;
    }
    Ok(true)
}

/// Reads until the buffer is full or the file at its end.
pub(super) fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match Content::read_at(file, &mut buffer[done..], offset + done as u64)? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    const MIB: usize = 1 << 20;

    /// What arrives: a megabyte of ones, as much of nothing, and of twos; the last first.
    fn arrive(local: Option<&File>, dir: &File) -> Result<Arrived, LayerError> {
        let placer = Placer::default();
        let mut arrival = Arrival::new((&placer, dir.as_fd()), local, 3 * MIB as u64);
        arrival.take(2 * MIB as u64, &vec![2; MIB])?;
        for half in 0..2 {
            arrival.take((half * MIB / 2) as u64, &vec![1; MIB / 2])?;
        }
        arrival.end()
    }

    #[test]
    fn only_what_differs_is_written_and_holes_stay_holes() {
        let dir = tempfile::tempdir().expect("dir");
        let place = File::open(dir.path()).expect("opens");
        let path = dir.path().join("local");
        let whole = [vec![1; MIB], vec![0; MIB], vec![2; MIB]].concat();
        let local = |edit: &dyn Fn(&File)| {
            let _none_yet = std::fs::remove_file(&path);
            let file = File::options().create_new(true).read(true).write(true).open(&path);
            let file = file.expect("makes");
            file.set_len(3 * MIB as u64).expect("long enough");
            file.write_all_at(&whole[..MIB], 0).expect("writes");
            file.write_all_at(&whole[2 * MIB..], 2 * MIB as u64).expect("writes");
            edit(&file);
            file
        };
        let same = local(&|_| ());
        std::fs::write(dir.path().join("one"), [1]).expect("writes");
        let same_size = File::open(dir.path().join("one")).expect("opens");
        assert!(matches!(arrive(Some(&same), &place), Ok(Arrived::Same)));
        let zeros = local(&|file| file.write_all_at(&vec![0; MIB], MIB as u64).expect("writes"));
        assert!(matches!(arrive(Some(&zeros), &place), Ok(Arrived::Same)), "as good as a hole");
        let other: [&dyn Fn(&File); 5] = [
            &|file| file.write_all_at(b"x", 0).expect("writes"),
            &|file| file.write_all_at(b"x", MIB as u64 - 1).expect("writes"),
            &|file| file.write_all_at(b"x", 2 * MIB as u64 - 1).expect("writes"),
            &|file| file.write_all_at(b"x", 3 * MIB as u64 - 1).expect("writes"),
            &|file| file.set_len(MIB as u64).expect("shorter"),
        ];
        for (n, edit) in other.into_iter().enumerate() {
            let local = local(edit);
            let Ok(Arrived::Other(new)) = arrive(Some(&local), &place) else { panic!("case {n}") };
            let mut found = vec![9; 4 * MIB];
            assert_eq!(read_full(&new.file, &mut found, 0).expect("reads"), 3 * MIB, "case {n}");
            assert!(found[..3 * MIB] == whole, "case {n}");
            let blocks = new.file.metadata().expect("there").blocks();
            assert!(blocks * 512 < 3 * MIB as u64, "case {n}: {blocks} blocks, and a third is a hole");
        }
        let Ok(Arrived::Other(_)) = arrive(None, &place) else { panic!("nothing is there") };
        let placer = Placer::default();
        for (byte, same) in [(1, true), (2, false)] {
            let mut arrival = Arrival::to_compare((&placer, place.as_fd()), Some(&same_size), 1);
            arrival.take(0, &[byte]).expect("takes");
            assert_eq!(matches!(arrival.end(), Ok(Arrived::Same)), same);
        }
        let copied = copy_of(&Placer::default(), place.as_fd(), &same).expect("copies");
        assert!(is_same_content(&copied.file, &same).expect("compares"));
    }

    #[test]
    fn what_is_written_meanwhile_is_not_taken_for_what_was_compared() {
        let dir = tempfile::tempdir().expect("dir");
        let place = File::open(dir.path()).expect("opens");
        let path = dir.path().join("local");
        std::fs::write(&path, vec![1; MIB]).expect("writes");
        let local = File::options().read(true).write(true).open(&path).expect("opens");
        let placer = Placer::default();
        let mut arrival = Arrival::new((&placer, place.as_fd()), Some(&local), MIB as u64);
        arrival.take(0, &vec![1; MIB / 2]).expect("the same");
        let long_ago = std::time::SystemTime::UNIX_EPOCH;
        local.write_all_at(b"x", 0).expect("writes");
        local.set_modified(long_ago).expect("sets its time"); // the clock of files may stand still
        assert!(arrival.take(MIB as u64 / 2, &vec![2; MIB / 2]).is_err());
    }
}
