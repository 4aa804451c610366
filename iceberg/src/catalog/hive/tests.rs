//! Against a metastore of our own, which says what Hive's says and counts; and replies of any bytes.
use super::wire::{CALL, EXCEPTION, MAP, REPLY};
use super::*;
use crate::catalog::metastore::MetastoreCatalog;
use crate::catalog::{Catalog, Change};
use crate::table::{TableId, Token};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Which methods a metastore knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    Hive1,
    Hive3,
    Hive4,
}

#[derive(Debug)]
struct State {
    age: Age,
    /// By database: tables, and their parameters.
    tables: BTreeMap<String, BTreeMap<String, Vec<(String, String)>>>,
    /// Method of each question, and how many texts it names.
    seen: Vec<(String, usize)>,
    connections: usize,
    /// The next question is answered by these bytes, and the end.
    garbage: Option<Vec<u8>>,
    /// Each question is answered by this exception.
    thrown: Option<String>,
}

type Shared = Arc<Mutex<State>>;

/// All texts of a struct, however they are nested.
async fn texts(input: &mut Input<&mut BufReader<TcpStream>>) -> Vec<String> {
    let mut found = Vec::new();
    let mut depth = 1;
    while depth > 0 {
        match input.field().await.unwrap() {
            None => depth -= 1,
            Some((STRING, _)) => found.push(input.text().await.unwrap()),
            // Of texts, or, at the very end, of capabilities.
            Some((LIST, 2)) => {
                for _ in 0..input.list(STRING).await.unwrap() {
                    found.push(input.text().await.unwrap());
                }
            }
            Some((STRUCT, _)) => depth += 1,
            Some((kind, _)) => input.skip(kind).await.unwrap(),
        }
    }
    found
}

fn write_table(out: &mut Output, name: &str, parameters: &[(String, String)]) {
    out.field(STRING, 1).text(name).field(STRING, 2).text("db").field(I32, 4).i32(7);
    // A descriptor with columns, which nobody wants.
    out.field(STRUCT, 7).field(LIST, 1).list(STRUCT, 2);
    for column in ["a", "b"] {
        out.field(STRING, 1).text(column).field(STRING, 2).text("int").stop();
    }
    out.stop();
    out.field(MAP, 9).bytes_of(&[STRING, STRING]).i32(parameters.len() as i32);
    for (key, value) in parameters {
        out.text(key).text(value);
    }
    out.stop();
}

fn answer(state: &State, method: &str, sequence: i32, named: &[String]) -> Output {
    let mut out = Output::message(REPLY, method, sequence);
    if let Some(why) = &state.thrown {
        out.field(STRUCT, META).field(STRING, 1).text(why).stop().stop();
        return out;
    }
    let is_newer = method.ends_with("_req");
    let is_for_tables = method.starts_with("get_table") && method != "get_tables";
    if is_for_tables && (is_newer && state.age == Age::Hive1 || !is_newer && state.age == Age::Hive4) {
        let mut out = Output::message(EXCEPTION, method, sequence);
        out.field(STRING, 1)
            .text(&format!("Invalid method name: '{method}'"))
            .field(I32, 2)
            .i32(UNKNOWN_METHOD)
            .stop();
        return out;
    }
    let database = named.first().and_then(|name| state.tables.get(name));
    match (method, database) {
        ("set_ugi", _) => {
            out.field(LIST, 0).texts(&["group"]);
        }
        ("get_all_databases", _) => {
            out.field(LIST, 0).texts(&state.tables.keys().map(String::as_str).collect::<Vec<_>>());
        }
        ("get_all_tables", database) => {
            let names = database.iter().flat_map(|tables| tables.keys());
            out.field(LIST, 0).texts(&names.map(String::as_str).collect::<Vec<_>>());
        }
        ("get_table" | "get_table_req", database) => {
            match database.and_then(|tables| tables.get(&named[1])) {
                Some(parameters) if is_newer => {
                    out.field(STRUCT, 0).field(STRUCT, 1);
                    write_table(&mut out, &named[1], parameters);
                    out.stop();
                }
                Some(parameters) => {
                    out.field(STRUCT, 0);
                    write_table(&mut out, &named[1], parameters);
                }
                None => {
                    out.field(STRUCT, NO_SUCH_OBJECT).field(STRING, 1).text("no table").stop();
                }
            }
        }
        (_, None) => {
            out.field(STRUCT, UNKNOWN_DB).field(STRING, 1).text("no database").stop();
        }
        (_, Some(tables)) => {
            let found: Vec<_> =
                named[1..].iter().filter_map(|name| Some((name, tables.get(name)?))).collect();
            out.field(if is_newer { STRUCT } else { LIST }, 0);
            if is_newer {
                out.field(LIST, 1);
            }
            out.list(STRUCT, found.len());
            for (name, parameters) in found {
                write_table(&mut out, name, parameters);
            }
            if is_newer {
                out.stop();
            }
        }
    }
    out.stop();
    out
}

