//! [`Fleet`]: all servers, and which of them has what. A scout in the background asks who they are, and asks
//! again when a node fails or says that something has moved.
use super::bell::Bell;
use super::connect::Connector;
use super::error::RedisError;
use super::node::{Kept, Node};
use super::options::{Address, RedisOptions};
use super::pause::Pause;
use super::slots::Layout;
use super::stats::{Meters, RedisStatus};
use crate::sync::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// A cluster is asked at least so often how it is cut.
const LOOK_AT_LEAST: Duration = Duration::from_secs(60);
/// And not more often than this, whatever its nodes say.
const LOOK_AT_MOST: Duration = Duration::from_millis(500);

/// All servers.
#[derive(Debug)]
pub struct Fleet {
    shared: Arc<Shared>,
    scout: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    connector: Arc<Connector>,
    meters: Arc<Meters>,
    chart: Mutex<Option<Arc<Chart>>>,
    trouble: Mutex<Option<RedisError>>,
    /// Set after the first look.
    looked: watch::Sender<bool>,
    bell: Arc<Bell>,
}

/// Which server has what.
#[derive(Debug)]
struct Chart {
    layout: Layout,
    nodes: HashMap<Address, Arc<Kept>>,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.scout.abort();
    }
}

impl Fleet {
    /// Begins to look in the background.
    pub fn new(connector: Connector, meters: Arc<Meters>) -> Self {
        let shared = Arc::new(Shared {
            connector: Arc::new(connector),
            meters,
            chart: Mutex::new(None),
            trouble: Mutex::new(None),
            looked: watch::channel(false).0,
            bell: Arc::default(),
        });
        let scout = tokio::spawn(shared.clone().look_for_ever()).abort_handle();
        Self { shared, scout }
    }

    /// What it was told.
    pub fn options(&self) -> &RedisOptions {
        self.shared.connector.options()
    }

    /// Opens connections of other kinds.
    pub fn connector(&self) -> &Arc<Connector> {
        &self.shared.connector
    }

    /// The server of a slot, if it is known.
    pub fn node(&self, slot: u16) -> Option<Arc<Node>> {
        let chart = self.shared.chart.lock().clone()?;
        Some(chart.nodes.get(chart.layout.address(slot)?)?.node.clone())
    }

    /// Any server that answers.
    pub fn any(&self) -> Option<Arc<Node>> {
        let chart = self.shared.chart.lock().clone()?;
        chart.nodes.values().map(|kept| &kept.node).find(|node| node.is_up()).cloned()
    }

    /// Where somebody may answer, those first who did.
    pub fn addresses(&self) -> Vec<Address> {
        self.shared.addresses()
    }

    /// Ends when each server was tried once. Each attempt has its deadline.
    pub async fn ready(&self) -> Result<(), RedisError> {
        let _ = self.shared.looked.subscribe().wait_for(|looked| *looked).await;
        let chart = self.shared.chart.lock().clone();
        let Some(chart) = chart else {
            return Err(self.shared.trouble.lock().clone().unwrap_or(RedisError::Open));
        };
        for kept in chart.nodes.values() {
            if let Some(trouble) = kept.node.tried().await {
                return Err(trouble);
            }
        }
        Ok(())
    }

    /// Who wants to know when something changes.
    pub fn bell(&self) -> &Bell {
        &self.shared.bell
    }

    /// As it is now.
    pub fn status(&self) -> RedisStatus {
        let chart = self.shared.chart.lock().clone();
        let mut nodes: Vec<_> =
            chart.iter().flat_map(|chart| chart.nodes.values()).map(|kept| kept.node.status()).collect();
        nodes.sort_by(|a, b| a.address.cmp(&b.address));
        RedisStatus {
            cluster: chart.as_ref().map(|chart| matches!(chart.layout, Layout::Cluster(_))),
            nodes,
            trouble: self.shared.trouble.lock().as_ref().map(ToString::to_string),
            totals: self.shared.meters.totals(),
        }
    }
}

impl Shared {
    async fn look_for_ever(self: Arc<Self>) {
        let mut pause = Pause::default();
        let mut told = None;
        loop {
            pause.wait().await;
            match self.look().await {
                Ok(layout) => {
                    self.set(layout);
                    (told, *self.trouble.lock()) = (None, None);
                    // Whoever answers is believed: what fails after that is a node's own affair.
                    pause = Pause::default();
                    self.looked.send_replace(true);
                    self.bell.changed();
                    let _timeout = tokio::time::timeout(LOOK_AT_LEAST, self.bell.asked()).await;
                    tokio::time::sleep(LOOK_AT_MOST).await;
                }
                Err(error) => {
                    if told.as_ref() != Some(&error) {
                        tracing::warn!(%error, "redis is left out until it answers");
                        told = Some(error.clone());
                    }
                    *self.trouble.lock() = Some(error);
                    self.looked.send_replace(true);
                }
            }
        }
    }

    fn addresses(&self) -> Vec<Address> {
        let mut addresses = Vec::new();
        let chart = self.chart.lock().clone();
        if let Some(chart) = &chart {
            let (up, down): (Vec<_>, Vec<_>) = chart.nodes.values().partition(|kept| kept.node.is_up());
            addresses.extend([up, down].concat().iter().map(|kept| kept.node.address.clone()));
        }
        for address in &self.connector.options().servers {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        addresses
    }

    /// Asks one after the other until somebody says who the servers are.
    async fn look(&self) -> Result<Layout, RedisError> {
        let chart = self.chart.lock().clone();
        if let Some(chart) = &chart
            && let Layout::Single(address) = &chart.layout
            && chart.nodes.get(address).is_some_and(|kept| kept.node.is_up())
        {
            return Ok(chart.layout.clone());
        }
        drop(chart);
        let mut failure = None;
        for address in self.addresses() {
            let found = match self.connector.cluster_slots(&address).await {
                Ok(None) => return Ok(Layout::Single(address)),
                Ok(Some(answer)) => {
                    Layout::parse(&answer, &address).filter(|layout| !layout.addresses().is_empty())
                }
                Err(error) => {
                    failure.get_or_insert(error);
                    continue;
                }
            };
            match found {
                Some(layout) => return Ok(layout),
                None => {
                    let message = "it is a node of a cluster, and no slot is anybody's".into();
                    failure.get_or_insert(RedisError::Refused { address, message });
                }
            }
        }
        Err(failure.unwrap_or(RedisError::Open))
    }

    /// Servers that stay keep their connections; those that have gone are let go.
    fn set(&self, layout: Layout) {
        let mut chart = self.chart.lock();
        if chart.as_ref().is_some_and(|chart| chart.layout == layout) {
            return;
        }
        tracing::info!(servers = layout.addresses().len(), "redis is laid out anew");
        let nodes = layout.addresses().into_iter().cloned().map(|address| {
            let kept = chart.as_ref().and_then(|chart| chart.nodes.get(&address).cloned());
            let kept = kept.unwrap_or_else(|| {
                let (connector, meters) = (self.connector.clone(), self.meters.clone());
                Arc::new(Node::keep(address.clone(), connector, meters, self.bell.clone()))
            });
            (address, kept)
        });
        let nodes = nodes.collect();
        *chart = Some(Arc::new(Chart { layout, nodes }));
    }
}
