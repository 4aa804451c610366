//! [`Interrupts`]: whoever waits for content can be ended meanwhile.
//!
//! The kernel says once of a request that its thread has got a signal, whatever it was, and then waits for the
//! answer all the same. A program that is interrupted for every signal fails: few expect `EINTR` of an open or
//! a read of a file. So only one that is asked to end is let go; others go on waiting, and are looked at again,
//! for nobody says when the next signal comes.
use crate::sync::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// So many interrupts are remembered that came before their requests.
const EARLY_MAX: usize = 64;
/// How often a thread is looked at that has got another signal.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Signals that ask a program to end, though it may catch them.
const ENDING: [i32; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// See the module. Owner of its lock.
#[derive(Debug, Default)]
pub struct Interrupts(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    waiting: HashMap<u64, Arc<Notify>>,
    early: VecDeque<u64>,
}

/// A request that waits, until it is dropped.
#[derive(Debug)]
pub struct Interruptible {
    interrupts: Arc<Interrupts>,
    unique: u64,
    pid: u32,
    told: Arc<Notify>,
}

impl Interrupts {
    /// The thread of a request has got a signal.
    pub fn interrupt(&self, unique: u64) {
        let mut known = self.0.lock();
        match known.waiting.get(&unique) {
            Some(told) => told.notify_one(),
            None => {
                known.early.push_back(unique);
                if known.early.len() > EARLY_MAX {
                    known.early.pop_front();
                }
            }
        }
    }

    /// A request of a thread waits from now on.
    pub fn wait(self: &Arc<Self>, unique: u64, pid: u32) -> Interruptible {
        let told: Arc<Notify> = Arc::default();
        let mut known = self.0.lock();
        if known.early.contains(&unique) {
            told.notify_one();
        }
        known.waiting.insert(unique, told.clone());
        Interruptible { interrupts: self.clone(), unique, pid, told }
    }
}

impl Interruptible {
    /// Ready when who asks is to end.
    async fn ended(&self) {
        self.told.notified().await;
        while !is_to_end(self.pid) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// Ready when who asks is to end; never if nobody can tell.
pub async fn ended(waiting: Option<&Interruptible>) {
    match waiting {
        Some(waiting) => waiting.ended().await,
        None => std::future::pending().await,
    }
}

impl Drop for Interruptible {
    fn drop(&mut self) {
        self.interrupts.0.lock().waiting.remove(&self.unique);
    }
}

/// Whether a thread that we see has got a signal that ends it, or asks it to.
fn is_to_end(pid: u32) -> bool {
    let status = (pid != 0).then(|| std::fs::read_to_string(format!("/proc/{pid}/status")).ok()).flatten();
    status.is_some_and(|status| has_ending(&status))
}

/// The same by its status, see proc_pid_status(5). A signal that ends a program without being caught is there as
/// SIGKILL.
fn has_ending(status: &str) -> bool {
    let set = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or_default()
    };
    let bit = |signal: i32| 1u64 << (signal - 1);
    let caught =
        ENDING.into_iter().fold(0, |all, signal| all | bit(signal)) & !set("SigBlk") & !set("SigIgn");
    (set("SigPnd") | set("ShdPnd")) & (bit(libc::SIGKILL) | caught) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_ends_a_program_lets_it_go() {
        let status = |own: u64, shared: u64, blocked: u64, ignored: u64| {
            format!(
                "Name:\tcat\nSigPnd:\t{own:016x}\nShdPnd:\t{shared:016x}\nSigBlk:\t{blocked:016x}\n\
                 SigIgn:\t{ignored:016x}\nSigCgt:\t{:016x}\n",
                u64::MAX
            )
        };
        let bit = |signal: i32| 1u64 << (signal - 1);
        assert!(has_ending(&status(bit(libc::SIGKILL), 0, 0, 0)));
        assert!(has_ending(&status(0, bit(libc::SIGINT) | bit(libc::SIGCHLD), 0, 0)));
        assert!(has_ending(&status(0, bit(libc::SIGKILL), u64::MAX, u64::MAX)));
        for signal in [libc::SIGCHLD, libc::SIGWINCH, libc::SIGURG, libc::SIGALRM] {
            assert!(!has_ending(&status(bit(signal), bit(signal), 0, 0)), "{signal}");
        }
        assert!(!has_ending(&status(0, bit(libc::SIGINT), bit(libc::SIGINT), 0)), "it is blocked");
        assert!(!has_ending(&status(0, bit(libc::SIGINT), 0, bit(libc::SIGINT))), "it is ignored");
        assert!(!has_ending(""));
    }

    #[tokio::test]
    async fn an_interrupt_reaches_its_request_whichever_comes_first() {
        let interrupts: Arc<Interrupts> = Arc::default();
        let told = async |waiting: &Interruptible| {
            tokio::time::timeout(Duration::ZERO, waiting.told.notified()).await.is_ok()
        };
        let (first, other) = (interrupts.wait(2, 0), interrupts.wait(4, 0));
        interrupts.interrupt(2);
        assert!(told(&first).await && !told(&other).await);
        interrupts.interrupt(6);
        assert!(told(&interrupts.wait(6, 0)).await);
        drop((first, other));
        assert!(interrupts.0.lock().waiting.is_empty());
        (0..1000).for_each(|unique| interrupts.interrupt(unique));
        assert_eq!(interrupts.0.lock().early.len(), EARLY_MAX);
    }
}
