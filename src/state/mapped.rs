//! Which files are mapped for writing: stores through a mapping pass no system call, so the cut
//! must know them by other means.
mod query;

use super::live::Writer;
use rustix::io::Errno;
use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The same as inode numbers on the backing, where the mount has given one of `writers` another number.
pub fn mapped_writers(dev: u64, writers: &[Writer]) -> HashSet<u64> {
    let mut found = mapped_inodes(dev);
    let renumbered: Vec<u64> = writers.iter().filter(|w| found.contains(&w.node)).map(|w| w.id.1).collect();
    found.extend(renumbered);
    found
}

/// Inode numbers of files on device `dev` (as stat shows it) that some visible process has mapped
/// shared and writable.
///
/// Processes of other pid namespaces are not visible; for a file only they have mapped, the lease test still says
/// that it has a writer.
pub fn mapped_inodes(dev: u64) -> HashSet<u64> {
    let wanted = (rustix::fs::major(dev), rustix::fs::minor(dev));
    let mut found = HashSet::new();
    each_mapping(|mapping| found.extend((mapping.dev == wanted).then_some(mapping.ino)));
    found
}

/// Files beneath `dir` that some visible process has mapped shared and writable: their paths when they were
/// mapped, and their inode numbers.
pub fn mapped_files(dir: &Path) -> BTreeSet<(PathBuf, u64)> {
    let mut found = BTreeSet::new();
    each_mapping(|mapping| {
        // By path, not by device: some file systems show another one here than stat does.
        let path = Path::new(OsStr::from_bytes(&mapping.path));
        if path.starts_with(dir) {
            found.insert((path.to_owned(), mapping.ino));
        }
    });
    found
}

/// A mapping of a file that is shared and may be stored to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mapping<'a> {
    /// The device, as `/proc/PID/maps` shows it: major and minor number.
    dev: (u32, u32),
    ino: u64,
    /// The path of the file, when it was mapped.
    pub(super) path: Cow<'a, [u8]>,
}

/// Goes through those of every visible process.
fn each_mapping(mut told: impl FnMut(&Mapping<'_>)) {
    let Ok(processes) = std::fs::read_dir("/proc") else { return };
    let mut can_be_asked = true;
    for process in processes.flatten() {
        if !process.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit) {
            continue;
        }
        if let Ok(maps) = File::open(process.path().join("maps")) {
            each_mapping_of(&maps, &mut can_be_asked, &mut told);
        }
    }
}

