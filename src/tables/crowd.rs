//! [`Crowd`]: how much is done at once for many tables, where any of them may hang.
use crate::sync::Mutex;
use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// So much is done at once, not counting what is late.
const YOUNG_MAX: usize = 32;
/// What is not done by then is late: it goes on, and holds up no other.
const LATE: Duration = Duration::from_secs(5);
/// So much is under way at most, late or not.
const ALL_MAX: usize = 256;
/// Where there is so much what has failed the last time waits: the rest is for others.
const DOUBTFUL_MAX: usize = 128;

/// See the module. Owner of its lock.
#[derive(Debug)]
pub(super) struct Crowd {
    /// So much is done at once, not counting what is late; so much is under way at most, and of that what is doubtful.
    most: Most,
    counts: Mutex<Counts>,
    room: Notify,
}

#[derive(Debug, Clone, Copy)]
struct Most {
    young: usize,
    all: usize,
    doubtful: usize,
}

impl Default for Crowd {
    fn default() -> Self {
        Self::one_in(1)
    }
}

#[derive(Debug, Default)]
struct Counts {
    young: usize,
    all: usize,
    /// What is late, the one that began first before the others.
    late: VecDeque<Arc<Notify>>,
}

/// Something is under way, for as long as this lives.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Arc<Crowd>,
    is_late: bool,
    /// Others wait, and there is no room for them.
    wanted: Arc<Notify>,
}

impl Crowd {
    /// Of what is `share` times as much work as to ask a question or to turn a table over.
    pub(super) fn one_in(share: usize) -> Self {
        let most = Most { young: YOUNG_MAX / share, all: ALL_MAX / share, doubtful: DOUBTFUL_MAX / share };
        Self { most, counts: Mutex::default(), room: Notify::default() }
    }

    /// One more, if there is room. `is_doubtful`: it has failed the last time. If all there is room for is late the one that
    /// began first is told that others wait, but not for what is doubtful.
    pub(super) fn enter(self: &Arc<Self>, is_doubtful: bool) -> Option<Place> {
        let mut counts = self.counts.lock();
        let most = if is_doubtful { self.most.doubtful } else { self.most.all };
        if counts.young >= self.most.young || counts.all >= most {
            if !is_doubtful && counts.all >= most {
                counts.late.front().inspect(|first| first.notify_one());
            }
            return None;
        }
        (counts.young, counts.all) = (counts.young + 1, counts.all + 1);
        Some(Place { crowd: self.clone(), is_late: false, wanted: Arc::default() })
    }

    /// There is room where there was none.
    pub(super) async fn has_room(&self) {
        self.room.notified().await;
    }
}

impl Place {
    /// Does something here.
    pub(super) async fn hold<T>(mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        if let Ok(done) = tokio::time::timeout(LATE, &mut work).await {
            return done;
        }
        self.is_late();
        work.await
    }

    /// Comes when others wait for it: what is done here has been late for longer than all else. Who can leave it should.
    pub(super) fn wanted(&self) -> Arc<Notify> {
        self.wanted.clone()
    }

    fn is_late(&mut self) {
        self.is_late = true;
        let mut counts = self.crowd.counts.lock();
        counts.young -= 1;
        counts.late.push_back(self.wanted.clone());
        drop(counts);
        self.crowd.room.notify_one();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.crowd.counts.lock();
        counts.young -= usize::from(!self.is_late);
        counts.all -= 1;
        counts.late.retain(|late| !Arc::ptr_eq(late, &self.wanted));
        drop(counts);
        self.crowd.room.notify_one();
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn what_hangs_holds_up_no_other_and_what_has_failed_takes_no_more_than_half() {
        let (crowd, mut hanging) = (Arc::<Crowd>::default(), Vec::new());
        for (is_doubtful, most) in [(true, DOUBTFUL_MAX), (false, ALL_MAX)] {
            while hanging.len() < most {
                let young: Vec<Place> = std::iter::from_fn(|| crowd.enter(is_doubtful)).collect();
                assert_eq!(young.len(), YOUNG_MAX);
                hanging.extend(young);
                hanging.iter_mut().filter(|place| !place.is_late).for_each(Place::is_late);
            }
            assert_eq!(hanging.len(), most);
            assert!(crowd.enter(true).is_none());
            assert_eq!(crowd.enter(false).is_some(), most < ALL_MAX);
        }
        hanging.pop();
        assert!(crowd.enter(false).is_some_and(|place| !place.is_late));
        hanging.clear();
        let counts = crowd.counts.lock();
        assert_eq!((counts.young, counts.all, counts.late.len()), (0, 0, 0));
    }

    /// Where all that is under way hangs, one after the other leaves for those that wait, and none for what has failed.
    #[test]
    fn what_hangs_leaves_when_others_wait() {
        let crowd = Arc::new(Crowd::one_in(8));
        let mut hanging = VecDeque::new();
        while hanging.len() < crowd.most.all {
            let mut place = crowd.enter(false).expect("room");
            place.is_late();
            hanging.push_back(place);
        }
        let wanted = |hanging: &VecDeque<Place>| -> Vec<usize> {
            let is_wanted = |place: &Place| place.wanted().notified().now_or_never().is_some();
            hanging.iter().enumerate().filter(|(_, place)| is_wanted(place)).map(|(at, _)| at).collect()
        };
        assert!(crowd.enter(true).is_none() && wanted(&hanging).is_empty());
        let mut others = Vec::new();
        for _ in 0..2 {
            assert!(crowd.enter(false).is_none() && crowd.enter(false).is_none());
            assert_eq!(wanted(&hanging), [0], "the one that began first");
            hanging.pop_front();
            others.push(crowd.enter(false).expect("room"));
        }
    }

    #[tokio::test]
    async fn what_is_done_makes_room() {
        let crowd = Arc::<Crowd>::default();
        let mut all: Vec<Place> = std::iter::from_fn(|| crowd.enter(false)).collect();
        let last = all.pop().map(|place| place.hold(async { 7 }));
        assert_eq!(last.expect("a place").await, 7);
        crowd.has_room().await;
        assert!(crowd.enter(false).is_some() && all.len() == YOUNG_MAX - 1);
    }
}
