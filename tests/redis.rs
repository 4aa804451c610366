//! The tier of the cache in Redis, against real servers that the tests start: alone, with a password, with TLS,
//! as a cluster; killed, stalled, full, and with wrong values in it. And against a small server that lacks
//! commands.
#![cfg(feature = "redis")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)] // a test may panic
#[path = "redis/cluster.rs"]
mod cluster;
#[path = "cache/common.rs"]
#[allow(dead_code)]
mod common;
#[path = "redis/events.rs"]
mod events;
#[path = "redis/faults.rs"]
mod faults;
mod harness;
#[path = "redis/lacking.rs"]
mod lacking;
#[path = "redis/proxy.rs"]
mod proxy;
#[path = "redis/serve.rs"]
mod serve;
#[path = "redis/server.rs"]
mod server;
#[path = "redis/single.rs"]
mod single;
