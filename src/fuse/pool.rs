//! A few threads for what may wait for a disk: the FUSE threads never do.
use crate::sync::Mutex;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// More than this many disk flushes at once help no disk.
const THREADS_MAX: usize = 8;

type Job = Box<dyn FnOnce() + Send>;

/// The pool. Threads start with the first jobs and end with the pool.
#[derive(Debug)]
pub struct Pool {
    jobs: Sender<Job>,
    queue: Arc<Mutex<Receiver<Job>>>,
    started: Mutex<usize>,
    /// Where its threads may run: jobs come from threads that are kept on one processor, and what
    /// they start would inherit that.
    processors: Option<rustix::thread::CpuSet>,
}

impl Default for Pool {
    /// Made by a thread that may run wherever the pool's may.
    fn default() -> Self {
        let (jobs, queue) = channel();
        let processors = rustix::thread::sched_getaffinity(None).ok();
        Self { jobs, queue: Arc::new(Mutex::new(queue)), started: Mutex::new(0), processors }
    }
}

impl Pool {
    /// Runs `job` soon, on some thread. The queue is bounded by what the kernel lets wait at once.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        {
            let mut started = self.started.lock();
            if *started < THREADS_MAX {
                let (queue, processors) = (self.queue.clone(), self.processors);
                let thread = std::thread::Builder::new().name(format!("disk-{started}"));
                let spawned = thread.spawn(move || {
                    let _unpinned = processors.map(|all| rustix::thread::sched_setaffinity(None, &all));
                    loop {
                        let job = queue.lock().recv();
                        match job {
                            Ok(job) => job(),
                            Err(_) => return, // the pool is gone
                        }
                    }
                });
                *started += usize::from(spawned.is_ok());
            }
        }
        if let Err(refused) = self.jobs.send(Box::new(job)) {
            (refused.0)(); // cannot happen while the pool holds the queue; the job must not be lost
        }
    }
}
