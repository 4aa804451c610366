//! [`Seal`]: a file that says what it is and whether it is whole.
//!
//! Its first line is what it is, the version of its rules, and the BLAKE3 checksum of all that follows.
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// What such a file is, and the version of its rules.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seal {
    pub magic: &'static str,
    pub version: &'static str,
}

/// Whether a file is to be there after a loss of power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lasting {
    /// It is, when the call returns.
    Yes,
    /// It may be gone, or be no longer whole.
    No,
}

impl Seal {
    /// The bytes of a file with this content.
    pub fn seal(self, content: &[u8]) -> Vec<u8> {
        let Self { magic, version } = self;
        let mut bytes = format!("{magic} {version} {}\n", blake3::hash(content).to_hex()).into_bytes();
        bytes.extend_from_slice(content);
        bytes
    }

    /// The content of such a file; `None` if it is not one, or not whole.
    pub fn content(self, bytes: &[u8]) -> Option<&[u8]> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let (head, content) = (std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]);
        let rest = head.strip_prefix(self.magic)?.strip_prefix(' ')?.strip_prefix(self.version)?;
        let checksum = rest.strip_prefix(' ')?;
        (checksum == blake3::hash(content).to_hex().as_str()).then_some(content)
    }
}

/// Writes beside it, then renames: the old file or the new one is there. Only the daemon of the mount writes.
pub(super) fn write(path: &Path, bytes: &[u8], lasting: Lasting) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let aside = path.with_extension("new");
    let written = File::create(&aside).and_then(|mut file| {
        file.write_all(bytes)?;
        if lasting == Lasting::Yes {
            file.sync_all()?;
        }
        fs::rename(&aside, path)
    });
    if written.is_err() {
        // The error counts, not what becomes of the remains.
        let _gone = fs::remove_file(&aside);
    }
    written?;
    if lasting == Lasting::Yes {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}