async fn serve(state: Shared, stream: TcpStream) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut input = Input::new(&mut stream, 1 << 20);
        let Ok((kind, method, sequence)) = input.message().await else { return };
        assert_eq!(kind, CALL);
        let named = texts(&mut input).await;
        let (bytes, is_last) = {
            let mut state = state.lock();
            state.seen.push((method.clone(), named.len()));
            match state.garbage.take() {
                Some(garbage) => (garbage, true),
                None => (answer(&state, &method, sequence, &named).bytes().to_vec(), false),
            }
        };
        stream.write_all(&bytes).await.unwrap();
        if is_last {
            return;
        }
    }
}

async fn metastore(age: Age) -> (String, Shared) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap().to_string();
    let state =
        State { age, tables: BTreeMap::new(), seen: Vec::new(), connections: 0, garbage: None, thrown: None };
    let state = Arc::new(Mutex::new(state));
    let shared = state.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            shared.lock().connections += 1;
            tokio::spawn(serve(shared.clone(), stream));
        }
    });
    (server, state)
}

async fn catalog(age: Age, options: &[(&str, &str)]) -> (MetastoreCatalog<Hive>, Shared) {
    let (server, state) = metastore(age).await;
    (MetastoreCatalog::new(Hive::new(&[server], &options.iter().copied().collect()).unwrap()), state)
}

