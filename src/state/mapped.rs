//! Which files are mapped for writing: stores through a mapping pass no system call, so the cut
//! must know them by other means.
use super::live::Writer;
use std::collections::HashSet;
use std::io::{BufRead, BufReader};

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
    let Ok(processes) = std::fs::read_dir("/proc") else { return found };
    for process in processes.flatten() {
        if !process.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit) {
            continue;
        }
        let Ok(maps) = std::fs::File::open(process.path().join("maps")) else { continue };
        let mut maps = BufReader::with_capacity(32 * 1024, maps);
        let mut line = Vec::new();
        while matches!(maps.read_until(b'\n', &mut line), Ok(n) if n > 0) {
            found.extend(writable_inode(&line, &wanted));
            line.clear();
        }
    }
    found
}

/// `address perms offset dev inode path`
fn writable_inode(line: &[u8], dev: &str) -> Option<u64> {
    let mut fields = line.split(|b| *b == b' ').filter(|f| !f.is_empty());
    let permissions = fields.nth(1)?;
    if permissions.get(1) != Some(&b'w') || permissions.get(3) != Some(&b's') {
        return None;
    }
    if fields.nth(1)? != dev.as_bytes() {
        return None;
    }
    std::str::from_utf8(fields.next()?.trim_ascii_end()).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_shared_writable_mappings_of_the_device_count() {
        let line = b"7f0a1c000000-7f0a1c021000 rw-s 00000000 00:2a 5619867      /mnt/a file\n";
        assert_eq!(writable_inode(line, "00:2a"), Some(5_619_867));
        assert_eq!(writable_inode(line, "00:2b"), None);
        assert_eq!(writable_inode(b"7f-7f r--s 00000000 00:2a 7 /x\n", "00:2a"), None);
        assert_eq!(writable_inode(b"7f-7f rw-p 00000000 00:2a 7 /x\n", "00:2a"), None);
        assert_eq!(writable_inode(b"7f-7f rw-p\n", "00:2a"), None);
    }
}
