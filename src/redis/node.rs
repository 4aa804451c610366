//! [`Node`]: one server. Each call to it has a deadline and a place among those that are under way; its breaker
//! is told how it went. A keeper in the background connects, and connects again.
use super::bell::Bell;
use super::breaker::{Breaker, Pass};
use super::connect::{Connector, Expiry, Link};
use super::error::RedisError;
use super::options::Address;
use super::pause::Pause;
use super::stats::{Meters, NodeStatus};
use crate::sync::Mutex;
use ::redis::{Pipeline, Value, pipe};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::AbortHandle;

/// Events on their way to one server at once. They are small, and do not wait behind blocks for a place.
const EVENTS_MAX: usize = 64;

/// One server.
#[derive(Debug)]
pub struct Node {
    pub address: Address,
    connector: Arc<Connector>,
    meters: Arc<Meters>,
    breaker: Breaker<Link>,
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    events: Arc<Semaphore>,
    /// Why the last attempt to connect failed.
    trouble: Mutex<Option<RedisError>>,
    /// Set after the first attempt.
    tried: watch::Sender<bool>,
    /// Rung when it begins or ceases to answer, and when the servers may be others by now.
    bell: Arc<Bell>,
}

/// A node, and the task that keeps its connection; ended with this.
#[derive(Debug)]
pub struct Kept {
    pub node: Arc<Node>,
    keeper: AbortHandle,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// Leave to write once.
#[derive(Debug)]
pub struct Writing<'a> {
    node: &'a Node,
    pass: Pass<Link>,
    _permit: OwnedSemaphorePermit,
}

impl Node {
    /// Begins to connect in the background.
    pub fn keep(address: Address, connector: Arc<Connector>, meters: Arc<Meters>, bell: Arc<Bell>) -> Kept {
        let options = connector.options();
        let node = Arc::new(Self {
            address,
            reads: Arc::new(Semaphore::new(options.reads_max)),
            writes: Arc::new(Semaphore::new(options.writes_max)),
            events: Arc::new(Semaphore::new(EVENTS_MAX)),
            breaker: Breaker::new(),
            trouble: Mutex::new(None),
            tried: watch::channel(false).0,
            connector,
            meters,
            bell,
        });
        let keeper = tokio::spawn(node.clone().connect_for_ever()).abort_handle();
        Kept { node, keeper }
    }

    async fn connect_for_ever(self: Arc<Self>) {
        let mut pause = Pause::default();
        // What was said is not said again.
        let (mut told_trouble, mut told_lack) = (None, false);
        loop {
            self.breaker.opened().await;
            pause.wait().await;
            match self.connector.link(&self.address).await {
                Ok(link) => {
                    Meters::count(&self.meters.connects);
                    let can = link.can;
                    if !std::mem::replace(&mut told_lack, true) {
                        if can.expiry == Expiry::Never && self.connector.options().ttl.is_some() {
                            tracing::warn!(redis = %self.address, "values never expire: it has no EXPIRE");
                        }
                        if !can.events {
                            tracing::warn!(redis = %self.address, "no events: it has no PUBLISH");
                        }
                    }
                    tracing::info!(redis = %self.address, ?can, "connected");
                    (told_trouble, *self.trouble.lock()) = (None, None);
                    self.breaker.close(link, pause.is_shaky());
                    self.bell.changed();
                    pause.worked();
                }
                Err(error) => {
                    Meters::count(&self.meters.connects_failed);
                    if told_trouble.as_ref() != Some(&error) {
                        tracing::warn!(%error, "redis is left out until it answers");
                        told_trouble = Some(error.clone());
                    }
                    *self.trouble.lock() = Some(error);
                    self.bell.look_again();
                }
            }
            self.tried.send_replace(true);
        }
    }

    /// Ends after the first attempt to connect.
    pub async fn tried(&self) -> Option<RedisError> {
        let _ = self.tried.subscribe().wait_for(|tried| *tried).await;
        self.trouble.lock().clone()
    }

    /// Whether it is asked at all.
    pub fn is_up(&self) -> bool {
        self.breaker.is_closed()
    }

    /// As it is now.
    pub fn status(&self) -> NodeStatus {
        NodeStatus {
            address: self.address.to_string(),
            up: self.breaker.pass().map(|pass| pass.link.can),
            trouble: self.trouble.lock().as_ref().map(ToString::to_string),
        }
    }

    /// The answers to so many reading commands, in order. An error that is about one value, not about the server
    /// (`WRONGTYPE`), is among them.
    pub async fn read(&self, commands: &Pipeline, count: usize) -> Result<Vec<Value>, RedisError> {
        let _permit = self.reads.try_acquire().map_err(|_| RedisError::Busy)?;
        let mut pass = self.breaker.pass().ok_or(RedisError::Open)?;
        let mut connection = pass.link.reads.clone();
        let call = connection.send_packed_commands(commands, 0, count);
        let values = self.call(&mut pass, call, self.connector.options().deadline).await?;
        match self.refusal(&values) {
            None => self.breaker.worked(),
            Some(error @ RedisError::Moved { .. }) => return Err(error),
            // A read that is refused is as useless as none, and takes as long as one that is not.
            Some(error) => {
                self.after(self.breaker.failed(&pass), &error);
                return Err(error);
            }
        }
        Ok(values)
    }

