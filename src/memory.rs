//! The allocator's manners: a daemon that has flushed a large tree gives the memory back.
//!
//! glibc keeps freed memory in one heap for each thread that ever allocated, and for good. Elsewhere
//! (musl, other allocators) these calls do nothing.

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
