//! [`Content`]: the bytes of a file as of the cut, wherever they are kept.
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Positioned reads of a file that does not change while it is read.
pub trait Content: Send + Sync {
    /// Its length now, in bytes.
    fn length(&self) -> io::Result<u64>;
    /// Reads at `offset`; 0 means the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// The next range at or after `offset` that is not a hole, or `None` if only holes follow. Its end
    /// may lie beyond the end of the file. Moves the offset of a file.
    fn data_after(&self, offset: u64) -> io::Result<Option<Range<u64>>>;
}

impl<T: Content + ?Sized> Content for std::sync::Arc<T> {
    fn length(&self) -> io::Result<u64> {
        (**self).length()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        (**self).read_at(buffer, offset)
    }

    fn data_after(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        (**self).data_after(offset)
    }
}

impl Content for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn data_after(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let start = match rustix::fs::seek(self, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            // A file system that cannot say has no holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(offset..u64::MAX)),
            Err(e) => return Err(e.into()),
        };
        match rustix::fs::seek(self, SeekFrom::Hole(start)) {
            Ok(end) => Ok(Some(start..end)),
            // A hole was punched meanwhile: whatever is there is read as it is then.
            Err(Errno::NXIO) => Ok(Some(start..u64::MAX)),
            Err(e) => Err(e.into()),
        }
    }
}