fn iceberg(name: &str, version: u32) -> Vec<(String, String)> {
    let location = format!("s3://b/{name}/{version}.metadata.json");
    let parameters = [("EXTERNAL", "TRUE"), ("table_type", "iceberg"), ("metadata_location", &location)];
    parameters.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

fn id(database: &str, name: &str) -> TableId {
    TableId { namespace: vec![database.into()], name: name.into() }
}

fn token(name: &str, version: u32) -> Token {
    Token(format!("s3://b/{name}/{version}.metadata.json"))
}

/// What was asked since the last time.
fn asked(state: &Shared) -> Vec<String> {
    std::mem::take(&mut state.lock().seen).into_iter().map(|(method, _)| method).collect()
}

/// No database may hold a plain table beside those of Iceberg's, and one that is dropped: all of it, at each age.
async fn tables_are_listed_and_polled(age: Age) {
    let (catalog, state) = catalog(age, &[]).await;
    let (one, several) = match age {
        Age::Hive1 => ("get_table", "get_table_objects_by_name"),
        _ => ("get_table_req", "get_table_objects_by_name_req"),
    };
    {
        let mut state = state.lock();
        let tables = (0..250).map(|n| (format!("t{n:03}"), iceberg(&format!("t{n:03}"), 1)));
        let mut tables: BTreeMap<_, _> = tables.collect();
        tables.insert("plain".into(), vec![("EXTERNAL".into(), "TRUE".into())]);
        state.tables.insert("db".into(), tables);
        state.tables.insert("empty".into(), BTreeMap::new());
    }
    assert_eq!(catalog.namespaces().await.unwrap(), [["db"], ["empty"]]);
    let tables = catalog.tables(&["db".into()]).await.unwrap();
    assert_eq!((tables.len(), &tables[249]), (250, &id("db", "t249")));
    asked(&state);
    // Which are Iceberg's is known by now.
    assert_eq!(catalog.names().await.unwrap().namespaces[0].1.as_ref().map(Vec::len), Some(250));
    assert_eq!(asked(&state), ["get_all_databases", "get_all_tables", "get_all_tables"]);
    let loaded = catalog.load(&id("db", "t007")).await.unwrap();
    assert_eq!(loaded.metadata_location.as_str(), "s3://b/t007/1.metadata.json");
    assert_eq!(asked(&state), [one]);
    for name in ["plain", "none"] {
        let error = catalog.load(&id("db", name)).await.unwrap_err();
        assert!(matches!(error, CatalogError::NotFound { .. }), "{error}");
    }
    let all: Vec<_> = (0..250).map(|n| format!("t{n:03}")).map(|t| (id("db", &t), token(&t, 1))).collect();
    asked(&state);
    assert_eq!(catalog.poll(&all[..1]).await.unwrap().changes, []);
    assert_eq!(asked(&state), [one]);
    assert_eq!(catalog.poll(&all).await.unwrap().changes, []);
    assert_eq!(asked(&state), [several; 3]);
    {
        let mut state = state.lock();
        let tables = state.tables.get_mut("db").unwrap();
        tables.insert("t001".into(), iceberg("t001", 2));
        tables.insert("t002".into(), Vec::new());
        tables.remove("t003");
    }
    let changes = catalog.poll(&all).await.unwrap();
    let expected = [
        Change::Changed(id("db", "t001")),
        Change::Dropped(id("db", "t002")),
        Change::Dropped(id("db", "t003")),
    ];
    assert_eq!((changes.changes.as_slice(), changes.failed.len()), (&expected[..], 0));
    assert_eq!(catalog.tables(&["db".into()]).await.unwrap().len(), 248);
    state.lock().tables.remove("db");
    assert_eq!(catalog.poll(&all).await.unwrap().changes.len(), 250);
    assert_eq!(catalog.tables(&["db".into()]).await.unwrap(), []);
    assert!(state.lock().connections <= 4);
}

#[tokio::test]
async fn tables_of_a_metastore_before_2_3_are_listed_and_polled() {
    tables_are_listed_and_polled(Age::Hive1).await;
}

#[tokio::test]
async fn tables_of_a_metastore_of_hive_3_are_listed_and_polled() {
    tables_are_listed_and_polled(Age::Hive3).await;
}

#[tokio::test]
async fn tables_of_a_metastore_of_hive_4_are_listed_and_polled() {
    tables_are_listed_and_polled(Age::Hive4).await;
}

#[tokio::test]
async fn what_a_metastore_throws_is_told_apart() {
    let (catalog, state) = catalog(Age::Hive3, &[]).await;
    let thrown = async |why: &str| {
        state.lock().thrown = Some(why.to_owned());
        catalog.namespaces().await.unwrap_err()
    };
    let denied = thrown("java.security.AccessControlException: Permission denied: user=me").await;
    assert!(matches!(denied, CatalogError::Denied { .. }), "{denied}");
    let broken = thrown("Unable to get a connection from the pool").await;
    assert!(broken.is_transient() && broken.to_string().contains("the pool"), "{broken}");
    let polled = catalog.poll(&[(id("db", "t"), token("t", 1))]).await.unwrap();
    assert!(polled.changes.is_empty() && polled.failed[0].1.is_transient(), "{polled:?}");
}

#[tokio::test]
async fn nonsense_is_no_answer_and_ends_the_connection() {
    let mut other = Output::message(REPLY, "get_all_databases", 99);
    other.field(LIST, 0).texts(&["x"]).stop();
    let mut endless = Output::message(REPLY, "get_all_databases", 1);
    endless.field(LIST, 0).list(STRING, 0x7fff_ffff);
    for garbage in [b"HTTP/1.1 400 Bad Request\r\n\r\n", other.bytes(), endless.bytes()] {
        let (catalog, state) = catalog(Age::Hive3, &[]).await;
        state.lock().garbage = Some(garbage.to_vec());
        let error = catalog.namespaces().await.unwrap_err();
        assert!(matches!(error, CatalogError::Refused { .. }), "{error}");
        assert_eq!(catalog.namespaces().await.unwrap().len(), 0, "the next connection is another");
        assert_eq!(state.lock().connections, 2);
    }
    let (catalog, state) = catalog(Age::Hive3, &[]).await;
    // One that ends is nobody's fault, but whoever wants Kerberos does that.
    state.lock().garbage = Some(Vec::new());
    let error = catalog.namespaces().await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("Kerberos"), "{error}");
}

