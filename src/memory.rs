//! The allocator's manners: a daemon that has flushed a large tree gives the memory back.
//!
//! glibc keeps freed memory in one heap for each thread that ever allocated, and for good. Elsewhere
//! (musl, other allocators) these calls do nothing.

use std::ops::Range;

/// Heaps at most: few threads of a daemon allocate much at once.
#[cfg(target_env = "gnu")]
const HEAPS: libc::c_int = 2;
/// Allocations from this size on are given back when they are freed, in bytes, while a start makes what lasts: much of it
/// is room that nobody may ever touch.
#[cfg(target_env = "gnu")]
const LARGE_BYTES: libc::c_int = 128 << 10;
/// The same later on. Below it are the frames that come and go all the time while a tree is restored: each would be mapped,
/// faulted in page by page and unmapped, with all threads waiting for the map of the process.
#[cfg(target_env = "gnu")]
const LARGE_LATER_BYTES: libc::c_int = 1 << 20;
/// So much may be free at the end of a heap before it shrinks, in bytes.
#[cfg(target_env = "gnu")]
const SPARE_BYTES: libc::c_int = 2 << 20;

/// Call it before threads start.
pub fn be_frugal() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two integers; no other thread allocates yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
    }
}

/// Call it once after a start.
pub fn be_quick() {
    give_back();
    forget_code();
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two integers, and glibc's own lock; each is one that other threads read at any time.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_LATER_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, SPARE_BYTES);
    }
}

/// Call it after work that has allocated much and freed it. Takes milliseconds.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes an integer; glibc's own locks make it safe beside other threads.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Takes the program's code out of the memory of this process. The kernel still has the file; what goes on running is mapped
/// again with the next call, and what only a start needs (certificates, settings, a restore) is not.
fn forget_code() {
    let Some(code) = std::fs::read_to_string("/proc/self/maps").ok().and_then(|maps| code_in(&maps)) else {
        return;
    };
    let (start, length) = (std::ptr::without_provenance_mut(code.start), code.len());
    // SAFETY: the pages are those of a file, mapped to be read and run only. Nobody has written to them, so they come back as
    // they are, to any thread at any time.
    let _they_stay = unsafe { libc::madvise(start, length, libc::MADV_DONTNEED) };
}

/// Where the mapping with this function's code is, if it is of a file and cannot be written to.
fn code_in(maps: &str) -> Option<Range<usize>> {
    let here = forget_code as fn() as usize;
    maps.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
        let is_code = fields.next() == Some("r-xp") && fields.nth(2).is_some_and(|inode| inode != "0");
        (is_code && range.contains(&here)).then_some(range)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_found_and_goes_on_running() {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
        let code = code_in(&maps).expect("is of a file");
        assert!(code.contains(&(give_back as fn() as usize)) && !code.is_empty());
        be_quick();
        assert_eq!(code_in(&maps), Some(code));
    }
}
