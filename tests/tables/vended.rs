//! Credentials that a REST catalog lends: the only ones that open the table.
use crate::harness::{LIMIT, eventually};
use crate::lake::{Lake, files, names};
use crate::support::s3server::{ACCESS_KEY, SECRET_KEY};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

/// A catalog of one table. It lends the keys of the store, and says that they are good no longer.
struct Catalog {
    address: SocketAddr,
    lent: Arc<AtomicUsize>,
    /// It has no table any more.
    dropped: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl Catalog {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (lent, ended) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let dropped = Arc::<AtomicBool>::default();
        let (counted, stop, is_dropped) = (lent.clone(), ended.clone(), dropped.clone());
        let server = std::thread::spawn(move || {
            for client in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                answer(&client.unwrap(), &counted, is_dropped.load(Ordering::SeqCst));
            }
        });
        Self { address, lent, dropped, ended, server: Some(server) }
    }
}

impl Drop for Catalog {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _woken = TcpStream::connect(self.address);
        let _ended = self.server.take().map(JoinHandle::join);
    }
}

fn answer(mut client: &TcpStream, lent: &AtomicUsize, is_dropped: bool) {
    let mut lines = BufReader::new(client).lines().map_while(Result::ok);
    let Some(request) = lines.next() else { return };
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let delegated = headers.iter().any(|line| line.to_ascii_lowercase().contains("vended-credentials"));
    let target = request.split(' ').nth(1).unwrap();
    let body = match target {
        "/v1/config" => r#"{"defaults":{},"overrides":{}}"#.to_owned(),
        "/v1/namespaces?pageToken=" => r#"{"namespaces":[["db"]]}"#.to_owned(),
        "/v1/namespaces?parent=db&pageToken=" => r#"{"namespaces":[]}"#.to_owned(),
        "/v1/namespaces/db/tables?pageToken=" if is_dropped => r#"{"identifiers":[]}"#.to_owned(),
        "/v1/namespaces/db/tables?pageToken=" => {
            r#"{"identifiers":[{"namespace":["db"],"name":"refs"}]}"#.to_owned()
        }
        "/v1/namespaces/db/tables/refs?snapshots=refs" if !is_dropped => {
            let mut config = serde_json::json!({});
            if delegated {
                lent.fetch_add(1, Ordering::SeqCst);
                config = serde_json::json!({
                    "s3.access-key-id": ACCESS_KEY,
                    "s3.secret-access-key": SECRET_KEY,
                    "s3.session-token-expires-at-ms": "1000",
                });
            }
            let metadata = "s3://lake/wh/db/refs/metadata/v7.metadata.json";
            serde_json::json!({ "metadata-location": metadata, "config": config }).to_string()
        }
        _ => String::new(),
    };
    let status = if body.is_empty() { "404 Not Found" } else { "200 OK" };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let _may_have_gone = client.write_all((head + &body).as_bytes());
}

#[test]
fn what_a_catalog_lends_opens_its_tables() {
    let mut lake = Lake::prepare(|_| false);
    for (name, value) in &mut lake.cloud.lab.setup.environment {
        if name == "AWS_ACCESS_KEY_ID" || name == "AWS_SECRET_ACCESS_KEY" {
            *value = "of-somebody-else".to_owned();
        }
    }
    let catalog = Catalog::start();
    let named = format!("rest=rest:http://{}", catalog.address);
    lake.mount_with(&["--catalog", &named, "--catalog-option", "rest.vended-credentials=false"])
        .must("mount");
    assert_eq!(names(&lake.table("refs")), ["ERROR"], "nobody lends anything");
    assert_eq!(catalog.lent.load(Ordering::SeqCst), 0);
    lake.unmount();
    lake.mount_with(&["--catalog", &named]).must("mount");
    let data = lake.table("refs").join("data");
    for file in files(&data) {
        let key = format!("wh/db/refs/data/{}", file.strip_prefix(&data).unwrap().display());
        assert_eq!(fs::read(&file).unwrap(), lake.objects[&key], "{key}");
    }
    assert!(catalog.lent.load(Ordering::SeqCst) > 1, "what has expired is lent again");
    // Another bucket is none of this catalog's.
    assert!(fs::read_dir(lake.dir.join("objects/s3/other/somewhere")).is_err());
    let all = files(&data);
    lake.unmount();
    // TABLES: "what the cache has of its files is read": also if only the catalog could lend what opens them.
    drop(catalog);
    let said = lake.mount_with(&["--catalog", &named]).must("mount").said();
    assert!(said.contains("not all catalogs answer yet"), "{said}");
    assert_eq!(files(&data), all);
    for file in &all {
        let key = format!("wh/db/refs/data/{}", file.strip_prefix(&data).unwrap().display());
        assert_eq!(fs::read(file).unwrap(), lake.objects[&key], "{key}");
    }
    lake.unmount();
    let state = lake.cloud.lab.root().join("tables-state");
    let written = files(&state).into_iter().filter(|file| file.is_file());
    let of_keys = |file: &std::path::PathBuf| {
        fs::read(file).unwrap().windows(SECRET_KEY.len()).any(|part| part == SECRET_KEY.as_bytes())
    };
    assert_eq!(written.filter(of_keys).count(), 0, "no key is written down");
}

/// What was lent for a table opens nothing any more once its catalog has it no longer.
#[test]
fn what_was_lent_for_a_dropped_table_is_given_back() {
    let mut lake = Lake::prepare(|_| false);
    for (name, value) in &mut lake.cloud.lab.setup.environment {
        if name == "AWS_ACCESS_KEY_ID" || name == "AWS_SECRET_ACCESS_KEY" {
            *value = "of-somebody-else".to_owned();
        }
    }
    let catalog = Catalog::start();
    lake.mount_with(&["--catalog", &format!("rest=rest:http://{}", catalog.address)]).must("mount");
    let data = lake.table("refs").join("data");
    let key =
        |file: &std::path::Path| format!("wh/db/refs/data/{}", file.strip_prefix(&data).unwrap().display());
    let all: Vec<String> = files(&data).iter().map(|file| key(file)).collect();
    let objects = lake.dir.join("objects/s3/lake");
    assert_eq!(fs::read(objects.join(&all[0])).unwrap(), lake.objects[&all[0]]);
    // No table names it, and what is lent opens it all the same.
    let [unnamed, another] = ["wh/db/refs/unnamed", "wh/db/refs/another"];
    lake.cloud.server.put_into("lake", unnamed, "1");
    lake.cloud.server.put_into("lake", another, "2");
    assert_eq!(fs::read(objects.join(unnamed)).unwrap(), b"1");
    catalog.dropped.store(true, Ordering::SeqCst);
    eventually("it is gone", LIMIT, || names(&lake.dir.join("iceberg/db")).is_empty().then_some(()));
    let denied = |key: &str| fs::metadata(objects.join(key)).unwrap_err().raw_os_error();
    assert_eq!((denied(another), denied(&all[1])), (Some(libc::EACCES), Some(libc::EACCES)));
    lake.unmount();
}
