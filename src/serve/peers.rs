//! Machines that meet at a Redis.
use super::shared::Heard;
use crate::cache::Tier;
use crate::error::Result;
use crate::redis::{Notice, RedisError, RedisOptions, RedisTier, Subscription};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// See the module.
pub struct Peers(Arc<RedisTier>);

/// Hears what they say of one topic.
pub struct Listener(Subscription);

impl Peers {
    /// At the Redis of this URL. One that does not answer is asked again later.
    ///
    /// # Errors
    /// The URL cannot be used.
    pub async fn open(url: &str) -> Result<Self> {
        let tier = RedisTier::open(RedisOptions::parse(url)?).await?;
        if let Err(error) = tier.ready().await {
            tracing::warn!(%error, "serving without redis until it answers");
        }
        Ok(Self(Arc::new(tier)))
    }

    /// The blocks that they share.
    pub fn tier(&self) -> Arc<dyn Tier> {
        self.0.clone()
    }

    /// Tells them this. It is a hint: nobody waits until it is heard, and it may be lost.
    pub async fn tell(&self, topic: &str, what: &(impl Serialize + Sync)) {
        if let Err(error) = self.0.publish(topic, what).await {
            tracing::debug!(%error, topic, "other machines could not be told of a change");
        }
    }

    /// What they say of this topic from now on.
    pub fn listen(&self, topic: &str) -> Listener {
        Listener(self.0.subscribe(topic))
    }
}

impl Listener {
    /// What is said next; what is not understood is passed over.
    ///
    /// # Errors
    /// Nothing will be heard any more.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Heard<T>, RedisError> {
        loop {
            match self.0.next().await? {
                Notice::Gap => return Ok(Heard::Gap),
                Notice::Event(event) => {
                    if let Ok(said) = serde_json::from_value(event.payload) {
                        return Ok(Heard::Said(said));
                    }
                }
            }
        }
    }
}
