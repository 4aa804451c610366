//! Events between machines: small messages on a channel of the namespace. Redis keeps none of them: whoever is
//! not connected misses it, and is told so by [`Notice::Gap`].
use super::error::RedisError;
use super::fleet::Fleet;
use super::options::Address;
use super::pause::Pause;
use super::stats::Meters;
use crate::sync::Mutex;
use futures::StreamExt;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use uuid::Uuid;

/// The largest message, in bytes.
pub const MESSAGE_MAX_BYTES: usize = 64 << 10;
/// The version written and understood.
const VERSION: u32 = 1;
/// So many notices wait for who is slow; then they become one gap.
const WAITING_MAX: usize = 1024;

/// What somebody said.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Event {
    /// Who: an id of the tier that published it, another one after each start.
    pub from: Uuid,
    /// About what. Topics are paths, such as `tables/<name>`, so that a prefix selects.
    pub topic: String,
    /// What.
    pub payload: serde_json::Value,
}

/// What a subscription gives.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// Somebody said something.
    Event(Event),
    /// From here on events are received; there may have been some before that were not. The first notice is one.
    /// Whoever looks at everything anew after each gap misses nothing.
    Gap,
}

/// The message as it is on the wire.
#[derive(serde::Serialize, serde::Deserialize)]
struct Message<E> {
    v: u32,
    #[serde(flatten)]
    event: E,
}

/// Reads a message; `None` if it is not ours, or of another version.
pub fn read(message: &[u8]) -> Option<Event> {
    if message.len() > MESSAGE_MAX_BYTES {
        return None;
    }
    let message: Message<Event> = serde_json::from_slice(message).ok()?;
    (message.v == VERSION).then_some(message.event)
}

/// The channel, and who we are on it.
#[derive(Debug)]
pub struct Channel {
    name: String,
    id: Uuid,
}

