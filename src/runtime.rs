//! The asynchronous runtime: requests to stores, catalogs and other machines are made on its threads.
use crate::error::{Error, Result};
use tokio::runtime::{Builder, Runtime};

/// How many threads it has. Those on which it waits for disks come on top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// The one that calls, while it waits for something.
    Caller,
    /// So many, for one directory or one function.
    Few(usize),
    /// One for each processor, for a server.
    Processors,
}

/// Starts one whose threads are called `name`, by which they are told apart in `top` and `perf`.
pub fn start(name: &str, threads: Threads) -> Result<Runtime> {
    let mut builder = match threads {
        Threads::Caller => Builder::new_current_thread(),
        Threads::Few(_) | Threads::Processors => Builder::new_multi_thread(),
    };
    if let Threads::Few(threads) = threads {
        builder.worker_threads(threads);
    }
    builder.thread_name(name).enable_all().build().map_err(|e| Error::io("cannot start runtime", e))
}
