//! The tracker: asks catalogs what has changed, often where somebody reads, seldom elsewhere.
use super::lake::{Event, Lake};
use icecache_iceberg::ChangeKind;
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

/// Asks until `stop` says so. `turned` is told of each table whose folder has changed, by its path below the
/// mount.
pub async fn track(lake: Arc<Lake>, mut stop: watch::Receiver<bool>, turned: impl Fn(&str) + Send + Sync) {
    let turned = &turned;
    let catalogs = (0..lake.catalogs()).map(|number| {
        let lake = lake.clone();
        async move {
            let mut pause = HOT;
            loop {
                tokio::time::sleep(jittered(pause, number)).await;
                pause = match lake.turn(number).await {
                    Ok(events) => {
                        events.iter().for_each(|event| tell(event, turned));
                        next(pause, !events.is_empty(), lake.watched(number).1)
                    }
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
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

fn next(pause: Duration, changed: bool, used: Option<Duration>) -> Duration {
    if changed || used.is_some_and(|ago| ago < LATELY) { HOT } else { (pause * 2).min(IDLE) }
}

/// So that many catalogs are not asked at one moment.
fn jittered(pause: Duration, number: usize) -> Duration {
    pause + pause / 16 * (number % 4) as u32
}

fn tell(event: &Event, turned: &impl Fn(&str)) {
    match event {
        Event::Turned { path, difference } => {
            let kind = difference.as_ref().map_or(ChangeKind::Overwrite, |d| d.kind);
            let (added, removed) = difference.as_ref().map_or((0, 0), |d| (d.added.len(), d.removed.len()));
            tracing::info!(path, ?kind, added, removed, "a table has another version");
            turned(path);
        }
        Event::Dropped { path } => {
            tracing::info!(path, "a table is gone");
            turned(path);
        }
        Event::Failed { path, why } => {
            tracing::warn!(path, why, "a new version cannot be shown; the old one stays");
        }
    }
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
