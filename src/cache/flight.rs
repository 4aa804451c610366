//! [`Flight`]: one fetch of one block, for all who want it.
use super::error::CacheError;
use bytes::Bytes;
use tokio::sync::watch;

/// How a fetch ended; `None` while it lasts.
type Outcome = Option<Result<Bytes, CacheError>>;

/// A fetch that lasts, as those see it who wait.
#[derive(Debug, Clone)]
pub struct Flight {
    outcome: watch::Receiver<Outcome>,
}

/// Whoever fetches. If it is dropped without a word, those who wait are told that.
#[derive(Debug)]
pub struct Pilot {
    outcome: watch::Sender<Outcome>,
}

impl Flight {
    /// A fetch that begins.
    pub fn begin() -> (Pilot, Self) {
        let (sender, receiver) = watch::channel(None);
        (Pilot { outcome: sender }, Self { outcome: receiver })
    }

    /// Waits for the bytes.
    pub async fn wait(mut self) -> Result<Bytes, CacheError> {
        match self.outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Err(CacheError::Closed)),
            Err(_) => Err(CacheError::GivenUp { why: "the fetch ended without a word".into() }),
        }
    }
}

impl Flight {
    /// Waits until all of it is over: what it brought is kept by then, if there was room.
    pub async fn landed(mut self) -> Result<(), CacheError> {
        let told = self.clone().wait().await.map(drop);
        while self.outcome.changed().await.is_ok() {} // the pilot leaves last
        told
    }
}

impl Pilot {
    /// Tells all who wait.
    pub fn tell(&self, outcome: Result<Bytes, CacheError>) {
        self.outcome.send_replace(Some(outcome));
    }
}
