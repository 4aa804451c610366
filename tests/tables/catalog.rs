//! A REST catalog in this process, of one namespace, `db`.
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

/// What it says of a table.
#[derive(Clone, Default)]
pub struct Table {
    /// Where its metadata is.
    pub location: String,
    /// What the answer holds of it.
    pub metadata: Value,
    pub etag: Option<String>,
    /// The rest comes for who asks for credentials only.
    pub config: Value,
    pub storage_credentials: Value,
}

impl Table {
    /// A version of a table of the fixtures.
    pub fn version(name: &str, number: u32) -> Self {
        let location = format!("s3://lake/wh/db/{name}/metadata/v{number}.metadata.json");
        Self { location, config: json!({}), storage_credentials: json!([]), ..Self::default() }
    }
}

#[derive(Default)]
pub struct State {
    pub tables: BTreeMap<String, Table>,
    /// How often somebody was lent something.
    pub lent: usize,
    /// The ETags that somebody has asked with.
    pub asked_with: Vec<String>,
    /// Nobody has an answer.
    pub is_silent: bool,
}

/// Ended when dropped.
pub struct Catalog {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    ended: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl Catalog {
    pub fn start<const N: usize>(tables: [(&str, Table); N]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let tables = tables.map(|(name, table)| (name.to_owned(), table)).into();
        let state = Arc::new(Mutex::new(State { tables, ..State::default() }));
        let ended = Arc::<AtomicBool>::default();
        let (shared, stop) = (state.clone(), ended.clone());
        let server = std::thread::spawn(move || {
            for client in listener.incoming() {
                if stop.load(SeqCst) {
                    return;
                }
                answer(&client.unwrap(), &shared);
            }
        });
        Self { address, state, ended, server: Some(server) }
    }

    /// As `--catalog` takes it, under the name `rest`.
    pub fn named(&self) -> String {
        format!("rest=rest:http://{}", self.address)
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// From now on it says this of a table.
    pub fn say(&self, name: &str, table: Table) {
        self.state().tables.insert(name.to_owned(), table);
    }
}

impl Drop for Catalog {
    fn drop(&mut self) {
        self.ended.store(true, SeqCst);
        let _woken = TcpStream::connect(self.address);
        let _ended = self.server.take().map(JoinHandle::join);
    }
}

fn answer(mut client: &TcpStream, state: &Mutex<State>) {
    let mut lines = BufReader::new(client).lines().map_while(Result::ok);
    let Some(request) = lines.next() else { return };
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let header = |name: &str| {
        let named = headers.iter().filter_map(|line| line.split_once(": "));
        named.into_iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    };
    let (mut state, mut etag) = (state.lock().unwrap(), None);
    if state.is_silent {
        return;
    }
    let target = request.split(' ').nth(1).unwrap();
    let of_table = target.strip_prefix("/v1/namespaces/db/tables/").and_then(|rest| rest.split_once('?'));
    let (status, body) = match target {
        "/v1/config" => ("200 OK", json!({ "defaults": {}, "overrides": {} })),
        "/v1/namespaces?pageToken=" => ("200 OK", json!({ "namespaces": [["db"]] })),
        "/v1/namespaces?parent=db&pageToken=" => ("200 OK", json!({ "namespaces": [] })),
        "/v1/namespaces/db/tables?pageToken=" => {
            let names = state.tables.keys().map(|name| json!({ "namespace": ["db"], "name": name }));
            ("200 OK", json!({ "identifiers": names.collect::<Vec<_>>() }))
        }
        _ => match of_table.and_then(|(name, _)| state.tables.get(name).cloned()) {
            Some(table) => {
                etag = table.etag.clone();
                let asked_with = header("if-none-match").map(str::to_owned);
                state.asked_with.extend(asked_with.clone());
                let mut body = json!({ "metadata-location": table.location, "metadata": table.metadata });
                if header("x-iceberg-access-delegation").is_some() {
                    state.lent += 1;
                    body["config"] = table.config;
                    body["storage-credentials"] = table.storage_credentials;
                }
                let is_known = asked_with.is_some() && asked_with == etag;
                (if is_known { "304 Not Modified" } else { "200 OK" }, body)
            }
            None => ("404 Not Found", Value::Null),
        },
    };
    drop(state);
    let body = if status.starts_with("200") { body.to_string() } else { String::new() };
    let etag = etag.map(|etag| format!("etag: {etag}\r\n")).unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{etag}content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let _may_have_gone = client.write_all((head + &body).as_bytes());
}
