//! [`Processors`]: which processors there are, and which of them are ours.
use rustix::thread::CpuSet;
use std::io;

/// What the kernel calls possible: it wants a queue for each, also for those that may never come.
const POSSIBLE: &str = "/sys/devices/system/cpu/possible";
/// Processors at most that a set of the kernel's has room for.
const MAX: usize = CpuSet::MAX_CPU;

/// The processors of the machine.
#[derive(Debug)]
pub struct Processors {
    possible: usize,
    ours: Vec<usize>,
}

impl Processors {
    /// Asks the machine.
    pub fn of_machine() -> io::Result<Self> {
        let text = std::fs::read_to_string(POSSIBLE)?;
        let unknown = || io::Error::new(io::ErrorKind::InvalidData, format!("{POSSIBLE}: {}", text.trim()));
        let possible = count(&text).ok_or_else(unknown)?;
        let allowed = rustix::thread::sched_getaffinity(None)?;
        let ours: Vec<usize> = (0..possible.min(MAX)).filter(|cpu| allowed.is_set(*cpu)).collect();
        if ours.is_empty() { Err(unknown()) } else { Ok(Self { possible, ours }) }
    }

    /// A thread for each of our processors, and the queues it serves: its own first. The queues of
    /// processors where we may not run are spread among them.
    pub fn queues(&self) -> Vec<(usize, Vec<u16>)> {
        let mut queues: Vec<(usize, Vec<u16>)> =
            self.ours.iter().map(|cpu| (*cpu, vec![*cpu as u16])).collect();
        let others = (0..self.possible).filter(|cpu| !self.ours.contains(cpu));
        for (turn, cpu) in others.enumerate() {
            let thread = turn % queues.len();
            queues[thread].1.push(cpu as u16);
        }
        queues
    }
}

/// Keeps the calling thread on a processor.
pub fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// The number of processors in a list like `0-3,8`, which must begin at 0 and have no gap: the kernel
/// counts queues, and numbers them by processor.
fn count(list: &str) -> Option<usize> {
    let mut next = 0;
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first != next || last < first || last >= usize::from(u16::MAX) {
            return None;
        }
        next = last + 1;
    }
    Some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_counted_if_they_have_no_gap() {
        assert_eq!(count("0-1\n"), Some(2));
        assert_eq!(count("0"), Some(1));
        assert_eq!(count("0-1,2-5"), Some(6));
        for list in ["", "1-2", "0-1,3", "3-1", "0-70000", "x"] {
            assert_eq!(count(list), None, "{list}");
        }
    }

    #[test]
    fn every_possible_processor_has_a_queue_in_exactly_one_thread() {
        let processors = Processors { possible: 6, ours: vec![1, 4] };
        assert_eq!(processors.queues(), [(1, vec![1, 0, 3]), (4, vec![4, 2, 5])]);
    }
}