impl Channel {
    /// The channel of a namespace.
    pub fn new(namespace: &str) -> Self {
        Self { name: format!("{namespace}:events"), id: Uuid::now_v7() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A message.
    pub fn message(&self, topic: &str, payload: &impl serde::Serialize) -> Result<Vec<u8>, RedisError> {
        let wrong =
            |e: serde_json::Error| RedisError::Option { option: "payload".into(), why: e.to_string() };
        let payload = serde_json::to_value(payload).map_err(wrong)?;
        let event = Event { from: self.id, topic: topic.to_owned(), payload };
        let message = serde_json::to_vec(&Message { v: VERSION, event }).map_err(wrong)?;
        if message.len() > MESSAGE_MAX_BYTES {
            return Err(RedisError::TooLarge { bytes: message.len(), max: MESSAGE_MAX_BYTES });
        }
        Ok(message)
    }
}

/// Events as they come. It reconnects by itself for as long as it exists.
#[derive(Debug)]
pub struct Subscription {
    inbox: Arc<Inbox>,
    listener: AbortHandle,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Subscription {
    pub(super) fn start(prefix: &str, fleet: Arc<Fleet>, channel: Arc<Channel>, meters: Arc<Meters>) -> Self {
        let inbox = Arc::new(Inbox {
            prefix: prefix.to_owned(),
            meters,
            state: Mutex::default(),
            filled: Notify::new(),
        });
        let listener = tokio::spawn(listen(fleet, channel, inbox.clone())).abort_handle();
        Self { inbox, listener }
    }

    /// The next notice; waits for it. [`RedisError::Unsupported`] if no server passes events on: then there will
    /// never be one.
    pub async fn next(&mut self) -> Result<Notice, RedisError> {
        loop {
            let filled = self.inbox.filled.notified();
            {
                let mut state = self.inbox.state.lock();
                if let Some(notice) = state.notices.pop_front() {
                    return Ok(notice);
                }
                if let Some(end) = &state.end {
                    return Err(end.clone());
                }
            }
            filled.await;
        }
    }
}

/// What waits to be taken.
#[derive(Debug)]
struct Inbox {
    prefix: String,
    meters: Arc<Meters>,
    state: Mutex<Waiting>, // held for an operation of the queue
    filled: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    notices: VecDeque<Notice>,
    end: Option<RedisError>,
}

impl Inbox {
    /// What waits is forgotten with it: whoever takes the gap looks at everything anew.
    fn gap(&self) {
        Meters::count(&self.meters.events_gaps);
        self.state.lock().notices = VecDeque::from([Notice::Gap]);
        self.filled.notify_one();
    }

    fn receive(&self, message: &[u8]) {
        let Some(event) = read(message).filter(|event| event.topic.starts_with(&self.prefix)) else { return };
        Meters::count(&self.meters.events_received);
        let full = {
            let mut state = self.state.lock();
            state.notices.push_back(Notice::Event(event));
            state.notices.len() > WAITING_MAX
        };
        if full {
            self.gap();
        }
        self.filled.notify_one();
    }

    fn end(&self, error: RedisError) {
        self.state.lock().end = Some(error);
        self.filled.notify_one();
    }
}

/// Connects to whoever answers, for ever.
async fn listen(fleet: Arc<Fleet>, channel: Arc<Channel>, inbox: Arc<Inbox>) {
    let mut pause = Pause::default();
    loop {
        pause.wait().await;
        // Of a cluster any node will do: each passes on what any of them was told.
        let mut lacking = None;
        let addresses = fleet.addresses();
        let mut all_lack = !addresses.is_empty();
        for address in addresses {
            match hear(&fleet, &address, &channel, &inbox, &mut pause).await {
                Ok(()) => {
                    all_lack = false;
                    break;
                }
                Err(error @ RedisError::Unsupported { .. }) => lacking = Some(error),
                Err(error) => {
                    all_lack = false;
                    tracing::debug!(%error, "cannot listen for events");
                }
            }
        }
        if let Some(lacking) = lacking.filter(|_| all_lack) {
            tracing::warn!(error = %lacking, "no events from other machines");
            return inbox.end(lacking);
        }
    }
}

/// Listens until the connection is lost; an error if there was none.
async fn hear(
    fleet: &Fleet,
    address: &Address,
    channel: &Channel,
    inbox: &Inbox,
    pause: &mut Pause,
) -> Result<(), RedisError> {
    let options = fleet.options();
    let (mut sink, mut stream) = fleet.connector().subscribe(address, channel.name()).await?.split();
    pause.worked();
    inbox.gap();
    loop {
        let next = tokio::time::timeout(options.heartbeat, stream.next());
        match next.await {
            Ok(Some(message)) => inbox.receive(message.get_payload_bytes()),
            Ok(None) => return Ok(()),
            // Nothing came. A connection can be dead without a sign, and then nothing ever will.
            Err(_) => {
                let alive =
                    tokio::time::timeout(options.connect_deadline, sink.ping::<::redis::Value>()).await;
                match alive {
                    Ok(Err(e)) if super::connect::lacks(&e) => {}
                    Ok(Ok(_)) => {}
                    Ok(Err(_)) | Err(_) => return Ok(()),
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_message_is_this_line() {
        let channel = Channel { name: "icecache:events".into(), id: Uuid::from_u128(7) };
        let message = channel.message("tables/a", &json!({"snapshot": 3})).expect("a message");
        assert_eq!(
            String::from_utf8_lossy(&message),
            r#"{"v":1,"from":"00000000-0000-0000-0000-000000000007","topic":"tables/a","payload":{"snapshot":3}}"#
        );
        let event = read(&message).expect("an event");
        assert_eq!((event.topic.as_str(), &event.payload["snapshot"]), ("tables/a", &json!(3)));
        let long = channel.message("t", &"x".repeat(MESSAGE_MAX_BYTES));
        assert!(matches!(long, Err(RedisError::TooLarge { .. })));
    }

    #[test]
    fn what_is_not_ours_is_ignored() {
        for message in [
            &b""[..],
            b"\xff",
            b"[]",
            br#"{"v":2,"from":"00000000-0000-0000-0000-000000000007","topic":"t","payload":1}"#,
            br#"{"v":1,"topic":"t","payload":1}"#,
        ] {
            assert_eq!(read(message), None);
        }
        // A later minor addition is no reason to miss it.
        let more =
            br#"{"v":1,"from":"00000000-0000-0000-0000-000000000007","topic":"t","payload":1,"more":2}"#;
        assert!(read(more).is_some());
    }

    #[tokio::test]
    async fn who_is_slow_gets_a_gap_and_what_came_after_it() {
        let channel = Channel::new("n");
        let inbox = Inbox {
            prefix: "a/".into(),
            meters: Arc::default(),
            state: Mutex::default(),
            filled: Notify::new(),
        };
        for n in 0..=WAITING_MAX {
            inbox.receive(&channel.message("a/x", &n).expect("a message"));
            inbox.receive(&channel.message("b/x", &n).expect("a message"));
        }
        inbox.receive(&channel.message("a/y", &"last").expect("a message"));
        let listener = tokio::spawn(std::future::pending::<()>()).abort_handle();
        let mut subscription = Subscription { inbox: Arc::new(inbox), listener };
        assert_eq!(subscription.next().await, Ok(Notice::Gap));
        let Ok(Notice::Event(event)) = subscription.next().await else { panic!("no event") };
        assert_eq!(event.topic, "a/y");
    }
}
