//! The tracker: asks catalogs what has changed, often where somebody reads, seldom elsewhere.
use super::lake::Lake;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often a catalog is asked of whose tables one was looked into lately.
const HOT: Duration = Duration::from_secs(1);
/// How often at least; the pause doubles up to it while nothing changes and nobody looks.
const IDLE: Duration = Duration::from_secs(60);
/// So long after the last look tables are hot.
const LATELY: Duration = Duration::from_secs(60);
/// How often the names of tables are asked for.
const NAMES: Duration = Duration::from_secs(60);

/// Asks until `stop` says so, and keeps in the cache what is to be there.
pub async fn track(lake: Arc<Lake>, mut stop: watch::Receiver<bool>) {
    let catalogs = (0..lake.catalogs()).map(|number| {
        let lake = lake.clone();
        async move {
            let mut pause = HOT;
            loop {
                tokio::time::sleep(jittered(pause, number)).await;
                pause = match lake.poll(number).await {
                    Ok(changed) => next(pause, changed > 0, lake.watched(number).1),
                    Err(error) => {
                        tracing::warn!(%error, "a catalog does not answer; what is shown stays");
                        (pause * 2).min(IDLE)
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

fn next(pause: Duration, changed: bool, used: Option<Duration>) -> Duration {
    if changed || used.is_some_and(|ago| ago < LATELY) { HOT } else { (pause * 2).min(IDLE) }
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
        let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3600));
        assert_eq!(next(IDLE, false, Some(Duration::ZERO)), HOT);
        assert_eq!(next(IDLE, true, None), HOT);
        assert_eq!(next(HOT, false, Some(hour)), HOT * 2);
        assert_eq!(next(minute, false, None), IDLE);
        assert!(jittered(HOT, 3) < HOT * 2 && jittered(HOT, 0) == HOT);
    }
}
