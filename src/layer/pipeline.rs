//! [`Pipeline`]: work on a few threads, results in the order of the jobs.
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::sync::Mutex;

/// How much nicer than the daemon workers are that nobody waits for: programs come before a flush.
const MODESTY: i32 = 5;

/// The most worker threads of one layer: bounds memory (each holds a frame and a zstd context).
pub(super) const THREADS_MAX: usize = 4;

type Job<I, O> = (I, SyncSender<O>);
type Worker<I, O> = Box<dyn FnMut(I) -> O + Send>;

/// Runs jobs on up to `threads` workers, which start when there is work for them.
pub(super) struct Pipeline<I, O> {
    threads: usize,
    make: Box<dyn Fn() -> Worker<I, O> + Send>,
    jobs: Option<SyncSender<Job<I, O>>>,
    queue: Arc<Mutex<Receiver<Job<I, O>>>>,
    pending: VecDeque<Receiver<O>>,
    workers: Vec<JoinHandle<()>>,
    modest: bool,
    /// Does the work where no thread can be started.
    inline: Option<Worker<I, O>>,
}

impl<I: Send + 'static, O: Send + 'static> Pipeline<I, O> {
    /// `make` builds the state of one worker.
    pub(super) fn new(threads: usize, make: impl Fn() -> Worker<I, O> + Send + 'static) -> Self {
        let threads = threads.clamp(1, THREADS_MAX);
        let (jobs, queue) = sync_channel(threads + 2);
        Self {
            threads,
            make: Box::new(make),
            jobs: Some(jobs),
            queue: Arc::new(Mutex::new(queue)),
            pending: VecDeque::new(),
            workers: Vec::new(),
            modest: false,
            inline: None,
        }
    }

    /// Lets the workers give way to whatever else wants the processors.
    pub(super) fn modest(mut self) -> Self {
        self.modest = true;
        self
    }

    /// Whether as many jobs are under way as may be; take a result before the next job.
    pub(super) fn is_full(&self) -> bool {
        self.pending.len() >= self.threads + 2
    }

    /// Starts a job. Not to be called while [`is_full`](Self::is_full).
    pub(super) fn submit(&mut self, job: I) {
        let (done, result) = sync_channel(1);
        self.pending.push_back(result);
        if self.workers.len() < self.threads.min(self.pending.len()) {
            self.start_worker();
        }
        if self.workers.is_empty() {
            self.run_inline(job, &done);
        } else if let Some(jobs) = &self.jobs {
            // The queue has room for all pending jobs, so this does not wait; if every worker
            // died, `done` is dropped with the job and `next` reports it.
            drop(jobs.send((job, done)));
        }
    }

    /// Does a job on this thread, in its turn: for the first frame, which often is the only one.
    pub(super) fn submit_inline(&mut self, job: I) {
        let (done, result) = sync_channel(1);
        self.pending.push_back(result);
        self.run_inline(job, &done);
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// The result of the oldest job; `None` if there is no job. `Err` if its worker died.
    pub(super) fn next(&mut self) -> Option<Result<O, WorkerDied>> {
        self.pending.pop_front().map(|result| result.recv().map_err(|_| WorkerDied))
    }

    fn run_inline(&mut self, job: I, done: &SyncSender<O>) {
        let worker = self.inline.get_or_insert_with(&self.make);
        drop(done.send(worker(job)));
    }

    fn start_worker(&mut self) {
        let queue = Arc::clone(&self.queue);
        let mut work = (self.make)();
        let modest = self.modest;
        let body = move || {
            if modest {
                // Of this thread alone, on Linux. Where it is refused the work is done all the same.
                let _refused = rustix::process::nice(MODESTY);
            }
            loop {
                let job = queue.lock().recv();
                let Ok((job, done)) = job else { break };
                drop(done.send(work(job)));
            }
        };
        // Without a thread the work is done inline, or by the workers that there are.
        if let Ok(handle) = std::thread::Builder::new().name("layer".into()).spawn(body) {
            self.workers.push(handle);
        }
    }
}

/// A worker thread panicked.
#[derive(Debug, Clone, Copy)]
pub(super) struct WorkerDied;

impl<I, O> Drop for Pipeline<I, O> {
    fn drop(&mut self) {
        self.jobs = None;
        for worker in self.workers.drain(..) {
            drop(worker.join());
        }
    }
}

impl<I, O> std::fmt::Debug for Pipeline<I, O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("pending", &self.pending.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use rustix::process::getpriority_process;

    #[test]
    fn modest_workers_give_way_and_the_thread_that_asks_does_not() {
        let own = || getpriority_process(None).expect("asks");
        let before = own();
        let mut pipeline = Pipeline::new(1, move || Box::new(move |()| own())).modest();
        pipeline.submit(());
        let worker = pipeline.next().expect("a job").expect("its worker lives");
        assert_eq!(worker, (before + MODESTY).min(19));
        assert_eq!(own(), before);
    }
}
