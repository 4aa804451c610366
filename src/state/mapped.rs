//! Which files are mapped for writing: stores through a mapping pass no system call, so the cut
//! must know them by other means.
use super::live::Writer;
use std::collections::{BTreeSet, HashSet};
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The same as inode numbers on the backing, where the mount has given one of `writers` another number.
pub fn mapped_writers(dev: u64, writers: &[Writer]) -> HashSet<u64> {
    let mut found = mapped_inodes(dev);
    let renumbered: Vec<u64> = writers.iter().filter(|w| found.contains(&w.node)).map(|w| w.ino).collect();
    found.extend(renumbered);
    found
}

/// Inode numbers of files on device `dev` (as stat shows it) that some visible process has mapped
/// shared and writable.
///
/// Reads `/proc/PID/maps` (proc_pid_maps(5)). Processes of other pid namespaces are not visible;
/// for a file only they have mapped, the lease test still says that it has a writer.
pub fn mapped_inodes(dev: u64) -> HashSet<u64> {
    let wanted = format!("{:02x}:{:02x}", rustix::fs::major(dev), rustix::fs::minor(dev));
    let mut found = HashSet::new();
    each_mapping(|line| {
        found.extend(writable(line).filter(|m| m.dev == wanted.as_bytes()).map(|m| m.ino));
    });
    found
}

/// Files beneath `dir` that some visible process has mapped shared and writable: their paths when they were
/// mapped, and their inode numbers.
pub fn mapped_files(dir: &Path) -> BTreeSet<(PathBuf, u64)> {
    let mut found = BTreeSet::new();
    each_mapping(|line| {
        // By path, not by device: some file systems show another one here than stat does.
        let Some(mapping) = writable(line) else { return };
        let path = PathBuf::from(OsString::from_vec(unescape(mapping.path)));
        if path.starts_with(dir) {
            found.insert((path, mapping.ino));
        }
    });
    found
}

/// Reads `/proc/PID/maps` of every visible process.
fn each_mapping(mut line_of: impl FnMut(&[u8])) {
    let Ok(processes) = std::fs::read_dir("/proc") else { return };
    for process in processes.flatten() {
        if !process.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit) {
            continue;
        }
        let Ok(maps) = std::fs::File::open(process.path().join("maps")) else { continue };
        let mut maps = BufReader::with_capacity(32 * 1024, maps);
        let mut line = Vec::new();
        while matches!(maps.read_until(b'\n', &mut line), Ok(n) if n > 0) {
            line_of(&line);
            line.clear();
        }
    }
}

/// A shared mapping that may be stored to.
struct Mapping<'a> {
    dev: &'a [u8],
    ino: u64,
    path: &'a [u8],
}

/// `address perms offset dev inode path`
fn writable(line: &[u8]) -> Option<Mapping<'_>> {
    let mut rest = line.trim_ascii_end();
    let mut field = || {
        let (field, after) = rest.split_at(rest.iter().position(|b| *b == b' ').unwrap_or(rest.len()));
        rest = after.trim_ascii_start();
        field
    };
    let (_address, permissions) = (field(), field());
    if permissions.get(1) != Some(&b'w') || permissions.get(3) != Some(&b's') {
        return None;
    }
    let (_offset, dev, ino) = (field(), field(), field());
    Some(Mapping { dev, ino: std::str::from_utf8(ino).ok()?.parse().ok()?, path: rest })
}

/// The kernel writes a line feed of a path as `\012`, and nothing else otherwise than it is.
fn unescape(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        match rest.strip_prefix(b"\\012") {
            Some(after) => {
                out.push(b'\n');
                rest = after;
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_shared_writable_mappings_count() {
        let line = b"7f0a1c000000-7f0a1c021000 rw-s 00000000 00:2a 5619867      /mnt/a file\n";
        let mapping = writable(line).expect("counts");
        assert_eq!((mapping.dev, mapping.ino, mapping.path), (&b"00:2a"[..], 5_619_867, &b"/mnt/a file"[..]));
        assert!(writable(b"7f-7f r--s 00000000 00:2a 7 /x\n").is_none());
        assert!(writable(b"7f-7f rw-p 00000000 00:2a 7 /x\n").is_none());
        assert!(writable(b"7f-7f rw-p\n").is_none());
        assert_eq!(unescape(b"/a\\012b\\n \\"), b"/a\nb\\n \\");
    }

    #[test]
    fn a_mapped_file_is_found_by_its_directory() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let place = std::fs::canonicalize(dir.path())?;
        let path = place.join("a file");
        std::fs::write(&path, [0; 4096])?;
        let file = std::fs::File::options().read(true).write(true).open(&path)?;
        assert!(mapped_files(&place).is_empty());
        use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
        // SAFETY: a new mapping at a place that the kernel chooses, unmapped below and never read.
        let at = unsafe {
            mmap(std::ptr::null_mut(), 4096, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &file, 0)
        }?;
        let ino = std::os::unix::fs::MetadataExt::ino(&file.metadata()?);
        assert_eq!(mapped_files(&place), BTreeSet::from([(path, ino)]));
        assert!(mapped_files(&place.join("elsewhere")).is_empty());
        // SAFETY: the mapping from above.
        unsafe { munmap(at, 4096) }?;
        Ok(())
    }
}
