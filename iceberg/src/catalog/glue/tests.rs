//! Against a server of our own, which says what Glue says and counts.
use super::*;
use crate::catalog::metastore::MetastoreCatalog;
use crate::catalog::{AwsKeys, Catalog, Change, NoAws};
use crate::table::{TableId, Token};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

#[derive(Default)]
struct State {
    /// Operation and question of each request, in their order.
    seen: Vec<(String, Value)>,
    authorization: String,
    /// By database: tables, and their parameters.
    tables: BTreeMap<String, Vec<(String, Value)>>,
    /// What is answered before anything else: a status and a body.
    faults: VecDeque<(u16, String)>,
    /// Databases that are denied.
    shut: Vec<String>,
    /// So many tables a page has.
    page: usize,
}

type Shared = Arc<Mutex<State>>;

fn reply(status: u16, body: impl Into<String>) -> Response<Full<Bytes>> {
    Response::builder().status(status).body(Full::new(body.into().into())).unwrap()
}

fn fault(kind: &str) -> (u16, String) {
    (400, json!({ "__type": kind, "Message": format!("it is {kind}") }).to_string())
}

fn answer(state: &mut State, operation: &str, question: &Value) -> (u16, String) {
    if let Some(fault) = state.faults.pop_front() {
        return fault;
    }
    let database = question["DatabaseName"].as_str().unwrap_or_default();
    if state.shut.iter().any(|shut| shut == database) {
        return fault("AccessDeniedException");
    }
    let table = |(name, parameters): &(String, Value)| json!({ "Name": name, "Parameters": parameters });
    let first: usize = question["NextToken"].as_str().map_or(0, |token| token.parse().unwrap());
    let (member, all) = match (operation, state.tables.get(database)) {
        ("GetDatabases", _) => {
            let names = state.tables.keys().chain(&state.shut);
            ("DatabaseList", names.map(|name| json!({ "Name": name })).collect::<Vec<_>>())
        }
        ("GetTables", Some(tables)) => ("TableList", tables.iter().map(table).collect()),
        ("GetTable", Some(tables)) => {
            return match tables.iter().find(|(name, _)| question["Name"] == **name) {
                Some(found) => (200, json!({ "Table": table(found) }).to_string()),
                None => fault("EntityNotFoundException"),
            };
        }
        _ => return fault("com.amazonaws.glue#EntityNotFoundException:http://x/"),
    };
    let part: Vec<Value> = all.iter().skip(first).take(state.page).cloned().collect();
    let next = (first + state.page < all.len()).then(|| (first + state.page).to_string());
    (200, json!({ member: part, "NextToken": next }).to_string())
}

async fn serve(state: Shared, request: Request<hyper::body::Incoming>) -> Response<Full<Bytes>> {
    let header = |name: &str| request.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(
        (request.method().as_str(), header("content-type").as_str()),
        ("POST", "application/x-amz-json-1.1")
    );
    let operation = header("x-amz-target").strip_prefix("AWSGlue.").unwrap().to_owned();
    let authorization = header("authorization");
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let question: Value = serde_json::from_slice(&body).unwrap();
    let mut state = state.lock();
    let (status, body) = answer(&mut state, &operation, &question);
    state.seen.push((operation, question));
    state.authorization = authorization;
    reply(status, body)
}

/// Keys that are renewed, and where Glue is.
#[derive(Debug)]
struct Known(Mutex<u32>);

#[async_trait]
impl Aws for Known {
    async fn keys(&self, profile: Option<&str>, refused: Option<&AwsKeys>) -> Result<AwsKeys, CatalogError> {
        assert_eq!(profile, Some("me"));
        let mut renewed = self.0.lock();
        *renewed += u32::from(refused.is_some());
        Ok(AwsKeys {
            access_key: format!("AK{renewed}"),
            secret_key: "hush".into(),
            session_token: Some("t0ken".into()),
        })
    }
    async fn region(&self, _: Option<&str>) -> Option<String> {
        Some("eu-west-1".into())
    }
    fn endpoint(&self, _: &str) -> Option<String> {
        None
    }
}