#[tokio::test]
async fn a_connection_that_has_ended_meanwhile_is_made_anew() {
    let (catalog, state) = catalog(Age::Hive3, &[("ugi", "me:staff,root")]).await;
    catalog.namespaces().await.unwrap();
    catalog.namespaces().await.unwrap();
    assert_eq!(state.lock().connections, 1);
    assert_eq!(state.lock().seen[0], ("set_ugi".to_owned(), 3));
    state.lock().garbage = Some(Vec::new());
    catalog.namespaces().await.unwrap();
    assert_eq!(state.lock().connections, 2);
}

#[tokio::test]
async fn the_next_server_is_asked_when_one_is_away() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let away = listener.local_addr().unwrap().to_string();
    drop(listener);
    let (server, state) = metastore(Age::Hive3).await;
    let hive = Hive::new(&[away.clone(), server], &Options::default()).unwrap();
    hive.databases().await.unwrap();
    assert_eq!(state.lock().seen.len(), 1);
    let alone = Hive::new(&[away], &Options::default()).unwrap();
    let error = alone.databases().await.unwrap_err();
    assert!(error.is_transient(), "{error}");
}

#[test]
fn kerberos_is_refused_in_words() {
    for option in ["hive.kerberos-authentication", "hive.metastore.sasl.enabled"] {
        let options: Options = [(option, "true")].into_iter().collect();
        let error = Hive::new(&["h:1".into()], &options).unwrap_err().to_string();
        assert!(error.contains(option) && error.contains("Kerberos"), "{error}");
    }
    let options: Options = [("hive.kerberos-authentication", "false")].into_iter().collect();
    assert!(Hive::new(&["h:1".into()], &options).is_ok());
}

/// A reply with tables, as a metastore writes it.
fn reply_with_tables() -> Vec<u8> {
    let mut out = Output::message(REPLY, "get_table_objects_by_name_req", 1);
    out.field(STRUCT, 0).field(LIST, 1).list(STRUCT, 2);
    write_table(&mut out, "a", &iceberg("a", 1));
    write_table(&mut out, "b", &[]);
    out.stop().stop();
    out.bytes().to_vec()
}

#[test]
fn what_is_nested_too_deep_or_longer_than_it_is_is_refused() {
    assert_eq!(metastore_reply(&reply_with_tables()), Ok(2));
    let mut deep = Output::message(REPLY, "get_all_tables", 1);
    for _ in 0..1000 {
        deep.field(STRUCT, 5);
    }
    assert!(metastore_reply(deep.bytes()).is_err());
    // A list in a list in a list, and each says that it has all there can be.
    let mut wide = Output::message(REPLY, "get_all_tables", 1);
    wide.field(LIST, 5);
    for _ in 0..20 {
        wide.list(LIST, 0x3ff_ffff);
    }
    assert!(metastore_reply(wide.bytes()).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _read = metastore_reply(&bytes);
    }

    #[test]
    fn a_reply_with_another_byte_is_refused_or_read(at in 0usize..1000, byte in any::<u8>(), end in 0usize..1000) {
        let mut bytes = reply_with_tables();
        let at = at % bytes.len();
        bytes[at] = byte;
        bytes.truncate(end.max(1));
        let _read = metastore_reply(&bytes);
    }
}
