//! [`Pool`]: writes small files on a few threads.
use super::place::Placer;
use crate::layer::LayerError;
use crate::layer::entry::Metadata;
use crate::path::RelPath;
use crate::sync::{Condvar, Mutex};
use rustix::fs::Stat;
use rustix::io::Errno;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Files larger than this are written by the reading thread, as they arrive.
pub(super) const SMALL_MAX: u64 = 128 << 10;
/// The most small files that wait to be written.
const QUEUE_MAX: usize = 64;

/// A path that now stands as its entry says, and its fresh lstat.
#[derive(Debug, Clone)]
pub struct Placed {
    /// Where.
    pub path: RelPath,
    /// What lstat says.
    pub stat: Stat,
}

/// A small file.
pub(super) struct Job {
    pub(super) parent: Arc<OwnedFd>,
    pub(super) path: RelPath,
    pub(super) meta: Metadata,
    pub(super) data: Vec<u8>,
}

#[derive(Default)]
struct State {
    /// Paths of files that are queued or being written; no more than the queue and the threads hold.
    under_way: Vec<RelPath>,
    placed: Vec<Placed>,
    failed: Option<LayerError>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// A file is written.
    ended: Condvar,
}

impl State {
    fn ended(&mut self, path: &RelPath) {
        if let Some(at) = self.under_way.iter().position(|file| file == path) {
            self.under_way.swap_remove(at);
        }
    }
}

pub(super) struct Pool {
    jobs: Option<SyncSender<Job>>,
    queue: Arc<Mutex<Receiver<Job>>>,
    shared: Arc<Shared>,
    placer: Arc<Placer>,
    threads: usize,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    pub(super) fn new(placer: Arc<Placer>, threads: usize) -> Self {
        let (jobs, queue) = sync_channel(QUEUE_MAX);
        Self {
            jobs: Some(jobs),
            queue: Arc::new(Mutex::new(queue)),
            shared: Arc::default(),
            placer,
            threads,
            workers: Vec::new(),
        }
    }

    /// Queues a file; reports the failure of an earlier one.
    pub(super) fn submit(&mut self, job: Job) -> Result<(), LayerError> {
        self.check()?;
        self.shared.state.lock().under_way.push(job.path.clone());
        if self.workers.len() < self.threads {
            let (queue, shared) = (Arc::clone(&self.queue), Arc::clone(&self.shared));
            let placer = Arc::clone(&self.placer);
            let worker = std::thread::Builder::new().name("extract".into()).spawn(move || {
                loop {
                    let job = queue.lock().recv();
                    let Ok(job) = job else { break };
                    // Counted down even if the writing panics, or `wait` would never return.
                    let _done = Done(&shared, job.path.clone());
                    let result = write(&placer, &job);
                    shared.record(result.map(|stat| Placed { path: job.path, stat }));
                }
            });
            match worker {
                Ok(worker) => self.workers.push(worker),
                Err(e) if self.workers.is_empty() => {
                    self.shared.state.lock().ended(&job.path);
                    return Err(LayerError::io("cannot start a thread", e));
                }
                Err(_) => {}
            }
        }
        if let Some(jobs) = &self.jobs
            && jobs.send(job).is_err()
        {
            return Err(LayerError::io("extracting thread died", std::io::ErrorKind::Other));
        }
        Ok(())
    }

    /// Waits until every queued file is written.
    pub(super) fn wait(&self) -> Result<(), LayerError> {
        self.wait_while(|state| !state.under_way.is_empty())
    }

    /// Waits until no queued file is to stand where a directory above `path` must.
    pub(super) fn wait_above(&self, path: &RelPath) -> Result<(), LayerError> {
        self.wait_while(|state| state.under_way.iter().any(|file| path.starts_with(file)))
    }

    fn wait_while(&self, is_under_way: impl Fn(&State) -> bool) -> Result<(), LayerError> {
        let mut state = self.shared.state.lock();
        while is_under_way(&state) {
            self.shared.ended.wait(&mut state);
        }
        drop(state);
        self.check()
    }

    pub(super) fn add_placed(&self, placed: Placed) {
        self.shared.state.lock().placed.push(placed);
    }

    pub(super) fn take_placed(&self) -> Vec<Placed> {
        std::mem::take(&mut self.shared.state.lock().placed)
    }

    fn check(&self) -> Result<(), LayerError> {
        self.shared.state.lock().failed.take().map_or(Ok(()), Err)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.jobs = None;
        for worker in self.workers.drain(..) {
            drop(worker.join());
        }
    }
}

impl Shared {
    fn record(&self, result: Result<Placed, LayerError>) {
        let mut state = self.state.lock();
        match result {
            Ok(placed) => state.placed.push(placed),
            Err(e) => drop(state.failed.get_or_insert(e)),
        }
    }
}

struct Done<'a>(&'a Shared, RelPath);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.ended(&self.1);
        if std::thread::panicking() {
            let died = LayerError::io("extracting thread died", std::io::ErrorKind::Other);
            state.failed.get_or_insert(died);
        }
        drop(state);
        self.0.ended.notify_all();
    }
}

fn write(placer: &Placer, job: &Job) -> Result<Stat, LayerError> {
    let name = job.path.name().unwrap_or_default();
    let result = placer.file((job.parent.as_fd(), name), &job.meta, false, |mut file| {
        file.write_all(&job.data).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
    });
    result.map_err(|e| LayerError::io(format!("cannot write: {}", job.path), e))
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("workers", &self.workers.len()).finish_non_exhaustive()
    }
}