/// Goes through those of one process. `can_be_asked`: whether the kernel can be, as far as that is known.
pub(super) fn each_mapping_of(maps: &File, can_be_asked: &mut bool, told: &mut impl FnMut(&Mapping<'_>)) {
    if *can_be_asked {
        match asked(maps, told) {
            Ok(()) => return,
            Err(e) => *can_be_asked = e != Errno::NOTTY,
        }
    }
    read(maps, told);
}

/// Asks the kernel for those of one process.
fn asked(maps: &File, told: &mut impl FnMut(&Mapping<'_>)) -> Result<(), Errno> {
    let (mut room, mut address) = ([0; query::PATH_ROOM], 0);
    while let Some((mapping, end)) = query::next(maps.as_fd(), address, &mut room)? {
        told(&mapping);
        address = end;
    }
    Ok(())
}

/// Reads them as text (proc_pid_maps(5)).
fn read(maps: &File, told: &mut impl FnMut(&Mapping<'_>)) {
    let mut maps = BufReader::with_capacity(32 * 1024, maps);
    let mut line = Vec::new();
    while matches!(maps.read_until(b'\n', &mut line), Ok(n) if n > 0) {
        if let Some(mapping) = of_line(&line) {
            told(&mapping);
        }
        line.clear();
    }
}

/// `address perms offset dev inode path`
fn of_line(line: &[u8]) -> Option<Mapping<'_>> {
    let mut rest = line.trim_ascii_end();
    let mut field = || {
        let (field, after) = rest.split_at(rest.iter().position(|b| *b == b' ').unwrap_or(rest.len()));
        rest = after.trim_ascii_start();
        std::str::from_utf8(field).ok()
    };
    let (_address, permissions) = (field()?, field()?.as_bytes());
    if permissions.get(1) != Some(&b'w') || permissions.get(3) != Some(&b's') {
        return None;
    }
    let (_offset, dev, ino) = (field()?, field()?, field()?);
    let (major, minor) = dev.split_once(':')?;
    let number = |text| u32::from_str_radix(text, 16).ok();
    Some(Mapping { dev: (number(major)?, number(minor)?), ino: ino.parse().ok()?, path: unescape(rest) })
}

/// The kernel writes a line feed of a path as `\012`, and nothing else otherwise than it is.
fn unescape(path: &[u8]) -> Cow<'_, [u8]> {
    let escaped = b"\\012";
    if !path.windows(escaped.len()).any(|part| part == escaped) {
        return Cow::Borrowed(path);
    }
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        match rest.strip_prefix(escaped) {
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
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
    use std::os::unix::fs::MetadataExt;

    /// A page of a file, mapped until it is dropped.
    struct Mapped(*mut std::ffi::c_void);

    impl Mapped {
        fn new(file: &File, flags: MapFlags, protection: ProtFlags) -> std::io::Result<Self> {
            // SAFETY: a new mapping at a place that the kernel chooses, and never read.
            Ok(Self(unsafe { mmap(std::ptr::null_mut(), 4096, protection, flags, file, 0) }?))
        }
    }

    impl Drop for Mapped {
        fn drop(&mut self) {
            // SAFETY: the mapping that was made above, of which nothing else knows.
            let _unmapped = unsafe { munmap(self.0, 4096) };
        }
    }

    #[test]
    fn only_shared_writable_mappings_count() {
        let line = b"7f0a1c000000-7f0a1c021000 rw-s 00000000 00:2a 5619867      /mnt/a file\n";
        let mapping = of_line(line).expect("counts");
        assert_eq!((mapping.dev, mapping.ino, &mapping.path[..]), ((0, 42), 5_619_867, &b"/mnt/a file"[..]));
        assert!(of_line(b"7f-7f r--s 00000000 00:2a 7 /x\n").is_none());
        assert!(of_line(b"7f-7f rw-p 00000000 00:2a 7 /x\n").is_none());
        assert!(of_line(b"7f-7f rw-p\n").is_none());
        assert_eq!(unescape(b"/a\\012b\\n \\")[..], b"/a\nb\\n \\"[..]);
    }

    #[test]
    fn a_mapped_file_is_found_by_its_directory() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let place = std::fs::canonicalize(dir.path())?;
        let path = place.join("a file\nof two lines");
        std::fs::write(&path, [0; 4096])?;
        let file = File::options().read(true).write(true).open(&path)?;
        let both = ProtFlags::READ | ProtFlags::WRITE;
        let _read = Mapped::new(&file, MapFlags::SHARED, ProtFlags::READ)?;
        let _private = Mapped::new(&file, MapFlags::PRIVATE, both)?;
        assert!(mapped_files(&place).is_empty());
        let mapped = Mapped::new(&file, MapFlags::SHARED, both)?;
        let ino = file.metadata()?.ino();
        assert_eq!(mapped_files(&place), BTreeSet::from([(path, ino)]));
        assert!(mapped_files(&place.join("elsewhere")).is_empty());
        drop(mapped);
        assert!(mapped_files(&place).is_empty());
        Ok(())
    }

    /// Both ways say the same, where there is more than one; else the text is all there is.
    #[test]
    fn what_is_asked_for_is_what_the_text_says() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let mut held = Vec::new();
        for name in ["one", "two"] {
            let path = std::fs::canonicalize(dir.path())?.join(name);
            std::fs::write(&path, [0; 4096])?;
            let file = File::options().read(true).write(true).open(&path)?;
            held.push(Mapped::new(&file, MapFlags::SHARED, ProtFlags::READ | ProtFlags::WRITE)?);
        }
        std::fs::remove_file(dir.path().join("two"))?;
        let of_ours = |all: Vec<Mapping<'static>>| -> BTreeSet<(u64, Vec<u8>, (u32, u32))> {
            let place = std::fs::canonicalize(dir.path()).expect("there");
            let ours = all.into_iter().filter(|m| Path::new(OsStr::from_bytes(&m.path)).starts_with(&place));
            ours.map(|m| (m.ino, m.path.into_owned(), m.dev)).collect()
        };
        let owned = |m: &Mapping<'_>| Mapping { path: m.path.to_vec().into(), ..*m };
        let (mut by_text, mut by_query) = (Vec::new(), Vec::new());
        read(&File::open("/proc/self/maps")?, &mut |m| by_text.push(owned(m)));
        let can_be_asked = asked(&File::open("/proc/self/maps")?, &mut |m| by_query.push(owned(m)));
        let by_text = of_ours(by_text);
        assert_eq!(by_text.len(), 2, "{by_text:?}");
        assert!(by_text.iter().any(|(_, path, _)| path.ends_with(b"two (deleted)")), "{by_text:?}");
        match can_be_asked {
            Ok(()) => assert_eq!(of_ours(by_query), by_text),
            Err(e) => assert_eq!(e, Errno::NOTTY),
        }
        Ok(())
    }
}
