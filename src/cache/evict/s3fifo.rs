//! [`S3Fifo`]: three queues, so that what is used once does not push out what is used often
//! (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023).
//!
//! New units enter the small queue, a tenth of all bytes. Those used again before they reach its end move
//! to the main queue; the others go, and are remembered by their fingerprints: one that comes back while
//! it is remembered enters the main queue at once. In the main queue a used unit gets another round.
use super::{Facts, Policy, Unit};
use crate::cache::spread::ByNumber;
use std::collections::{HashSet, VecDeque};

/// The small queue has at most one in so many bytes.
const SMALL_PART: u64 = 10;
/// Uses beyond this many make no difference.
const FREQUENCY_MAX: u8 = 3;
/// So many fingerprints are remembered at least, and never more than there are units.
const GHOSTS_MIN: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queue {
    Small,
    Main,
}

#[derive(Debug)]
struct Known {
    queue: Queue,
    frequency: u8,
    bytes: u64,
    fingerprint: u64,
    /// The place in a queue that is valid: older ones of the same unit are passed over.
    ticket: u64,
}

/// Small, main and ghost queue.
#[derive(Debug, Default)]
pub struct S3Fifo {
    known: ByNumber<Unit, Known>,
    small: VecDeque<(Unit, u64)>,
    main: VecDeque<(Unit, u64)>,
    ghosts: VecDeque<u64>,
    ghost_set: HashSet<u64>,
    small_bytes: u64,
    main_bytes: u64,
    tickets: u64,
}

impl S3Fifo {
    fn push(&mut self, unit: Unit, queue: Queue, frequency: u8, bytes: u64, fingerprint: u64) {
        self.tickets += 1;
        let ticket = self.tickets;
        match queue {
            Queue::Small => {
                self.small.push_back((unit, ticket));
                self.small_bytes += bytes;
            }
            Queue::Main => {
                self.main.push_back((unit, ticket));
                self.main_bytes += bytes;
            }
        }
        self.known.insert(unit, Known { queue, frequency, bytes, fingerprint, ticket });
    }

    fn take(&mut self, unit: Unit) -> Option<Known> {
        let known = self.known.remove(&unit)?;
        match known.queue {
            Queue::Small => self.small_bytes -= known.bytes,
            Queue::Main => self.main_bytes -= known.bytes,
        }
        self.tidy();
        Some(known)
    }

    /// Places whose unit has left are dropped when they come up, and all at once when they are the most.
    fn tidy(&mut self) {
        if self.small.len() + self.main.len() > 2 * self.known.len() + 64 {
            let valid =
                |(unit, ticket): &(Unit, u64)| self.known.get(unit).is_some_and(|k| k.ticket == *ticket);
            self.small.retain(valid);
            self.main.retain(valid);
        }
    }

    fn remember(&mut self, fingerprint: u64) {
        if self.ghost_set.insert(fingerprint) {
            self.ghosts.push_back(fingerprint);
        }
        while self.ghosts.len() > self.known.len().max(GHOSTS_MIN) {
            if let Some(oldest) = self.ghosts.pop_front() {
                self.ghost_set.remove(&oldest);
            }
        }
    }

    /// The next valid place of a queue.
    fn next(&mut self, queue: Queue) -> Option<(Unit, Known)> {
        loop {
            let places = if queue == Queue::Small { &mut self.small } else { &mut self.main };
            let (unit, ticket) = places.pop_front()?;
            if self.known.get(&unit).is_some_and(|known| known.ticket == ticket)
                && let Some(known) = self.take(unit)
            {
                return Some((unit, known));
            }
        }
    }
}

impl Policy for S3Fifo {
    fn name(&self) -> &'static str {
        "s3-fifo"
    }

    fn admitted(&mut self, unit: Unit, facts: Facts) {
        self.take(unit);
        // What was used before comes back after a restart, and has left the small queue.
        let is_known = facts.hits > 0 || self.ghost_set.contains(&facts.fingerprint);
        let queue = if is_known { Queue::Main } else { Queue::Small };
        let frequency = facts.hits.min(FREQUENCY_MAX.into()) as u8;
        self.push(unit, queue, frequency, facts.bytes, facts.fingerprint);
    }

    fn touched(&mut self, unit: Unit, _facts: Facts) {
        if let Some(known) = self.known.get_mut(&unit) {
            known.frequency = (known.frequency + 1).min(FREQUENCY_MAX);
        }
    }

    fn removed(&mut self, unit: Unit) {
        self.take(unit);
    }

    fn victim(&mut self) -> Option<Unit> {
        loop {
            let small_is_full = self.small_bytes * SMALL_PART >= self.small_bytes + self.main_bytes;
            if (small_is_full || self.main_bytes == 0)
                && let Some((unit, known)) = self.next(Queue::Small)
            {
                if known.frequency == 0 {
                    self.remember(known.fingerprint);
                    return Some(unit);
                }
                self.push(unit, Queue::Main, 0, known.bytes, known.fingerprint);
                continue;
            }
            match self.next(Queue::Main) {
                Some((unit, known)) if known.frequency > 0 => {
                    self.push(unit, Queue::Main, known.frequency - 1, known.bytes, known.fingerprint);
                }
                Some((unit, _)) => return Some(unit),
                // Units of no bytes may be left in the small queue.
                None => return self.next(Queue::Small).map(|(unit, _)| unit),
            }
        }
    }

    fn kept(&mut self, unit: Unit, facts: Facts) {
        self.push(unit, Queue::Main, 0, facts.bytes, facts.fingerprint);
    }

    fn len(&self) -> usize {
        self.known.len()
    }
}
