use super::*;
use crate::cache::config::Admission;
use crate::clock::Clock;
use crate::sync::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn unit(n: u64) -> Unit {
    Unit { generation: n, block: WHOLE }
}

fn facts(n: u64) -> Facts {
    Facts { bytes: 4096, cost_us: 1000, hits: 0, fingerprint: n, now: 1000 }
}

/// What a policy makes of a trace with room for `room` units: the part of hits. Each content is admitted
/// under a new generation each time, as the cache does it.
fn hit_ratio(kind: PolicyKind, trace: &[u64], room: usize) -> f64 {
    let mut policy = kind.build();
    let mut there: HashMap<u64, (Unit, u32)> = HashMap::new();
    let mut content: HashMap<Unit, u64> = HashMap::new();
    let (mut hits, mut generation) = (0_u32, 0);
    for (now, &n) in trace.iter().enumerate() {
        let facts = Facts { now: now as u64 / 100, ..facts(n) };
        if let Some((unit, uses)) = there.get_mut(&n) {
            hits += 1;
            *uses += 1;
            policy.touched(*unit, Facts { hits: *uses, ..facts });
            continue;
        }
        if there.len() == room {
            let victim = policy.victim().expect("somebody goes");
            let gone = content.remove(&victim).expect("it was there");
            there.remove(&gone);
        }
        generation += 1;
        policy.admitted(unit(generation), facts);
        there.insert(n, (unit(generation), 0));
        content.insert(unit(generation), n);
        assert_eq!(policy.len(), there.len());
    }
    f64::from(hits) / trace.len() as f64
}

/// A hot set of 50 asked for again and again, and between that a scan over what is asked for once.
fn scanned() -> Vec<u64> {
    let mut scan = 1_000_000;
    let mut trace = Vec::new();
    for round in 0..200 {
        trace.extend((0..50).map(|n| (n * 7 + round) % 50));
        trace.extend(scan..scan + 100);
        scan += 100;
    }
    trace
}

#[test]
fn lru_forgets_what_was_not_used_for_longest() {
    let mut policy = PolicyKind::Lru.build();
    for n in 0..3 {
        policy.admitted(unit(n), facts(n));
    }
    policy.touched(unit(0), facts(0));
    policy.removed(unit(1));
    assert_eq!([policy.victim(), policy.victim(), policy.victim()], [Some(unit(2)), Some(unit(0)), None]);
}

#[test]
fn every_policy_gives_each_unit_once_and_knows_no_others() {
    for kind in PolicyKind::ALL {
        let mut policy = kind.build();
        for n in 0..100 {
            policy.admitted(unit(n), facts(n));
            policy.touched(unit(n / 2), Facts { hits: 1, ..facts(n / 2) });
            policy.touched(unit(1000 + n), facts(n));
        }
        policy.removed(unit(50));
        policy.removed(unit(5000));
        policy.kept(unit(200), facts(200));
        assert_eq!(policy.len(), 100, "{kind:?}");
        let mut all: Vec<_> = std::iter::from_fn(|| policy.victim()).map(|u| u.generation).collect();
        all.sort_unstable();
        let expected: Vec<_> = (0..50).chain(51..100).chain([200]).collect();
        assert_eq!(all, expected, "{kind:?}");
        assert!(policy.is_empty());
    }
}

#[test]
fn a_scan_does_not_push_out_what_is_hot_with_s3_fifo() {
    let trace = scanned();
    let (lru, s3) = (hit_ratio(PolicyKind::Lru, &trace, 100), hit_ratio(PolicyKind::S3Fifo, &trace, 100));
    assert!(lru < 0.01, "the scan is longer than the room: {lru}");
    assert!(s3 > 0.25, "a third of the trace is hot: {s3}");
}

#[test]
fn the_cheap_goes_before_the_dear_and_the_large_before_the_small() {
    let mut policy = PolicyKind::CostBased.build();
    policy.admitted(unit(1), Facts { cost_us: 100_000, ..facts(1) });
    policy.admitted(unit(2), Facts { cost_us: 1_000, ..facts(2) });
    policy.admitted(unit(3), Facts { cost_us: 100_000, bytes: 1 << 20, ..facts(3) });
    let order: Vec<_> = std::iter::from_fn(|| policy.victim()).map(|u| u.generation).collect();
    assert_eq!(order, [3, 2, 1]);
}

