//! [`Tap`]: parts of a tar stream that files want besides its entries, written to them while it goes by.
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A part of a stream, and the file that wants it.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its first byte in the stream.
    pub from: u64,
    /// How many bytes.
    pub length: u64,
    /// Whose it is.
    pub file: Arc<File>,
    /// Where it belongs in the file.
    pub at: u64,
}

impl Part {
    fn end(&self) -> u64 {
        self.from.saturating_add(self.length)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Tap {
    parts: Vec<Part>,
    /// The first of them that has not begun.
    next: usize,
    /// Those that have, and have not ended.
    under_way: Vec<usize>,
    /// How much of the stream went by.
    position: u64,
    failed: Option<io::Error>,
}

impl Tap {
    /// Of these parts some may be the same, or overlap.
    pub fn new(mut parts: Vec<Part>) -> Self {
        parts.sort_unstable_by_key(|part| part.from);
        Self { parts, ..Self::default() }
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    fn passes(&mut self, bytes: &[u8]) {
        let start = self.position;
        let end = start + bytes.len() as u64;
        self.position = end;
        while self.parts.get(self.next).is_some_and(|part| part.from < end) {
            self.under_way.push(self.next);
            self.next += 1;
        }
        let (parts, failed) = (&self.parts, &mut self.failed);
        self.under_way.retain(|n| {
            let Some(part) = parts.get(*n) else { return false };
            let (from, to) = (part.from.max(start), part.end().min(end));
            let piece =
                bytes.get((from - start) as usize..to.saturating_sub(start) as usize).unwrap_or_default();
            if let Err(e) = part.file.write_all_at(piece, part.at + (from - part.from)) {
                failed.get_or_insert(e);
            }
            part.end() > end
        });
    }

    /// After the end of the stream: whether all of them were written. `UnexpectedEof` if one lies outside of it.
    pub fn finish(self) -> io::Result<()> {
        match self.failed {
            Some(e) => Err(e),
            None if self.next < self.parts.len() || !self.under_way.is_empty() => {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            None => Ok(()),
        }
    }
}

/// A stream that passes a tap.
pub(super) struct Through<'a, R> {
    pub(super) stream: &'a mut R,
    pub(super) tap: &'a mut Tap,
}

impl<R: Read> Read for Through<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buf)?;
        self.tap.passes(&buf[..read]);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_is_written_where_it_belongs() -> io::Result<()> {
        let stream: Vec<u8> = (0..=255).collect();
        let parts = [
            (10, 30, 0),
            (10, 5, 100),
            (0, 256, 200),
            (39, 1, 50),
            (100, 0, 7),
            (250, 6, 60),
            (20, 90, 1000),
        ];
        for step in [1, 7, 10, 64, 256] {
            let file = Arc::new(tempfile::tempfile()?);
            let part = |(from, length, at): (u64, u64, u64)| Part { from, length, file: file.clone(), at };
            let mut tap = Tap::new(parts.map(part).to_vec());
            for piece in stream.chunks(step) {
                let (mut from, mut read) = (piece, Vec::new());
                Through { stream: &mut from, tap: &mut tap }.read_to_end(&mut read)?;
                assert_eq!(read, piece);
            }
            tap.finish()?;
            for (from, length, at) in parts {
                let mut found = vec![0; length as usize];
                file.read_exact_at(&mut found, at)?;
                assert_eq!(
                    found,
                    stream[from as usize..(from + length) as usize],
                    "{from} in steps of {step}"
                );
            }
        }
        Ok(())
    }

    #[test]
    fn what_lies_outside_of_the_stream_is_told() -> io::Result<()> {
        let file = Arc::new(tempfile::tempfile()?);
        for (from, length) in [(0, 11), (10, 1), (5, u64::MAX)] {
            let mut tap = Tap::new(vec![Part { from, length, file: file.clone(), at: 0 }]);
            tap.passes(&[1; 10]);
            let kind = tap.finish().map_err(|e| e.kind());
            assert_eq!(kind, Err(io::ErrorKind::UnexpectedEof), "{from} and {length}");
        }
        let mut tap = Tap::new(vec![Part { from: 9, length: 1, file, at: 0 }]);
        tap.passes(&[1; 10]);
        tap.finish()
    }

    #[test]
    fn a_file_that_cannot_be_written_is_told() -> io::Result<()> {
        let mut tap =
            Tap::new(vec![Part { from: 0, length: 1, file: Arc::new(File::open("/dev/null")?), at: 0 }]);
        tap.passes(b"x");
        assert!(tap.finish().is_err());
        Ok(())
    }
}
