//! [`Content`]: the bytes of a file as of the cut, wherever they are kept.
use rustix::fs::SeekFrom;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Positioned reads of a file that does not change while it is read.
pub trait Content: Send + Sync {
    /// Reads at `offset`; 0 means the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// The next range at or after `offset` that is not a hole, or `None` if only holes follow.
    fn data_after(&self, offset: u64) -> io::Result<Option<Range<u64>>>;
}

impl Content for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn data_after(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let start = match rustix::fs::seek(self, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        Ok(Some(start..rustix::fs::seek(self, SeekFrom::Hole(start))?))
    }
}
