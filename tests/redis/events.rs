//! Events between machines.
use crate::harness::LIMIT;
use crate::proxy::Proxy;
use crate::server::{Server, await_up, connected, options, tier};
use icecache::redis::{Event, Notice, RedisError, RedisTier, Subscription};
use serde_json::json;
use std::time::Duration;

async fn next(subscription: &mut Subscription) -> Notice {
    tokio::time::timeout(LIMIT, subscription.next()).await.expect("a notice").unwrap()
}

async fn event(subscription: &mut Subscription) -> Event {
    match next(subscription).await {
        Notice::Event(event) => event,
        Notice::Gap => panic!("a gap"),
    }
}

/// Publishes until it is taken; a server that has just come back may not be connected yet.
async fn publish(tier: &RedisTier, topic: &str, payload: &serde_json::Value) {
    let publishing = async {
        while tier.publish(topic, payload).await.is_err() {
            await_up(tier).await;
        }
    };
    tokio::time::timeout(LIMIT, publishing).await.expect("published");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_machine_says_all_who_listen_hear_in_order() {
    let server = Server::start(&[]);
    let (here, there) = (tier(&server.url()).await, tier(&server.url()).await);
    let (mut all, mut tables) = (here.subscribe(""), there.subscribe("tables/"));
    assert_eq!((next(&mut all).await, next(&mut tables).await), (Notice::Gap, Notice::Gap));
    here.publish("other", &1).await.unwrap();
    for n in 0..100 {
        there.publish("tables/a", &json!({ "snapshot": n })).await.unwrap();
    }
    // Whatever else comes on the channel is nothing to us.
    server.cli(&["PUBLISH", "icecache:events", "rubbish"]);
    server.cli(&["PUBLISH", "icecache:events", r#"{"v":2,"topic":"tables/a"}"#]);
    here.publish("tables/end", &json!(null)).await.unwrap();

    assert_eq!(event(&mut all).await.topic, "other");
    let mut from = None;
    for subscription in [&mut all, &mut tables] {
        for n in 0..100 {
            let event = event(subscription).await;
            assert_eq!((event.topic.as_str(), &event.payload["snapshot"]), ("tables/a", &json!(n)));
            assert_eq!(*from.get_or_insert(event.from), event.from);
        }
        let end = event(subscription).await;
        assert_eq!(end.topic, "tables/end");
        assert_ne!(Some(end.from), from);
    }
    let large = "x".repeat(100 << 10);
    assert!(matches!(here.publish("t", &large).await, Err(RedisError::TooLarge { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_of_the_server_there_is_a_gap_and_then_events_again() {
    let mut server = Server::start(&[]);
    let tier = tier(&server.url()).await;
    let mut listener = tier.subscribe("");
    assert_eq!(next(&mut listener).await, Notice::Gap);
    tier.publish("t", &json!(1)).await.unwrap();
    assert_eq!(event(&mut listener).await.payload, json!(1));
    server.kill();
    server.restart();
    assert_eq!(next(&mut listener).await, Notice::Gap);
    publish(&tier, "t", &json!(2)).await;
    assert_eq!(event(&mut listener).await.payload, json!(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_dead_without_a_sign_is_a_gap() {
    let server = Server::start(&[]);
    let proxy = Proxy::to(server.port).await;
    let mut options = options(&proxy.url());
    options.heartbeat = Duration::from_millis(20);
    options.connect_deadline = Duration::from_secs(1);
    options.write_deadline = Duration::from_millis(100);
    options.deadline = Duration::from_millis(100);
    let tier = RedisTier::open(options).await.unwrap();
    let mut listener = tier.subscribe("");
    assert_eq!(next(&mut listener).await, Notice::Gap);
    proxy.stall();
    assert_eq!(next(&mut listener).await, Notice::Gap);
    // Somebody else, because the connection to publish through is dead as well.
    let other = connected(crate::server::options(&server.url())).await;
    other.publish("t", &json!(1)).await.unwrap();
    loop {
        // A slow machine may take a live connection for dead.
        match next(&mut listener).await {
            Notice::Event(event) => break assert_eq!(event.payload, json!(1)),
            Notice::Gap => other.publish("t", &json!(1)).await.unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_cluster_it_does_not_matter_at_which_node_who_is() {
    let nodes = Server::cluster();
    let mut listeners = Vec::new();
    let mut tiers = Vec::new();
    for node in &nodes {
        let tier = tier(&node.url()).await;
        let mut listener = tier.subscribe("");
        assert_eq!(next(&mut listener).await, Notice::Gap);
        listeners.push(listener);
        tiers.push(tier);
    }
    for (n, tier) in tiers.iter().enumerate() {
        publish(tier, "t", &json!(n)).await;
        for listener in &mut listeners {
            assert_eq!(event(listener).await.payload, json!(n));
        }
    }
}
