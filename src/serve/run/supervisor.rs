//! [`Supervisor`]: the parent of one command. It hands signals on, reaps what is left behind, and is as good a
//! process 1 as any.
use super::signals::{Signals, unblock};
use crate::error::{Error, Result};
use crate::sync::Mutex;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Signals by which somebody asks for the end before and after the command.
const ENDS: [i32; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code; 128 and the number of the signal that ended it.
    pub code: u8,
    /// When everything must be over, because somebody asked for the end (SIGTERM).
    pub limit: Option<Instant>,
    /// Processes that it started are still there.
    pub left_behind: bool,
}

/// Why the command did not run.
#[derive(Debug)]
pub enum SpawnError {
    /// There is no such program.
    NotFound(io::Error),
    /// It cannot be run.
    Refused(io::Error),
}

/// When the end must be over. Known to whoever works at it, also while they do.
#[derive(Debug, Clone, Default)]
pub struct Hurry(Arc<Mutex<Option<Instant>>>);

impl Hurry {
    /// When; `None`: there is time.
    pub fn limit(&self) -> Option<Instant> {
        *self.0.lock()
    }

    fn by(&self, limit: Instant) -> Instant {
        *self.0.lock().get_or_insert(limit)
    }
}

/// The time from SIGTERM to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grace {
    /// Of everything.
    pub whole: Duration,
    /// Of the command, which is killed then.
    pub command: Duration,
}

impl Grace {
    /// Half of `whole` is for the command.
    pub fn halved(whole: Duration) -> Self {
        Self { whole, command: whole / 2 }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Supervisor {
    signals: Signals,
    grace: Grace,
    hurry: Hurry,
    /// Children that are none of the command's.
    own: Vec<Pid>,
}

impl Supervisor {
    /// From now on signals wait until they are looked at, and processes whose parents die become our children.
    /// Call it before any thread is started.
    pub fn begin(grace: Grace) -> Result<Self> {
        let signals = Signals::catch().map_err(|e| Error::io("cannot catch signals", e))?;
        // Process 1 is that by itself; a kernel that cannot leaves them to it.
        let _as_it_is = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        Ok(Self { signals, grace, hurry: Hurry::default(), own: Vec::new() })
    }

    /// This child is ours, and no part of the command.
    pub fn owns(&mut self, pid: Option<Pid>) {
        self.own.extend(pid);
    }

    /// When everything must be over, once that is known.
    pub fn hurry(&self) -> Hurry {
        self.hurry.clone()
    }

    /// Runs the command to its end. After SIGTERM it has its part of the grace to end by itself. If this process is
    /// killed the command is, too: nobody would save what it writes. That holds for no process that it has started: the
    /// kernel tells the children of the one that died alone. Call it on the main thread, which ends last.
    pub fn run(&mut self, command: &mut Command) -> Result<Ended, SpawnError> {
        let parent = rustix::process::getpid();
        // SAFETY: between fork and exec a few calls are made that may be made there.
        unsafe { command.pre_exec(unblock).pre_exec(move || die_with(parent)) };
        let child = command.spawn().map_err(|e| match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => SpawnError::NotFound(e),
            _ => SpawnError::Refused(e),
        })?;
        let pid = Pid::from_child(&child);
        let for_the_rest = self.grace.whole.saturating_sub(self.grace.command);
        let mut kill_at = self.hurry.limit().map(|limit| limit - for_the_rest);
        loop {
            match self.signals.next(kill_at, None).map_err(SpawnError::Refused)? {
                None => {
                    let _gone = kill_process(pid, Signal::KILL);
                    kill_at = None;
                }
                Some(caught) if caught.number == libc::SIGCHLD => {
                    if let Some(status) = self.reap(pid) {
                        return Ok(self.ended(status));
                    }
                }
                Some(caught) if caught.from_kernel && has_as_well(pid, caught.number) => {}
                Some(caught) => {
                    self.pass_on(pid, caught.number);
                    if caught.number == libc::SIGTERM && kill_at.is_none() {
                        let limit = self.hurry.by(Instant::now() + self.grace.whole);
                        kill_at = Some(limit - for_the_rest);
                    }
                }
            }
        }
    }

    /// Does what is to be done after the command on a thread of its own, while signals are heeded here: they start the
    /// clock. `None` if the time was up before it was done; it goes on, but nobody waits for it.
    pub fn during<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Option<T>> {
        self.beside(work, None)
    }

    /// The same before the command. Nothing is there to be saved yet, so `None` as soon as a signal asks for the end, when
    /// `stop` has done away with what must not outlive the work.
    pub fn until_asked_to_end<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> T + Send + 'static,
        stop: impl Fn(),
    ) -> Result<Option<T>> {
        self.beside(work, Some(&stop))
    }

