//! Servers that are gone, stalled, full, or have something else than what was written.
use crate::common::{BLOCK, content, object};
use crate::harness::{LIMIT, eventually};
use crate::proxy::Proxy;
use crate::server::{Machine, Server, await_status, await_up, connected, free_port, options, tier};
use bytes::Bytes;
use icecache::cache::Tier;
use icecache::error::ErrorKind;
use icecache::redis::{RedisOptions, RedisTier};
use std::time::Duration;

/// With a deadline that is to be missed.
fn impatient(url: &str) -> RedisOptions {
    let mut options = options(url);
    options.deadline = Duration::from_millis(50);
    options.connect_deadline = Duration::from_secs(1);
    options
}

/// Writes a block, until it is there.
async fn keep(tier: &RedisTier, seed: u64) {
    await_up(tier).await;
    tier.put(&object(seed, BLOCK), 0..BLOCK, content(seed, 0..BLOCK).into()).await.unwrap();
}

/// Reads a block until it is a hit. A machine that is slow misses an impatient deadline now and then, each of which is
/// waited for; a server that is left out says when it is back.
async fn await_hit(tier: &RedisTier, seed: u64) {
    let hit = async {
        loop {
            if let Ok(Some(bytes)) = tier.get(&object(seed, BLOCK), 0..BLOCK).await {
                break bytes;
            }
            await_up(tier).await;
        }
    };
    let bytes = tokio::time::timeout(2 * LIMIT, hit).await.expect("a hit");
    assert!(bytes == content(seed, 0..BLOCK));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_yet_is_used_when_it_comes() {
    let mut server = Server::start(&[]);
    server.kill();
    let machine = Machine::new(RedisTier::open(impatient(&server.url())).await.unwrap()).await;
    let error = machine.tier.ready().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    machine.read(1, 9 * BLOCK, 0..9 * BLOCK).await;
    let totals = machine.tier.status().totals;
    assert_eq!((machine.source.fetches(), totals.skipped, totals.timed_out), (9, 9, 0), "{totals:?}");
    server.restart();
    keep(&machine.tier, 2).await;
    await_hit(&machine.tier, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_in_mid_use_costs_no_reader_anything_but_its_hits() {
    let mut server = Server::start(&[]);
    let first = Machine::new(tier(&server.url()).await).await;
    let size = 60 * BLOCK;
    let reading = async {
        for block in 0..60 {
            first.read(1, size, block * BLOCK..(block + 1) * BLOCK).await;
        }
    };
    let killing = async {
        first.await_writes(5).await;
        server.kill();
    };
    tokio::join!(reading, killing);
    assert_eq!(first.source.fetches(), 60);
    await_status(&first.tier, "its end to be noticed", |status| status.nodes[0].up.is_none()).await;
    server.restart();
    keep(&first.tier, 2).await;
    await_hit(&first.tier, 2).await;
    assert!(first.tier.status().totals.connects >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_server_is_waited_for_by_the_first_readers_only() {
    let server = Server::start(&[]);
    let machine = Machine::new(RedisTier::open(impatient(&server.url())).await.unwrap()).await;
    keep(&machine.tier, 1).await;
    server.freeze();
    // Readers one by one: each may wait, until the breaker has opened.
    let size = 200 * BLOCK;
    let mut block = 0;
    while machine.tier.status().nodes[0].up.is_some() {
        machine.read(9, size, block * BLOCK..(block + 1) * BLOCK).await;
        block += 1;
    }
    let before = machine.tier.status().totals;
    assert!(before.openings >= 1 && block <= 20, "{block} {before:?}");
    // From here on nobody waits: it cannot answer, so it cannot be let in again.
    machine.read(9, size, block * BLOCK..size).await;
    let after = machine.tier.status().totals;
    assert_eq!(
        (after.timed_out, after.skipped - before.skipped),
        (before.timed_out, 200 - block),
        "{after:?}"
    );
    assert_eq!(u64::from(machine.source.fetches()), 200);
    server.thaw();
    await_hit(&machine.tier, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_dead_without_a_sign_is_replaced() {
    let server = Server::start(&[]);
    let proxy = Proxy::to(server.port).await;
    let tier = RedisTier::open(impatient(&proxy.url())).await.unwrap();
    keep(&tier, 1).await;
    await_hit(&tier, 1).await;
    let connects = tier.status().totals.connects;
    proxy.stall();
    await_hit(&tier, 1).await;
    assert!(tier.status().totals.connects > connects);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_reads_are_under_way_than_permitted() {
    let server = Server::start(&[]);
    let tier = connected({
        let mut options = options(&server.url());
        options.reads_max = 2;
        options
    })
    .await;
    server.freeze();
    let mut reads: Vec<_> = (0..3)
        .map(|n| {
            let tier = tier.clone();
            tokio::spawn(async move { tier.get(&object(n, BLOCK), 0..BLOCK).await })
        })
        .collect();
    // One of them is told at once; the others wait, as long as their deadline permits.
    let (first, _, rest) = futures::future::select_all(reads.drain(..)).await;
    assert!(first.unwrap().unwrap_err().message.contains("under way"));
    server.thaw();
    for read in rest {
        assert_eq!(read.await.unwrap(), Ok(None));
    }
    let totals = tier.status().totals;
    assert_eq!((totals.shed, totals.misses), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_is_not_what_was_written_is_a_miss_and_deleted() {
    let server = Server::start(&[]);
    let tier = tier(&server.url()).await;
    let id = object(1, BLOCK);
    tier.put(&object(2, BLOCK), 0..BLOCK, content(2, 0..BLOCK).into()).await.unwrap();
    let others = server.keys();
    let spoil = |key: &str, n: u64| {
        match n {
            0 => server.cli(&["SET", key, "rubbish"]),
            1 => server.cli(&["SETRANGE", key, "100", "x"]),
            2 => server.cli(&["SETRANGE", key, "9", "x"]),
            3 => server.cli(&["APPEND", key, "x"]),
            4 => server.cli(&["SET", key, ""]),
            // What is right under another key.
            5 => server.cli(&["COPY", &others[0], key, "REPLACE"]),
            // Something that is no text at all.
            _ => {
                server.cli(&["DEL", key]);
                server.cli(&["RPUSH", key, "a", "b"])
            }
        };
    };
    for n in 0..7 {
        tier.put(&id, 0..BLOCK, content(1, 0..BLOCK).into()).await.unwrap();
        assert_eq!(tier.get(&id, 0..BLOCK).await.unwrap(), Some(Bytes::from(content(1, 0..BLOCK))));
        let ours: Vec<_> = server.keys().into_iter().filter(|key| !others.contains(key)).collect();
        assert_eq!(ours.len(), 4);
        spoil(&ours[(n % 4) as usize], n);
        assert_eq!(tier.get(&id, 0..BLOCK).await, Ok(None), "way {n}");
        assert_eq!(tier.status().totals.corrupt, n + 1);
        eventually("it to be deleted", LIMIT, || (server.keys() == others).then_some(()));
    }
    // A part that is missing is no damage.
    tier.put(&id, 0..BLOCK, content(1, 0..BLOCK).into()).await.unwrap();
    let ours: Vec<_> = server.keys().into_iter().filter(|key| !others.contains(key)).collect();
    server.cli(&["DEL", &ours[2]]);
    assert_eq!(tier.get(&id, 0..BLOCK).await, Ok(None));
    let totals = tier.status().totals;
    assert_eq!((totals.corrupt, totals.openings), (7, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_keeps_nothing_more_and_is_read_all_the_same() {
    let server = Server::start(&["--maxmemory-policy", "noeviction"]);
    let machine = Machine::new(tier(&server.url()).await).await;
    keep(&machine.tier, 1).await;
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    for seed in 2..12 {
        let refused = machine.tier.put(&object(seed, BLOCK), 0..BLOCK, content(seed, 0..BLOCK).into()).await;
        assert!(refused.unwrap_err().message.contains("maxmemory"));
    }
    machine.read(1, BLOCK, 0..BLOCK).await;
    let totals = machine.tier.status().totals;
    assert_eq!((machine.source.fetches(), totals.hits, totals.openings), (0, 1, 0));
    assert_eq!(totals.not_written, 10);
    // Who comes now finds it full, and reads.
    let second = Machine::new(tier(&server.url()).await).await;
    second.read(1, BLOCK, 0..BLOCK).await;
    assert_eq!(second.source.fetches(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_servers_the_first_that_answers_is_used() {
    let server = Server::start(&[]);
    let url = format!("redis://127.0.0.1:{},127.0.0.1:{}", free_port(), server.port);
    let machine = Machine::new(tier(&url).await).await;
    machine.read(1, BLOCK, 0..BLOCK).await;
    machine.await_writes(1).await;
    let status = machine.tier.status();
    assert_eq!(status.cluster, Some(false));
    let addresses: Vec<_> = status.nodes.iter().map(|node| node.address.as_str()).collect();
    assert_eq!(addresses, [format!("127.0.0.1:{}", server.port)]);
}
