//! The tracker: asks catalogs what has changed, often where somebody reads, seldom elsewhere.
use super::lake::Lake;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often catalogs are asked.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// One of whose tables one was looked into lately.
    pub hot: Duration,
    /// Any, at least; the pause doubles up to it while nothing changes and nobody looks.
    pub idle: Duration,
}

/// So long after the last look tables are hot.
pub(super) const LATELY: Duration = Duration::from_secs(60);
/// How often the names of tables are asked for.
const NAMES: Duration = Duration::from_secs(60);

/// Asks until `stop` says so, and keeps in the cache what is to be there.
pub async fn track(lake: Arc<Lake>, pace: Pace, mut stop: watch::Receiver<bool>) {
    let catalogs = (0..lake.catalogs()).map(|number| {
        let lake = lake.clone();
        async move {
            let mut pause = pace.hot;
            loop {
                // Whoever begins to look finds what is current soon, however long nobody had.
                let wanted = lake.catalogs[number].wanted.notified();
                let _sooner = tokio::time::timeout(jittered(pause, number), wanted).await;
                pause = match lake.poll(number).await {
                    Ok(changed) => pace.next(pause, changed > 0, lake.watched(number).1),
                    Err(error) => {
                        tracing::warn!(%error, "a catalog does not answer; what is shown stays");
                        (pause * 2).min(pace.idle)
                    }
                };
            }
        }
    });
    let names = async {
        loop {
            tokio::time::sleep(NAMES).await;
            let _logged = lake.ask_names().await;
        }
    };
    tokio::select! {
        _ = futures::future::join_all(catalogs) => {}
        () = names => {}
        () = lake.keep() => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
    lake.feed().end();
}

impl Pace {
    fn next(self, pause: Duration, changed: bool, used: Option<Duration>) -> Duration {
        let hot = changed || used.is_some_and(|ago| ago < LATELY);
        if hot { self.hot } else { (pause * 2).min(self.idle) }
    }
}

/// So that many catalogs are not asked at one moment.
fn jittered(pause: Duration, number: usize) -> Duration {
    pause + pause / 16 * (number % 4) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_read_is_asked_often() {
        let (hot, idle, hour) = (Duration::from_secs(1), Duration::from_secs(60), Duration::from_secs(3600));
        let pace = Pace { hot, idle };
        assert_eq!(pace.next(idle, false, Some(Duration::ZERO)), hot);
        assert_eq!(pace.next(idle, true, None), hot);
        assert_eq!(pace.next(hot, false, Some(hour)), hot * 2);
        assert_eq!(pace.next(idle, false, None), idle);
        assert!(jittered(hot, 3) < hot * 2 && jittered(hot, 0) == hot);
    }
}