/// A catalog on a port of its own, for as long as the test runs.
async fn catalog(options: &[(&str, &str)], aws: Arc<dyn Aws>) -> (MetastoreCatalog<Glue>, Shared) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/", listener.local_addr().unwrap());
    let state = Shared::default();
    state.lock().page = 2;
    let shared = state.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let state = shared.clone();
            let service = service_fn(move |request| {
                let state = state.clone();
                async move { Ok::<_, std::convert::Infallible>(serve(state, request).await) }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    let options: Options = [("glue.endpoint", uri.as_str())].iter().chain(options).copied().collect();
    let mut glue = Glue::new(None, &options, aws).unwrap();
    glue.client = glue.client.hurried(Duration::from_millis(1));
    (MetastoreCatalog::new(glue), state)
}

const OWN: [(&str, &str); 3] =
    [("glue.access-key-id", "AK"), ("client.secret-access-key", "hush"), ("client.region", "us-east-2")];

fn iceberg(name: &str, version: u32) -> (String, Value) {
    let location = format!("s3://b/{name}/{version}.metadata.json");
    (name.into(), json!({ "table_type": "ICEBERG", "metadata_location": location, "x": "y" }))
}

fn id(database: &str, name: &str) -> TableId {
    TableId { namespace: vec![database.into()], name: name.into() }
}

fn token(name: &str, version: u32) -> Token {
    Token(format!("s3://b/{name}/{version}.metadata.json"))
}

/// What was asked since the last time.
fn asked(state: &Shared) -> Vec<String> {
    std::mem::take(&mut state.lock().seen).into_iter().map(|(operation, _)| operation).collect()
}

#[tokio::test]
async fn only_tables_of_iceberg_are_listed_page_by_page() {
    let (catalog, state) = catalog(&OWN, Arc::new(NoAws)).await;
    state.lock().tables.extend([
        (
            "db".to_owned(),
            vec![
                iceberg("b", 1),
                ("plain".into(), json!({ "EXTERNAL": "TRUE" })),
                ("view".into(), json!({ "table_type": "ICEBERG-VIEW", "metadata_location": "s3://b/v" })),
                (
                    "a".into(),
                    json!({ "table_type": "iceberg", "metadata_location": "s3://b/a/1.metadata.json" }),
                ),
                ("making".into(), json!({ "table_type": "ICEBERG" })),
            ],
        ),
        ("empty".to_owned(), Vec::new()),
        ("more".to_owned(), Vec::new()),
    ]);
    assert_eq!(catalog.namespaces().await.unwrap(), [["db"], ["empty"], ["more"]]);
    assert_eq!(catalog.tables(&["db".into()]).await.unwrap(), [id("db", "a"), id("db", "b")]);
    assert_eq!(asked(&state), ["GetDatabases", "GetDatabases", "GetTables", "GetTables", "GetTables"]);
    let names = catalog.names().await.unwrap().namespaces;
    assert_eq!(names[0], (vec!["db".to_owned()], Some(vec![id("db", "a"), id("db", "b")])));
    assert_eq!(names.len(), 4);
    let loaded = catalog.load(&id("db", "b")).await.unwrap();
    assert_eq!(loaded.metadata_location.as_str(), "s3://b/b/1.metadata.json");
    for name in ["plain", "view", "making", "none"] {
        let error = catalog.load(&id("db", name)).await.unwrap_err();
        assert!(matches!(error, CatalogError::NotFound { .. }), "{error}");
    }
    assert!(matches!(catalog.tables(&["none".into()]).await, Err(CatalogError::NotFound { .. })));
    let deep = catalog.tables(&["db".into(), "x".into()]).await;
    assert!(matches!(deep, Err(CatalogError::NotFound { .. })));
}

#[tokio::test]
async fn a_poll_takes_pages_or_tables_whichever_are_fewer() {
    let (catalog, state) = catalog(&OWN, Arc::new(NoAws)).await;
    let names = ["a", "b", "c", "d", "e"];
    state.lock().tables.insert("db".into(), names.map(|name| iceberg(name, 1)).into());
    state.lock().tables.insert("other".into(), vec![iceberg("x", 1)]);
    let known = |names: &[&str]| -> Vec<_> { names.iter().map(|n| (id("db", n), token(n, 1))).collect() };
    // One table is one question, whatever its database has.
    assert_eq!(catalog.poll(&known(&["e"])).await.unwrap().changes, []);
    assert_eq!(asked(&state), ["GetTable"]);
    // Two could be on one page; when all have been found nobody turns to the next.
    assert_eq!(catalog.poll(&known(&["a", "c"])).await.unwrap().changes, []);
    assert_eq!(asked(&state), ["GetTables", "GetTables"]);
    // There are three pages, as is known from now on.
    catalog.names().await.unwrap();
    asked(&state);
    assert_eq!(catalog.poll(&known(&["a", "e"])).await.unwrap().changes, []);
    assert_eq!(asked(&state), ["GetTable", "GetTable"]);
    let mut all = known(&names);
    all.push((id("other", "x"), token("x", 1)));
    assert_eq!(catalog.poll(&all).await.unwrap().changes, []);
    assert_eq!(asked(&state).len(), 4);
    {
        let mut state = state.lock();
        let tables = state.tables.get_mut("db").unwrap();
        tables[1] = iceberg("b", 2);
        tables[3] = ("d".into(), json!({}));
        tables.remove(4);
        state.tables.remove("other");
    }
    let expected = [
        Change::Changed(id("db", "b")),
        Change::Dropped(id("db", "d")),
        Change::Dropped(id("db", "e")),
        Change::Dropped(id("other", "x")),
    ];
    let changes = catalog.poll(&all).await.unwrap();
    assert_eq!((changes.changes.as_slice(), changes.failed.len()), (&expected[..], 0));
}

#[tokio::test]
async fn questions_are_signed_with_the_keys_of_the_options_or_those_that_are_found() {
    let (own, state) = catalog(&[&OWN[..], &[("glue.id", "123")]].concat(), Arc::new(NoAws)).await;
    own.namespaces().await.unwrap();
    let (authorization, (_, question)) = {
        let state = state.lock();
        (state.authorization.clone(), state.seen[0].clone())
    };
    assert!(authorization.starts_with("AWS4-HMAC-SHA256 Credential=AK/"), "{authorization}");
    assert!(authorization.contains("/us-east-2/glue/aws4_request"), "{authorization}");
    for header in ["content-type", "host", "x-amz-date", "x-amz-target"] {
        assert!(authorization.contains(header), "{authorization}");
    }
    assert_eq!((&question["CatalogId"], &question["MaxResults"]), (&json!("123"), &json!(100)));
    assert!(!format!("{own:?}").contains("hush"));

    let (found, state) = catalog(&[("client.profile-name", "me")], Arc::new(Known(Mutex::new(0)))).await;
    found.namespaces().await.unwrap();
    let authorization = state.lock().authorization.clone();
    assert!(
        authorization.contains("Credential=AK0/") && authorization.contains("/eu-west-1/"),
        "{authorization}"
    );
    assert!(authorization.contains("x-amz-security-token"), "{authorization}");
    // They have run out: others are asked for once.
    state.lock().faults.push_back(fault("ExpiredTokenException"));
    found.namespaces().await.unwrap();
    assert!(state.lock().authorization.contains("Credential=AK1/"));
    state.lock().faults.extend([fault("ExpiredTokenException"), fault("ExpiredTokenException")]);
    let error = found.namespaces().await.unwrap_err();
    assert!(matches!(error, CatalogError::Denied { .. }), "{error}");
    assert!(!error.to_string().contains("hush") && !error.to_string().contains("t0ken"), "{error}");
}

#[tokio::test]
async fn who_is_too_busy_is_asked_again_and_then_away() {
    let (catalog, state) = catalog(&OWN, Arc::new(NoAws)).await;
    let busy = [fault("ThrottlingException"), (500, "<html>".into()), fault("InternalServiceException")];
    state.lock().faults.extend(busy);
    catalog.namespaces().await.unwrap();
    assert_eq!(asked(&state).len(), 4);
    for kind in ["ThrottlingException", "RequestLimitExceeded", "OperationTimeoutException"] {
        state.lock().faults.extend([fault(kind), fault(kind), fault(kind), fault(kind)]);
        let error = catalog.namespaces().await.unwrap_err();
        assert!(error.is_transient() && error.to_string().contains(kind), "{error}");
        assert_eq!(asked(&state).len(), 4);
    }
    // A table of which that is so has not changed and is not gone.
    state.lock().faults.extend([fault("ThrottlingException"), fault("ThrottlingException")]);
    state.lock().faults.extend([fault("ThrottlingException"), fault("ThrottlingException")]);
    let polled = catalog.poll(&[(id("db", "t"), token("t", 1))]).await.unwrap();
    assert!(polled.changes.is_empty() && polled.failed[0].1.is_transient(), "{polled:?}");
}

#[tokio::test]
async fn who_is_not_let_in_is_told_so() {
    let (catalog, state) = catalog(&OWN, Arc::new(NoAws)).await;
    for kind in ["AccessDeniedException", "UnrecognizedClientException", "InvalidSignatureException"] {
        state.lock().faults.push_back(fault(kind));
        let error = catalog.namespaces().await.unwrap_err();
        assert!(matches!(error, CatalogError::Denied { .. }), "{error}");
        let error = error.to_string();
        assert!(
            error.contains(kind) && error.contains("glue:GetTables") && !error.contains("hush"),
            "{error}"
        );
    }
    // A database of somebody else's hides none of ours.
    state.lock().tables.insert("ours".into(), vec![iceberg("t", 1)]);
    state.lock().shut.push("theirs".into());
    let names = catalog.names().await.unwrap().namespaces;
    assert_eq!(names[0], (vec!["ours".to_owned()], Some(vec![id("ours", "t")])));
    assert_eq!(names[1], (vec!["theirs".to_owned()], None));
    state.lock().tables.remove("ours");
    state.lock().shut.push("ours".into());
    assert!(matches!(catalog.names().await, Err(CatalogError::Denied { .. })));
}

#[tokio::test]
async fn nonsense_is_no_answer_and_no_reason_to_panic() {
    let (catalog, state) = catalog(&OWN, Arc::new(NoAws)).await;
    for body in
        ["", "x", "[]", r#"{"DatabaseList":3}"#, r#"{"DatabaseList":[{"Name":7}]}"#, r#"{"NextToken":{}}"#]
    {
        state.lock().faults.push_back((200, body.into()));
        let error = catalog.namespaces().await.unwrap_err();
        assert!(matches!(error, CatalogError::Refused { .. }), "{body}: {error}");
    }
    for body in ["{}", r#"{"Table":{"Parameters":{}}}"#, r#"{"Table":[]}"#] {
        state.lock().faults.push_back((200, body.into()));
        let error = catalog.load(&id("db", "t")).await.unwrap_err();
        assert!(matches!(error, CatalogError::Refused { .. }), "{body}: {error}");
    }
    // What is not Glue says nothing of tables.
    for (status, body) in [(404, "<html>not here"), (400, ""), (301, ""), (400, r#"{"__type":7}"#)] {
        state.lock().faults.push_back((status, body.into()));
        let polled = catalog.poll(&[(id("db", "t"), token("t", 1))]).await.unwrap();
        assert!(polled.changes.is_empty(), "{status} {body}: {polled:?}");
        assert!(matches!(polled.failed[0].1, CatalogError::Refused { .. }), "{status} {body}: {polled:?}");
    }
    let endless = json!({ "DatabaseList": [{ "Name": "a" }], "NextToken": "a" }).to_string();
    state.lock().faults.extend((0..PAGES_MAX).map(|_| (200, endless.clone())));
    let error = catalog.namespaces().await.unwrap_err();
    assert!(error.to_string().contains("does not end"), "{error}");
}

#[tokio::test]
async fn nobody_there_is_no_reason_to_give_up() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let options: Options = [("glue.endpoint", uri.as_str())].iter().chain(&OWN).copied().collect();
    let glue = MetastoreCatalog::new(Glue::new(None, &options, Arc::new(NoAws)).unwrap());
    let error = glue.namespaces().await.unwrap_err();
    assert!(error.is_transient(), "{error}");
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let open = |region: Option<&str>, options: &[(&str, &str)]| {
        Glue::new(region, &options.iter().copied().collect(), Arc::new(NoAws))
            .map(drop)
            .map_err(|e| e.to_string())
    };
    assert_eq!(open(Some("eu-west-1"), &[]), Ok(()));
    assert!(open(None, &[("glue.region", "x/y")]).unwrap_err().contains("region"));
    assert!(open(None, &[("glue.access-key-id", "a")]).unwrap_err().contains("belong together"));
    assert!(open(None, &[("glue.endpoint", "host:1")]).unwrap_err().contains("http://"));
    let secret = open(None, &[("glue.endpoint", "http://a:hunter2@h")]).unwrap_err();
    assert!(secret.contains("credentials") && !secret.contains("hunter2"), "{secret}");
}
