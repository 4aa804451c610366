//! The tracker: asks catalogs what has changed, often where somebody reads, seldom elsewhere.
use super::asked::begun;
use super::crowd::Crowd;
use super::lake::Lake;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::convert::Infallible;
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
            let (changes, names) = (ask_changes(&lake, number, pace), ask_names(&lake, number, pace));
            tokio::join!(changes, names, lake.follow_hints(number))
        }
    });
    tokio::select! {
        _ = futures::future::join_all(catalogs) => {}
        _ = lake.keep() => {}
        _ = lake.turn_tables() => {}
        _ = lake.clear_dropped() => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
    lake.feed().end();
}

async fn ask_changes(lake: &Lake, number: usize, pace: Pace) -> Infallible {
    let catalog = &lake.catalogs[number].catalog;
    match (catalog.has_one_question(), catalog.asks_each()) {
        (true, _) => ask_about_all(lake, number, pace).await,
        (false, true) => ask_about_each(lake, number, pace).await,
        (false, false) => ask_about_due(lake, number, pace).await,
    }
}

/// Each table in its time, and none of them waits for the answer about another.
async fn ask_about_each(lake: &Lake, number: usize, pace: Pace) -> Infallible {
    let (crowd, mut underway) = (Arc::<Crowd>::default(), FuturesUnordered::new());
    loop {
        let (due, next) = lake.due(number, pace);
        for (slot, place) in begun(due, &crowd) {
            underway.push(place.hold(lake.ask_alone(number, slot, pace)));
        }
        tokio::select! {
            Some(()) = underway.next() => {}
            () = crowd.has_room() => {}
            () = tokio::time::sleep(jittered(next, number)) => {}
            () = lake.catalogs[number].wanted.notified() => {}
        }
    }
}

/// Each table in its time, those that are due at one moment together.
async fn ask_about_due(lake: &Lake, number: usize, pace: Pace) -> Infallible {
    loop {
        let (due, next) = lake.due(number, pace);
        if due.is_empty() {
            let _sooner =
                tokio::time::timeout(jittered(next, number), lake.catalogs[number].wanted.notified()).await;
        } else {
            lake.ask_together(number, due, pace).await;
        }
    }
}

async fn ask_about_all(lake: &Lake, number: usize, pace: Pace) -> Infallible {
    let named = &lake.catalogs[number];
    let mut pause = pace.hot;
    loop {
        // Whoever begins to look finds what is current soon, however long nobody had.
        let _sooner = tokio::time::timeout(jittered(pause, number), named.wanted.notified()).await;
        let with_names = pace.brings_names(pause, named.asking.age());
        pause = match lake.poll(number, with_names).await {
            Ok(changed) => pace.next(pause, changed > 0, lake.watched(number).1),
            Err(error) => {
                tracing::warn!(%error, "a catalog does not answer; what is shown stays");
                (pause * 2).min(pace.idle)
            }
        };
    }
}

/// Asks for names by questions of their own, unless others bring them often enough.
async fn ask_names(lake: &Lake, number: usize, pace: Pace) -> Infallible {
    let named = &lake.catalogs[number];
    if named.catalog.has_one_question() && pace.idle <= NAMES {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(NAMES.saturating_sub(named.asking.age())).await;
        if named.asking.age() >= NAMES {
            let _logged = lake.ask_names_of(number).await;
        }
    }
}

impl Pace {
    fn next(self, pause: Duration, changed: bool, used: Option<Duration>) -> Duration {
        let hot = changed || used.is_some_and(|ago| ago < LATELY);
        if hot { self.hot } else { (pause * 2).min(self.idle) }
    }

    /// Whether names of this age are asked for now: by the question after this one, which comes after twice the pause
    /// at most, they would be too old.
    fn brings_names(self, pause: Duration, age: Duration) -> bool {
        age.saturating_add((pause * 2).min(self.idle)) > NAMES
    }
}

/// So that many catalogs are not asked at one moment.
fn jittered(pause: Duration, number: usize) -> Duration {
    pause - pause / 16 * (number % 4) as u32
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
        assert!(jittered(hot, 3) > hot / 2 && jittered(hot, 0) == hot);
    }

    /// TABLES: "one query for all tables, and for new ones": no question for names stands between two others, and
    /// names are no older than a minute.
    #[test]
    fn names_come_with_the_changes() {
        let seconds = Duration::from_secs;
        for (hot, idle) in [(1, 60), (2, 2), (1, 7), (60, 60), (30, 45)] {
            let pace = Pace { hot: seconds(hot), idle: seconds(idle) };
            for looks in [false, true] {
                let (mut pause, mut age, mut asked) = (pace.hot, Duration::MAX, 0);
                for question in 0..1000 {
                    age = age.saturating_add(pause);
                    if pace.brings_names(pause, age) {
                        (age, asked) = (Duration::ZERO, asked + 1);
                    }
                    assert!(age <= NAMES, "{pace:?}: question {question} leaves names of {age:?}");
                    let used = looks.then_some(Duration::ZERO);
                    pause = pace.next(pause, question % 100 == 0, used);
                }
                assert!(asked > 0 && (!looks || hot > 1 || asked < 20), "{pace:?}: {asked}");
            }
        }
    }
}