    /// Leave to write a block, at once or not at all.
    pub fn begin_write(&self) -> Result<Writing<'_>, RedisError> {
        self.begin(&self.writes)
    }

    /// Leave to publish an event, at once or not at all.
    pub fn begin_event(&self) -> Result<Writing<'_>, RedisError> {
        self.begin(&self.events)
    }

    fn begin(&self, places: &Arc<Semaphore>) -> Result<Writing<'_>, RedisError> {
        let pass = self.breaker.pass().ok_or(RedisError::Open)?;
        let permit = places.clone().try_acquire_owned().map_err(|_| RedisError::Busy)?;
        Ok(Writing { node: self, pass, _permit: permit })
    }

    /// Waits for the answer, until the deadline, or until others have found that there will be none.
    async fn call(
        &self,
        pass: &mut Pass<Link>,
        call: impl Future<Output = Result<Vec<Value>, ::redis::RedisError>>,
        deadline: Duration,
    ) -> Result<Vec<Value>, RedisError> {
        let answer = tokio::select! {
            biased;
            answer = call => answer,
            () = pass.opened() => return Err(RedisError::Open),
            () = tokio::time::sleep(deadline) => {
                let error = RedisError::TimedOut { address: self.address.clone(), after: deadline };
                self.after(self.breaker.failed(pass), &error);
                return Err(error);
            }
        };
        answer.map_err(|e| {
            let error = self.connector.error(&self.address, &e);
            // No answer but a lost connection: what comes back as an answer is among the values.
            self.after(self.breaker.broke(pass), &error);
            error
        })
    }

    /// The breaker was told of a failure.
    fn after(&self, opened: bool, error: &RedisError) {
        if opened {
            Meters::count(&self.meters.openings);
            tracing::debug!(%error, "redis is not asked until it answers again");
            self.bell.changed();
            self.bell.look_again();
        }
    }

    /// The first error among the answers that is one of the server.
    fn refusal(&self, values: &[Value]) -> Option<RedisError> {
        let refused = values.iter().find_map(|value| match value {
            Value::ServerError(e) if e.code() != "WRONGTYPE" => Some(e.clone()),
            _ => None,
        })?;
        let error = self.connector.error(&self.address, &refused.into());
        if matches!(error, RedisError::Moved { .. }) {
            Meters::count(&self.meters.moved);
            self.bell.look_again();
        }
        Some(error)
    }
}

impl Writing<'_> {
    /// Writes all values, each to expire after `ttl`.
    pub async fn set(self, values: &[(String, Vec<u8>)], ttl: Option<Duration>) -> Result<(), RedisError> {
        let mut commands = pipe();
        for (key, value) in values {
            let command = commands.cmd("SET").arg(key).arg(&value[..]);
            let Some(ttl) = ttl else { continue };
            let _ = match self.pass.link.can.expiry {
                Expiry::Milliseconds => command.arg("PX").arg(ttl.as_millis() as u64),
                Expiry::Seconds => command.arg("EX").arg(ttl.as_secs()),
                Expiry::Apart => commands.cmd("EXPIRE").arg(key).arg(ttl.as_secs()),
                Expiry::Never => command,
            };
        }
        self.send(commands).await.map(drop)
    }

    /// Deletes keys.
    pub async fn delete(self, keys: &[String]) -> Result<(), RedisError> {
        let mut commands = pipe();
        for key in keys {
            commands.cmd("DEL").arg(key);
        }
        self.send(commands).await.map(drop)
    }

    /// Passes a message on to all who listen.
    pub async fn publish(self, channel: &str, message: &[u8]) -> Result<(), RedisError> {
        if !self.pass.link.can.events {
            return Err(RedisError::Unsupported { address: self.node.address.clone(), what: "PUBLISH" });
        }
        let mut commands = pipe();
        commands.cmd("PUBLISH").arg(channel).arg(message);
        self.send(commands).await.map(drop)
    }

    async fn send(mut self, commands: Pipeline) -> Result<Vec<Value>, RedisError> {
        let mut connection = self.pass.link.writes.clone();
        let call = connection.send_packed_commands(&commands, 0, commands.len());
        let values =
            self.node.call(&mut self.pass, call, self.node.connector.options().write_deadline).await?;
        // A write that is refused (the server is full) is no reason not to read.
        match self.node.refusal(&values) {
            Some(error) => Err(error),
            None => Ok(values),
        }
    }
}