    fn beside<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> T + Send + 'static,
        stop: Option<&dyn Fn()>,
    ) -> Result<Option<T>> {
        let failed = |e: io::Error| Error::io("cannot wait for work and signals", e);
        let (done, finish) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        let worker = std::thread::Builder::new().name("work".into()).spawn(move || {
            let _told_by_its_end = finish;
            work()
        });
        let worker = worker.map_err(failed)?;
        while !worker.is_finished() {
            match self.signals.next(self.hurry.limit(), Some(&done)).map_err(failed)? {
                Some(caught) if ENDS.contains(&caught.number) => {
                    self.hurry.by(Instant::now() + self.grace.whole);
                    if let Some(stop) = stop {
                        stop();
                        return Ok(None);
                    }
                }
                Some(_) => {}
                None if self.hurry.limit().is_some_and(|limit| Instant::now() >= limit) => return Ok(None),
                // The pipe is closed while the worker still ends.
                None => break,
            }
        }
        worker.join().map(Some).map_err(|panic| std::panic::resume_unwind(panic))
    }

    fn pass_on(&self, pid: Pid, signal: i32) {
        // SAFETY: the number came from the kernel, as a signal that was sent to us.
        let signal = unsafe { Signal::from_raw_unchecked(signal) };
        let _gone = kill_process(pid, signal); // it is not reaped yet, so the number is still its own
    }

    /// Takes note of every child of this thread that has ended; returns how the command did. That of another thread has
    /// somebody who waits for it, such as a program that is asked for credentials. What is left behind, by the command or
    /// by a thread that has ended, is given to the main thread, which is this one.
    fn reap(&self, command: Pid) -> Option<WaitStatus> {
        let of_this_thread = WaitOptions::NOHANG | WaitOptions::from_bits_retain(libc::__WNOTHREAD as u32);
        let mut ended = None;
        while let Ok(Some((pid, status))) = rustix::process::wait(of_this_thread) {
            if pid == command {
                ended = Some(status);
            }
        }
        ended
    }

    fn ended(&self, status: WaitStatus) -> Ended {
        let code = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => code as u8,
            (None, Some(signal)) => 128 + signal as u8,
            (None, None) => u8::MAX,
        };
        Ended { code, limit: self.hurry.limit(), left_behind: self.has_others() }
    }

    /// Whether there are children besides our own.
    fn has_others(&self) -> bool {
        let children = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
        let mut pids = children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
        pids.any(|pid| !self.own.contains(&pid))
    }
}

/// Whether the command has a signal of the kernel's by itself: a terminal sends these to all processes in its foreground.
/// Any other is for this process alone, as is the SIGHUP of a terminal that is gone, if this is the leader of its session.
fn has_as_well(command: Pid, signal: i32) -> bool {
    let of_foreground = [libc::SIGINT, libc::SIGQUIT, libc::SIGWINCH].contains(&signal);
    of_foreground
        && rustix::process::getpgid(Some(command)).is_ok_and(|group| group == rustix::process::getpgrp())
}

/// This process is killed when `parent` dies. Called in it between fork and exec.
fn die_with(parent: Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have died before that call.
    match rustix::process::getppid() {
        Some(pid) if pid == parent => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::ESRCH)),
    }
}