#[test]
fn what_was_dear_once_is_overtaken_in_the_end() {
    let mut policy = PolicyKind::CostBased.build();
    policy.admitted(unit(0), Facts { cost_us: 50_000, ..facts(0) });
    for n in 1..1000 {
        policy.admitted(unit(n), Facts { cost_us: 1_000, ..facts(n) });
        if policy.victim() == Some(unit(0)) {
            return;
        }
    }
    panic!("it stays for ever");
}

#[test]
fn a_time_to_live_follows_the_use() {
    let mut policy = PolicyKind::AdaptiveTtl.build();
    policy.admitted(unit(1), Facts { now: 0, ..facts(1) });
    policy.admitted(unit(2), Facts { now: 0, ..facts(2) });
    // Once an hour: it stays for several hours after.
    for hour in 1..6 {
        policy.touched(unit(1), Facts { now: hour * 3600 - 1, hits: hour as u32, ..facts(1) });
    }
    assert_eq!(policy.expired(adaptive::FIRST_SECONDS), None);
    assert_eq!(policy.expired(adaptive::FIRST_SECONDS + 1), Some(unit(2)));
    assert_eq!(policy.expired(10 * 3600), None);
    assert_eq!(policy.expired(30 * 24 * 3600), Some(unit(1)));
}

#[derive(Debug)]
struct ByHand(Mutex<Instant>);

impl Clock for ByHand {
    fn now(&self) -> Instant {
        *self.0.lock()
    }
}

#[test]
fn the_gate_lets_in_a_seconds_worth_a_second() {
    let clock = Arc::new(ByHand(Mutex::new(Instant::now())));
    let rules = Admission { max_entry_bytes: Some(500), write_bytes_per_second: Some(1000) };
    let gate = Gate::new(rules, 400, clock.clone());
    assert_eq!(gate.size(400), Ok(()));
    assert_eq!(gate.size(401), Err(admission::Refusal::Size), "the cache holds no more");
    assert_eq!(gate.write(600), Ok(()));
    assert_eq!(gate.write(600), Err(admission::Refusal::Rate));
    *clock.0.lock() += Duration::from_millis(200);
    assert_eq!(gate.write(600), Ok(()));
    *clock.0.lock() += Duration::from_secs(60);
    assert_eq!(gate.write(5000), Ok(()), "it is paid for afterwards");
    *clock.0.lock() += Duration::from_millis(3900);
    assert_eq!(gate.write(1), Err(admission::Refusal::Rate));
    *clock.0.lock() += Duration::from_millis(200);
    assert_eq!(gate.write(1), Ok(()));
    gate.written(2000);
    *clock.0.lock() += Duration::from_millis(1900);
    assert_eq!(gate.write(1), Err(admission::Refusal::Rate), "of a stream, too");
    assert_eq!(gate.object(401), Ok(()), "of an object there may be a part");
    assert_eq!(gate.object(501), Err(admission::Refusal::Size));
}

/// After a restart all are admitted once more, with the uses that the journal has kept.
#[test]
fn what_was_used_is_no_newcomer_after_a_restart() {
    let mut policy = PolicyKind::S3Fifo.build();
    for n in 0..10 {
        policy.admitted(unit(n), Facts { hits: 4, ..facts(n) });
    }
    for n in 10..25 {
        policy.admitted(unit(n), facts(n));
    }
    // Of the newcomers a tenth may stay.
    let first: Vec<_> = (0..14).map(|_| policy.victim().expect("somebody goes").generation).collect();
    assert!(first.iter().all(|n| *n >= 10), "{first:?}");

    let mut policy = PolicyKind::AdaptiveTtl.build();
    let now = 1_700_000_000;
    policy.admitted(unit(1), Facts { hits: 64, now, ..facts(1) });
    policy.admitted(unit(2), Facts { now, ..facts(2) });
    assert_eq!(policy.expired(now + adaptive::FIRST_SECONDS), None, "nobody's time is over at once");
    assert_eq!(policy.expired(now + adaptive::FIRST_SECONDS + 1), Some(unit(2)));
    assert_eq!(policy.expired(now + 8 * 3600), None, "it was used often");
}
