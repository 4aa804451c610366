//! Reading what may be in the page cache, and knowing whether it was; and writing that goes on where it was stopped.
use rustix::io::ReadWriteFlags;
use std::fs::File;
use std::io::IoSliceMut;
use std::os::unix::fs::FileExt;

/// Fills `buffer` from the page cache alone; `false` if not all of it is there, or nobody can say.
pub fn read_cached(file: &File, buffer: &mut [u8], offset: u64) -> bool {
    let mut done = 0;
    while done < buffer.len() {
        let mut slices = [IoSliceMut::new(&mut buffer[done..])];
        match rustix::io::preadv2(file, &mut slices, offset + done as u64, ReadWriteFlags::NOWAIT) {
            Ok(n) if n > 0 => done += n,
            Err(rustix::io::Errno::INTR) => {}
            _ => return false,
        }
    }
    true
}

/// Fills `buffer`, from the disk if need be.
pub fn read(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
    file.read_exact_at(buffer, offset)
}

/// Writes what of `bytes` has not been written at `offset` yet; `done` is how much that is, also after an error.
pub fn write_on(file: &File, bytes: &[u8], offset: u64, done: &mut usize) -> std::io::Result<()> {
    while *done < bytes.len() {
        match file.write_at(&bytes[*done..], offset + *done as u64) {
            Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
            Ok(more) => *done += more,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
