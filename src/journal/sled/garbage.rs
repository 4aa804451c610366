//! What sled has replaced and not yet freed.
//!
//! sled frees memory by epochs: each thread keeps a list of what it replaced, and gives it away only when
//! the list is long. A list may hold buffers of half a megabyte, and a thread that never comes back keeps
//! its list for good. So threads hand theirs over after their work, and an idle journal frees them all.

/// Rounds after which an idle process has freed everything: each takes 8 lists of 62 entries. One round of
/// nothing takes less than a microsecond.
const ROUNDS: u32 = 4096;

/// Gives the list of this thread away, and frees a few that nobody can see any more.
pub fn hand_over() {
    ::crossbeam_epoch::pin().flush();
}

/// Frees what can be freed. Milliseconds.
pub fn collect() {
    for _ in 0..ROUNDS {
        hand_over();
    }
}
