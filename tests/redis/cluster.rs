//! A cluster of three nodes.
use crate::common::BLOCK;
use crate::harness::{LIMIT, eventually, run};
use crate::server::{Machine, Server, await_up, tier};
use std::process::Command;

const SIZE: u64 = 60 * BLOCK;

/// A machine that has read the whole object, and everything is in the cluster.
async fn filled(seed_node: &Server) -> Machine {
    let machine = Machine::new(tier(&seed_node.url()).await).await;
    await_up(&machine.tier).await;
    for block in 0..60 {
        machine.read(1, SIZE, block * BLOCK..(block + 1) * BLOCK).await;
        machine.await_writes(block + 1).await;
    }
    machine
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_are_spread_over_the_nodes_and_found_from_any_of_them() {
    let nodes = Server::cluster();
    let first = filled(&nodes[0]).await;
    let status = first.tier.status();
    assert_eq!((status.cluster, status.nodes.len(), status.totals.moved), (Some(true), 3, 0));
    let keys = nodes.each_ref().map(|node| node.keys().len());
    assert!(
        keys.iter().all(|keys| *keys > 0 && keys % 4 == 0),
        "the parts of a block are together: {keys:?}"
    );
    assert_eq!(keys.iter().sum::<usize>(), 240);

    let second = Machine::new(tier(&nodes[2].url()).await).await;
    second.read(1, SIZE, 0..SIZE).await;
    assert_eq!((second.source.fetches(), second.tier.status().totals.hits), (0, 60));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed_takes_only_its_own_blocks_with_it() {
    let mut nodes = Server::cluster();
    drop(filled(&nodes[0]).await);
    let lost = nodes[1].keys().len() as u64 / 4;
    let machine = Machine::new(tier(&nodes[0].url()).await).await;
    await_up(&machine.tier).await;
    nodes[1].kill();
    for block in 0..60 {
        machine.read(1, SIZE, block * BLOCK..(block + 1) * BLOCK).await;
    }
    let totals = machine.tier.status().totals;
    assert_eq!((totals.hits, u64::from(machine.source.fetches())), (60 - lost, lost), "{totals:?}");
    // It comes back, empty, and takes its part again.
    nodes[1].restart();
    eventually("the cluster to be well", LIMIT, || {
        nodes[1].cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok").then_some(())
    });
    await_up(&machine.tier).await;
    let coming_back = async {
        while nodes[1].keys().is_empty() {
            let again = Machine::new(machine.tier.clone()).await;
            again.read(1, SIZE, 0..SIZE).await;
        }
    };
    tokio::time::timeout(LIMIT, coming_back).await.expect("blocks are on it again");
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_that_move_are_found_where_they_are() {
    let nodes = Server::cluster();
    let first = filled(&nodes[0]).await;
    let id = |node: &Server| node.cli(&["CLUSTER", "MYID"]);
    let mut reshard = Command::new("redis-cli");
    reshard.args(["--cluster", "reshard", &format!("127.0.0.1:{}", nodes[0].port), "--cluster-yes"]);
    reshard.args(["--cluster-from", &id(&nodes[0]), "--cluster-to", &id(&nodes[1])]);
    reshard.args(["--cluster-slots", "5461", "--cluster-pipeline", "100"]);
    run(&mut reshard, LIMIT * 5).must("moving all slots of a node");
    assert_eq!(nodes[0].keys().len(), 0);

    // Who knew the old places is told, and looks again. What is read meanwhile is a miss.
    let machine = Machine::new(first.tier.clone()).await;
    let mut looks = first.tier.watch();
    let finding = async {
        loop {
            looks.mark_unchanged();
            let before = first.tier.status().totals.hits;
            let again = Machine::new(first.tier.clone()).await;
            again.read(1, SIZE, 0..SIZE).await;
            if first.tier.status().totals.hits - before == 60 {
                break;
            }
            assert!(first.tier.status().totals.moved > 0, "nobody said so");
            looks.changed().await.unwrap();
        }
    };
    tokio::time::timeout(2 * LIMIT, finding).await.expect("it looks again");
    assert_eq!(first.tier.status().totals.openings, 0);
    machine.read(1, SIZE, 0..SIZE).await;
    assert_eq!(machine.source.fetches(), 0);
}
