//! One server: what it is for, who may, and what lies in it.
use crate::common::{BLOCK, content, object, place};
use crate::server::{Certificates, Machine, Server, connected, options, query, tier};
use bytes::Bytes;
use icecache::cache::Tier;
use icecache::error::ErrorKind;
use icecache::redis::{Expiry, RedisError, RedisOptions, RedisTier};

#[tokio::test(flavor = "multi_thread")]
async fn what_one_machine_has_read_costs_the_next_one_no_request_to_the_origin() {
    let server = Server::start(&[]);
    let size = 20 * BLOCK + 777;
    let first = Machine::new(tier(&server.url()).await).await;
    for block in 0..21 {
        let end = (block * BLOCK + BLOCK).min(size);
        first.read(1, size, block * BLOCK..end).await;
        // One at a time, so that none is left out because too many are under way.
        first.await_writes(block + 1).await;
    }
    assert_eq!(first.source.fetches(), 21);

    let second = Machine::new(tier(&server.url()).await).await;
    second.read(1, size, 0..size).await;
    assert_eq!(second.source.fetches(), 0);
    let totals = second.tier.status().totals;
    assert_eq!((totals.hits, totals.misses, totals.corrupt, totals.bytes_read), (21, 0, 0, size));

    // Another version of the same object is another object.
    let third = Machine::new(tier(&server.url()).await).await;
    third.read(2, size, 0..BLOCK).await;
    assert_eq!((third.source.fetches(), third.tier.status().totals.misses), (1, 1));
    // So is everything in another namespace.
    let other = Machine::new(tier(&format!("{}?namespace=other", server.url())).await).await;
    other.read(1, size, 0..BLOCK).await;
    assert_eq!(other.source.fetches(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_small_expire_and_are_compressed_if_that_pays() {
    let server = Server::start(&[]);
    let tier = tier(&format!("{}/2?namespace=team-7&ttl=1h", server.url())).await;
    let (text, noise) = (b"again and again ".repeat(4096), content(1, 0..BLOCK));
    for (tag, bytes) in [(1, &text), (2, &noise)] {
        let before = tier.status().totals.bytes_stored;
        let id = object(tag, BLOCK);
        tier.put(&id, 0..BLOCK, bytes.clone().into()).await.unwrap();
        assert_eq!(tier.get(&id, 0..BLOCK).await.unwrap().as_deref(), Some(&bytes[..]));
        let stored = tier.status().totals.bytes_stored - before;
        assert_eq!(stored < BLOCK / 4, tag == 1, "{stored} bytes");
        assert!(stored <= BLOCK + 4 * 49);
    }
    let in_two = |args: &[&str]| server.cli(&[&["-n", "2"], args].concat());
    let keys: Vec<_> = in_two(&["KEYS", "*}:*"]).lines().map(str::to_owned).collect();
    assert_eq!(keys.len(), 8, "four chunks for each block: {keys:?}");
    for key in keys {
        assert!(key.starts_with("team-7:1:{"), "{key}");
        let left: u64 = in_two(&["PTTL", &key]).parse().unwrap();
        assert!((1..=3_600_000).contains(&left), "{key}: {left}");
    }
    let mut forever = options(&server.url());
    forever.ttl = None;
    let forever = connected(forever).await;
    forever.put(&object(3, 9), 0..9, Bytes::from_static(b"for ever.")).await.unwrap();
    assert_eq!(server.cli(&["PTTL", &server.keys()[0]]), "-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_larger_than_it_may_be_is_not_kept() {
    let server = Server::start(&[]);
    let tier = tier(&format!("{}?max=32KiB", server.url())).await;
    let bytes = Bytes::from(content(1, 0..BLOCK));
    tier.put(&object(1, BLOCK), 0..BLOCK, bytes).await.unwrap();
    assert_eq!(tier.get(&object(1, BLOCK), 0..BLOCK).await, Ok(None));
    assert_eq!((tier.status().totals.writes, server.keys().len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_needed_and_shown_nowhere() {
    let server =
        Server::with(&["--requirepass", "correct horse"], &["-a", "correct horse", "--no-auth-warning"]);
    for (wrong, secret) in [(":hunter2@", "hunter2"), ("nobody:hunter2@", "hunter2"), ("", "correct horse")] {
        let url = format!("redis://{wrong}127.0.0.1:{}", server.port);
        let refused = RedisTier::open(options(&url)).await.unwrap();
        let error = refused.ready().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        let shown = format!("{error} {error:?} {refused:?} {:?}", refused.status());
        assert!(!shown.contains(secret), "{shown}");
        // Readers go on without it.
        let machine = Machine::new(refused).await;
        machine.read(1, BLOCK, 0..BLOCK).await;
        assert_eq!(machine.source.fetches(), 1);
    }
    let url = format!("redis://:correct%20horse@127.0.0.1:{}", server.port);
    let tier = tier(&url).await;
    tier.put(&object(1, 4), 0..4, Bytes::from_static(b"four")).await.unwrap();
    assert_eq!(tier.get(&object(1, 4), 0..4).await.unwrap().as_deref(), Some(&b"four"[..]));
    assert!(!format!("{tier:?}").contains("horse"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_needs_no_more_than_these_rights() {
    let server = Server::start(&[]);
    let rights = ["~icecache:*", "&icecache:*", "+get", "+set", "+del", "+publish", "+subscribe", "+ping"];
    server.cli(&[&["ACL", "SETUSER", "cacher", "on", ">secret"], &rights[..]].concat());
    let url = format!("redis://cacher:secret@127.0.0.1:{}", server.port);
    let tier = tier(&url).await;
    tier.put(&object(1, 4), 0..4, Bytes::from_static(b"four")).await.unwrap();
    assert_eq!(tier.get(&object(1, 4), 0..4).await.unwrap().as_deref(), Some(&b"four"[..]));
    let up = tier.status().nodes[0].up.unwrap();
    assert_eq!((up.expiry, up.events), (Expiry::Milliseconds, true));
    tier.publish("t", &1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_spoken_with_whom_the_authority_vouches_for() {
    let made = Certificates::make();
    let [cert, key, ca] = ["redis.pem", "redis.key", "ca.pem"].map(|name| query(&made.path(name)));
    let tls = ["--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file", &ca];
    let server =
        Server::with(&[&tls[..], &["--tls-auth-clients", "no"]].concat(), &["--tls", "--cacert", &ca]);
    let url = format!("rediss://127.0.0.1:{}", server.port);
    let machine = Machine::new(tier(&format!("{url}?ca={ca}")).await).await;
    machine.read(1, BLOCK, 0..BLOCK).await;
    machine.await_writes(1).await;
    let second = Machine::new(tier(&format!("{url}?ca={ca}")).await).await;
    second.read(1, BLOCK, 0..BLOCK).await;
    assert_eq!((second.source.fetches(), server.keys().len()), (0, 4));

    // The authorities of the system do not know it.
    let stranger = RedisTier::open(options(&url)).await.unwrap();
    let error = stranger.ready().await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    // Who speaks no TLS is not heard.
    let plain = RedisTier::open(options(&format!("redis://127.0.0.1:{}", server.port))).await.unwrap();
    assert_eq!(plain.ready().await.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_file_of_certificates_that_is_none_is_said_at_once() {
    let dir = place();
    let file = dir.path().join("ca.pem");
    let url = format!("rediss://127.0.0.1:1?ca={}", query(&file));
    let missing = RedisTier::open(RedisOptions::parse(&url).unwrap()).await.unwrap_err();
    assert!(matches!(missing, RedisError::File { option: "ca", .. }), "{missing}");
    let rubbish = "-----BEGIN CERTIFICATE-----\nnot base64!\n-----END CERTIFICATE-----\n";
    for text in [rubbish, ""] {
        std::fs::write(&file, text).unwrap();
        let wrong = RedisTier::open(RedisOptions::parse(&url).unwrap()).await.unwrap_err();
        assert!(matches!(wrong, RedisError::File { option: "ca", .. }), "{wrong}");
    }
}
