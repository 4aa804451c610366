//! Servers that speak the protocol and lack commands: a small one in this process that can be told which.
use crate::common::{BLOCK, content, object};
use crate::server::{connected, options};
use icecache::cache::Tier;
use icecache::error::ErrorKind;
use icecache::redis::{Expiry, RedisError, RedisTier};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

type Words = Vec<Vec<u8>>;

/// A server that knows SET, GET, DEL, EXPIRE, PUBLISH, SUBSCRIBE and nothing else.
#[derive(Debug)]
struct Small {
    url: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    /// Commands, and options of commands, that it does not know.
    lacks: &'static [&'static str],
    values: Mutex<HashMap<Vec<u8>, Vec<u8>>>,
    /// All commands, as words, without what they carry.
    said: Mutex<Vec<String>>,
}

impl Drop for Small {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Small {
    async fn lacking(lacks: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared { lacks, values: Mutex::default(), said: Mutex::default() });
        let of_task = shared.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, of_task.clone()));
            }
        });
        Self { url, shared, task }
    }

    fn said(&self, word: &str) -> bool {
        self.shared.said.lock().unwrap().iter().any(|said| said == word)
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let (from, mut to) = stream.into_split();
    let mut from = BufReader::new(from);
    while let Some(words) = command(&mut from).await {
        if to.write_all(&shared.answer(&words)).await.is_err() {
            return;
        }
    }
}

/// `*2\r\n$3\r\nGET\r\n$1\r\nk\r\n`
async fn command(from: &mut BufReader<tokio::net::tcp::OwnedReadHalf>) -> Option<Words> {
    let mut line = async |kind: char| {
        let mut line = String::new();
        from.read_line(&mut line).await.ok()?;
        let length: usize = line.trim_end().strip_prefix(kind)?.parse().ok()?;
        if kind == '*' {
            return Some((length, Vec::new()));
        }
        let mut word = vec![0; length + 2];
        from.read_exact(&mut word).await.ok()?;
        word.truncate(length);
        Some((length, word))
    };
    let (count, _) = line('*').await?;
    let mut words = Words::new();
    for _ in 0..count {
        words.push(line('$').await?.1);
    }
    Some(words)
}

impl Shared {
    fn answer(&self, words: &Words) -> Vec<u8> {
        let text: Vec<_> = words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let name = text[0].to_uppercase();
        let option = text.get(3).filter(|_| name == "SET").cloned();
        let said = [Some(name.clone()), option.clone()].into_iter().flatten().collect::<Vec<_>>().join(" ");
        self.said.lock().unwrap().push(said);
        let known = ["SET", "GET", "DEL", "EXPIRE", "PUBLISH", "SUBSCRIBE"].contains(&name.as_str());
        if !known || self.lacks.contains(&name.as_str()) {
            // As Redis says it, with what it was told.
            return format!(
                "-ERR unknown command '{}', with args beginning with: '{}'\r\n",
                text[0],
                text[1..].join("' '")
            )
            .into_bytes();
        }
        if option.is_some_and(|option| self.lacks.contains(&option.as_str())) {
            return b"-ERR syntax error\r\n".to_vec();
        }
        let mut values = self.values.lock().unwrap();
        match name.as_str() {
            "SET" => {
                values.insert(words[1].clone(), words[2].clone());
                b"+OK\r\n".to_vec()
            }
            "GET" => match values.get(&words[1]) {
                None => b"$-1\r\n".to_vec(),
                Some(value) => [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat(),
            },
            "DEL" => format!(":{}\r\n", u8::from(values.remove(&words[1]).is_some())).into_bytes(),
            "SUBSCRIBE" => {
                format!("*3\r\n$9\r\nsubscribe\r\n${}\r\n{}\r\n:1\r\n", text[1].len(), text[1]).into_bytes()
            }
            _ => b":1\r\n".to_vec(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_expire_in_the_best_way_that_there_is() {
    for (lacks, expiry, said) in [
        (&[][..], Expiry::Milliseconds, "SET PX"),
        (&["PX"], Expiry::Seconds, "SET EX"),
        (&["PX", "EX"], Expiry::Apart, "EXPIRE"),
        (&["PX", "EX", "EXPIRE"], Expiry::Never, "SET"),
    ] {
        let small = Small::lacking(lacks).await;
        let tier = connected(options(&small.url)).await;
        let status = tier.status();
        assert_eq!((status.cluster, status.nodes[0].up.unwrap().expiry), (Some(false), expiry));
        small.shared.said.lock().unwrap().clear();
        tier.put(&object(1, BLOCK), 0..BLOCK, content(1, 0..BLOCK).into()).await.unwrap();
        assert!(small.said(said), "{lacks:?}: {:?}", small.shared.said.lock().unwrap());
        assert!(expiry != Expiry::Never || !small.said("EXPIRE"));
        assert!(tier.get(&object(1, BLOCK), 0..BLOCK).await.unwrap().unwrap() == content(1, 0..BLOCK));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_publish_and_subscribe_there_are_blocks_and_no_events() {
    let small = Small::lacking(&["PUBLISH", "SUBSCRIBE"]).await;
    let tier = connected(options(&small.url)).await;
    assert!(!tier.status().nodes[0].up.unwrap().events);
    let unsupported = |error: RedisError| assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    unsupported(tier.publish("t", &1).await.unwrap_err());
    unsupported(tier.subscribe("").next().await.unwrap_err());
    tier.put(&object(1, 4), 0..4, content(1, 0..4).into()).await.unwrap();
    assert!(tier.get(&object(1, 4), 0..4).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_even_keep_values_is_left_out_and_says_so() {
    for lacks in [&["GET"][..], &["SET"]] {
        let small = Small::lacking(lacks).await;
        let tier = RedisTier::open(options(&small.url)).await.unwrap();
        let error = tier.ready().await.unwrap_err();
        assert!(matches!(error, RedisError::Unsupported { what, .. } if what == lacks[0]), "{error}");
        assert!(tier.get(&object(1, 4), 0..4).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_repeats_what_it_was_told_gives_no_password_away() {
    let small = Small::lacking(&[]).await;
    let url = small.url.replace("redis://", "redis://me:hunter2@");
    let tier = RedisTier::open(options(&url)).await.unwrap();
    let error = tier.ready().await.unwrap_err();
    let shown = format!("{error} {error:?} {:?} {tier:?}", tier.status());
    assert!(error.kind() == ErrorKind::Denied && !shown.contains("hunter2"), "{shown}");
    assert!(small.said("AUTH"));
}
