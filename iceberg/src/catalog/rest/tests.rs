//! Against a server of our own, which says what the protocol says and counts.
use super::*;
use crate::catalog::Change;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use std::sync::Arc;

#[derive(Default)]
struct State {
    /// Method and target of each request, and the headers that count.
    seen: Vec<String>,
    version: u32,
    /// What else the ETag is made of, and what the metadata holds.
    replica: u32,
    metadata: Option<&'static str>,
    dropped: bool,
    /// Those who ask for tables of a namespace wait here for each other.
    together: Option<Arc<tokio::sync::Barrier>>,
    tokens: u32,
    /// How often a table was sent.
    bodies: u32,
    /// What is answered with 404, whatever is asked for.
    away: Option<&'static str>,
    /// What is answered to these targets.
    faults: Vec<(&'static str, u16, &'static str)>,
    /// Only this token is good; none: all are.
    good: Option<String>,
}

type Shared = Arc<Mutex<State>>;

fn reply(status: u16, body: impl Into<String>) -> Response<Full<Bytes>> {
    Response::builder().status(status).body(Full::new(body.into().into())).unwrap()
}

async fn serve(state: Shared, request: Request<hyper::body::Incoming>) -> Response<Full<Bytes>> {
    let header = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let (bearer, etag, delegation) =
        (header("authorization"), header("if-none-match"), header("x-iceberg-access-delegation"));
    let target = request.uri().to_string();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let together = state.lock().together.clone();
    if let Some(together) = together.filter(|_| target.ends_with("/tables?pageToken=")) {
        together.wait().await;
    }
    let mut state = state.lock();
    state.seen.push(target.clone());
    if let Some(away) = state.away {
        return reply(404, away);
    }
    if let Some((_, status, body)) = state.faults.iter().find(|(faulty, ..)| *faulty == target) {
        return reply(*status, *body);
    }
    if target == "/c/v1/oauth/tokens" {
        let form = String::from_utf8(body.to_vec()).unwrap();
        if !form.contains("client_secret=s%26cret")
            || !form.contains("client_id=me")
            || !form.contains("scope=catalog")
        {
            return reply(400, r#"{"error":"invalid_client","error_description":"unknown client"}"#);
        }
        state.tokens += 1;
        let token = format!("t{}", state.tokens);
        state.good = Some(token.clone());
        return reply(
            200,
            format!(r#"{{"access_token":"{token}","token_type":"bearer","expires_in":3600}}"#),
        );
    }
    if let Some(good) = &state.good
        && bearer.as_deref() != Some(&format!("Bearer {good}"))
    {
        return reply(
            401,
            r#"{"error":{"message":"token is no more","type":"NotAuthorizedException","code":401}}"#,
        );
    }
    match target.as_str() {
        "/c/v1/config?warehouse=wh%2F1" => reply(200, r#"{"defaults":{},"overrides":{"prefix":"p"}}"#),
        "/c/v1/p/namespaces?pageToken=" => reply(200, r#"{"namespaces":[["a"]],"next-page-token":"x y"}"#),
        "/c/v1/p/namespaces?pageToken=x%20y" => reply(200, r#"{"namespaces":[["b"]]}"#),
        "/c/v1/p/namespaces?parent=a&pageToken=" => reply(200, r#"{"namespaces":[["a","c d"]]}"#),
        target if target.starts_with("/c/v1/p/namespaces?parent=") => reply(200, r#"{"namespaces":[]}"#),
        "/c/v1/p/namespaces/a%1Fc%20d/tables?pageToken=" => {
            reply(200, r#"{"identifiers":[{"namespace":["a","c d"],"name":"t/1"}]}"#)
        }
        "/c/v1/p/namespaces/a%1Fc%20d/tables/t%2F1?snapshots=refs" if !state.dropped => {
            let tag = format!(
                "W/\"{}.{}{}\"",
                state.version,
                state.replica,
                delegation.as_deref().unwrap_or_default()
            );
            if etag.as_deref() == Some(&tag) {
                return reply(304, "");
            }
            state.bodies += 1;
            let credentials = match delegation {
                Some(_) => {
                    r#","storage-credentials":[{"prefix":"s3://b/","config":{"s3.secret-access-key":"hush"}}]"#
                }
                None => "",
            };
            let body = format!(
                r#"{{"metadata-location":"s3://b/t/{}.metadata.json","metadata":{},"config":{{"s3.region":"r"}}{credentials}}}"#,
                state.version,
                state.metadata.unwrap_or("{}")
            );
            Response::builder().header("etag", tag).body(Full::new(body.into())).unwrap()
        }
        "/c/v1/p/namespaces/a%1Fc%20d/tables/busy?snapshots=refs" => reply(503, ""),
        _ => reply(404, r#"{"error":{"message":"no such table","type":"NoSuchTableException","code":404}}"#),
    }
}

/// A catalog on a port of its own, for as long as the test runs.
async fn catalog(options: &[(&str, &str)]) -> (RestCatalog, Shared) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/c", listener.local_addr().unwrap());
    let state = Shared::default();
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
    let options: Options = [("warehouse", "wh/1")].iter().chain(options).copied().collect();
    (RestCatalog::new(&uri, &options).unwrap(), state)
}

fn table(name: &str) -> TableId {
    TableId { namespace: vec!["a".into(), "c d".into()], name: name.into() }
}

#[tokio::test]
async fn names_are_listed_part_by_part_and_level_by_level() {
    let (catalog, _) = catalog(&[]).await;
    let names: Vec<String> = catalog.namespaces().await.unwrap().iter().map(|n| n.join(".")).collect();
    assert_eq!(names, ["a", "a.c d", "b"]);
    assert_eq!(catalog.tables(&table("").namespace).await.unwrap(), [table("t/1")]);
    let error = catalog.tables(&["none".into()]).await.unwrap_err();
    assert!(matches!(error, CatalogError::NotFound { .. }), "{error}");
}

/// Some catalogs want another mark between levels, since proxies refuse control characters in paths.
#[tokio::test]
async fn the_mark_between_levels_is_the_one_that_the_catalog_says() {
    for (told, mark) in
        [("%2E", "%2E"), (".", "%2E"), ("%1F", "%1F"), ("%C2%A7", "%C2%A7"), ("%2", "%1F"), ("", "%1F")]
    {
        let (catalog, state) = catalog(&[]).await;
        let config =
            format!(r#"{{"defaults":{{"namespace-separator":"{told}"}},"overrides":{{"prefix":"p"}}}}"#);
        let path = format!("/c/v1/p/namespaces/a{mark}c%20d/tables?pageToken=");
        let tables = r#"{"identifiers":[{"namespace":["a","c d"],"name":"t/1"}]}"#;
        state.lock().faults =
            vec![("/c/v1/config?warehouse=wh%2F1", 200, config.leak()), (path.leak(), 200, tables)];
        assert_eq!(catalog.tables(&table("").namespace).await.unwrap(), [table("t/1")], "{told}");
        catalog.namespaces().await.unwrap();
        let parent = if mark == "%2E" { "a.c%20d".to_owned() } else { format!("a{mark}c%20d") };
        let asked = format!("/c/v1/p/namespaces?parent={parent}&pageToken=");
        assert!(state.lock().seen.contains(&asked), "{told}: {:?}", state.lock().seen);
    }
}

/// What the catalog presumes, then what we are told, then what the catalog insists on; what a table says of itself comes
/// before that, and what is lent for a prefix before all.
#[tokio::test]
async fn properties_are_merged_as_clients_of_iceberg_merge_them() {
    let own =
        [("prefix", "own"), ("s3.region", "own"), ("client.region", "own"), ("s3.path-style-access", "own")];
    let config = r#"{"defaults":{"prefix":"default","s3.region":"default","s3.endpoint":"default","x":"default"},
        "overrides":{"client.region":"override","s3.remote-signing-enabled":"override"}}"#;
    let answer = r#"{"metadata-location":"s3://b/t/1.metadata.json","metadata":{},
        "config":{"s3.remote-signing-enabled":"table","s3.session-token":"table"},
        "storage-credentials":[{"prefix":"s3://b/t/","config":{"s3.access-key-id":"lent","s3.secret-access-key":"lent",
        "s3.remote-signing-enabled":"lent"}}]}"#;
    let (first, state) = catalog(&own).await;
    state.lock().faults = vec![
        ("/c/v1/config?warehouse=wh%2F1", 200, config),
        ("/c/v1/own/namespaces/a%1Fc%20d/tables/t%2F1?snapshots=refs", 200, answer),
    ];
    let loaded = first.load(&table("t/1")).await.unwrap();
    let has = |at: usize| {
        let all = loaded.credentials[at].properties.iter();
        all.map(|(name, value)| (name.as_str(), value.as_str())).collect::<BTreeMap<_, _>>()
    };
    let everywhere = [
        ("client.region", "override"),
        ("s3.endpoint", "default"),
        ("s3.path-style-access", "own"),
        ("s3.region", "own"),
    ];
    assert_eq!(
        loaded.credentials.iter().map(|one| one.prefix.as_str()).collect::<Vec<_>>(),
        ["s3://b/t/", ""]
    );
    let of_table = [("s3.remote-signing-enabled", "table"), ("s3.session-token", "table")];
    assert_eq!(has(1), everywhere.into_iter().chain(of_table).collect());
    // The session of the table's own keys is none of those that are lent.
    let lent =
        ["s3.access-key-id", "s3.remote-signing-enabled", "s3.secret-access-key"].map(|name| (name, "lent"));
    assert_eq!(has(0), everywhere.into_iter().chain(lent).collect());
    // What the catalog insists on counts for the prefix, too.
    let (catalog, state) = catalog(&own).await;
    let insists = r#"{"defaults":{},"overrides":{"prefix":"/its/"}}"#;
    let path = "/c/v1/its/namespaces/a%1Fc%20d/tables?pageToken=";
    state.lock().faults = vec![
        ("/c/v1/config?warehouse=wh%2F1", 200, insists),
        (path, 200, r#"{"identifiers":[{"namespace":["a","c d"],"name":"t/1"}]}"#),
    ];
    assert_eq!(catalog.tables(&table("").namespace).await.unwrap(), [table("t/1")]);
}

/// One team's namespace that others may not look into is nothing unusual.
#[tokio::test]
async fn a_namespace_that_is_shut_hides_none_of_the_others() {
    let (catalog, state) = catalog(&[]).await;
    let refused = r#"{"error":{"message":"nested namespaces are not supported","type":"BadRequestException","code":400}}"#;
    let gone = r#"{"error":{"message":"b went","type":"NoSuchNamespaceException","code":404}}"#;
    let tables = "/c/v1/p/namespaces/b/tables?pageToken=";
    let below = "/c/v1/p/namespaces?parent=b&pageToken=";
    for below in [(below, 400, refused), (below, 403, ""), (below, 404, gone)] {
        for (fault, known) in
            [((tables, 403, ""), None), ((tables, 404, ""), None), ((tables, 404, gone), Some(vec![]))]
        {
            state.lock().faults = vec![below, fault];
            let names = catalog.names().await.unwrap();
            let of = |namespace: &[&str]| {
                names.namespaces.iter().find(|(found, _)| found == namespace).unwrap().1.clone()
            };
            assert_eq!(of(&["a", "c d"]), Some(vec![table("t/1")]), "{below:?} {fault:?}");
            assert_eq!(of(&["b"]), known, "{below:?} {fault:?}");
        }
    }
    let all: Vec<_> =
        ["b", "a", "a%1Fc%20d"].map(|name| format!("/c/v1/p/namespaces/{name}/tables?pageToken=")).into();
    state.lock().faults = all.into_iter().map(|target| (&*target.leak(), 403, "")).collect();
    assert!(matches!(catalog.names().await, Err(CatalogError::Denied { .. })), "nobody can tell anything");
}

#[tokio::test]
async fn an_answer_without_its_list_is_none() {
    let (catalog, state) = catalog(&[]).await;
    state.lock().faults = vec![("/c/v1/p/namespaces?pageToken=", 200, "{}")];
    let error = catalog.names().await.unwrap_err();
    assert!(matches!(&error, CatalogError::Refused { why } if why.contains("'namespaces'")), "{error}");
    state.lock().faults = vec![("/c/v1/p/namespaces/a%1Fc%20d/tables?pageToken=", 200, "{}")];
    let names = catalog.names().await.unwrap();
    assert_eq!(names.namespaces.iter().find(|(namespace, _)| namespace.len() == 2).unwrap().1, None);
}

/// What was known of the namespaces in one stays only if it is told that they could not be listed.
#[tokio::test]
async fn a_namespace_that_does_not_say_which_are_in_it_is_told_apart_from_one_that_has_none() {
    let (catalog, state) = catalog(&[]).await;
    let below = "/c/v1/p/namespaces?parent=a&pageToken=";
    let gone = r#"{"error":{"message":"a went","type":"NoSuchNamespaceException","code":404}}"#;
    for (status, body, is_shut) in [
        (403, "", true),
        (400, "", true),
        (401, "", true),
        (200, "<html>login</html>", true),
        (200, "{}", true),
        (404, gone, false),
        (200, r#"{"namespaces":[]}"#, false),
    ] {
        state.lock().faults = vec![(below, status, body)];
        let names = catalog.names().await.unwrap();
        let shut: Vec<_> = names.shut_below.into_iter().collect();
        assert_eq!(shut, vec![vec!["a".to_owned()]; usize::from(is_shut)], "{status} {body}");
        assert!(names.namespaces.iter().all(|(namespace, _)| namespace.len() < 2), "{status} {body}");
    }
    state.lock().faults = vec![(below, 503, "")];
    assert!(catalog.names().await.unwrap_err().is_transient(), "what is known stays, all of it");
    state.lock().faults.clear();
    assert_eq!(catalog.names().await.unwrap().shut_below.len(), 0);
}

#[tokio::test]
async fn several_namespaces_are_asked_for_their_tables_at_once() {
    let (catalog, state) = catalog(&[]).await;
    state.lock().together = Some(Arc::new(tokio::sync::Barrier::new(3)));
    let names = tokio::time::timeout(std::time::Duration::from_secs(20), catalog.names()).await;
    let of: Vec<String> =
        names.unwrap().unwrap().namespaces.iter().map(|(namespace, _)| namespace.join(".")).collect();
    assert_eq!(of, ["a", "a.c d", "b", ""]);
}

/// A replica, or a catalog that was started anew, may tag the same version in another way.
#[tokio::test]
async fn an_etag_that_has_become_another_is_asked_with_and_says_whether_the_metadata_has_changed() {
    let (catalog, state) = catalog(&[]).await;
    state.lock().metadata = Some(r#"{"a":1,"b":[2]}"#);
    let loaded = catalog.load(&table("t/1")).await.unwrap();
    let known = [(table("t/1"), loaded.token)];
    let bodies = |state: &Shared| state.lock().bodies;
    for (replica, metadata, bodies_more) in
        [(0, r#"{"a":1,"b":[2]}"#, 0), (1, r#"{"a":1,"b":[2]}"#, 1), (2, r#"{"b": [2], "a": 1}"#, 1)]
    {
        (state.lock().replica, state.lock().metadata) = (replica, Some(metadata));
        let before = bodies(&state);
        for _ in 0..3 {
            assert_eq!(catalog.poll(&known).await.unwrap().changes, []);
        }
        assert_eq!(bodies(&state), before + bodies_more, "replica {replica}");
    }
    // Written anew at the same place: it is another one until it is loaded.
    (state.lock().replica, state.lock().metadata) = (3, Some(r#"{"a":2,"b":[2]}"#));
    for _ in 0..2 {
        assert_eq!(catalog.poll(&known).await.unwrap().changes, [Change::Changed(table("t/1"))]);
    }
    let again = catalog.load(&table("t/1")).await.unwrap();
    assert_ne!(again.token, known[0].1);
    let known = [(table("t/1"), again.token)];
    let before = bodies(&state);
    assert_eq!(catalog.poll(&known).await.unwrap().changes, []);
    assert_eq!(bodies(&state), before);
    assert!(catalog.tags.lock().is_empty());
}

#[tokio::test]
async fn a_poll_of_what_has_not_changed_is_one_request_and_no_body() {
    let (catalog, state) = catalog(&[]).await;
    let loaded = catalog.load(&table("t/1")).await.unwrap();
    assert_eq!(loaded.metadata_location.as_str(), "s3://b/t/0.metadata.json");
    assert_eq!(loaded.credentials.len(), 2);
    assert_eq!(loaded.credentials[0].prefix, "s3://b/");
    assert!(!format!("{loaded:?}{:?}{catalog:?}", loaded.credentials).contains("hush"));
    let known = [(table("t/1"), loaded.token.clone())];
    state.lock().seen.clear();
    assert_eq!(catalog.poll(&known).await.unwrap().changes, []);
    assert_eq!(state.lock().seen.len(), 1);
    state.lock().version = 1;
    assert_eq!(catalog.poll(&known).await.unwrap().changes, [Change::Changed(table("t/1"))]);
    // Without a tag the location tells.
    let untagged = [(table("t/1"), join(None, "s3://b/t/1.metadata.json"))];
    assert_eq!(catalog.poll(&untagged).await.unwrap().changes, []);
    state.lock().dropped = true;
    let known = [(table("busy"), loaded.token.clone()), (table("t/1"), loaded.token)];
    let changes = catalog.poll(&known).await.unwrap();
    assert_eq!(changes.changes, [Change::Dropped(table("t/1"))]);
    assert!(changes.failed.len() == 1 && changes.failed[0].1.is_transient(), "{changes:?}");
}

/// A drop is what the catalog itself says, in the words of the protocol.
#[tokio::test]
async fn who_is_not_the_catalog_cannot_say_that_a_table_is_gone() {
    let (catalog, state) = catalog(&[]).await;
    let token = catalog.load(&table("t/1")).await.unwrap().token;
    let known = [(table("t/1"), token)];
    for away in [
        "",
        "<html>no route</html>",
        "{}",
        r#"{"error":"not_found"}"#,
        r#"{"error":{"message":"no route","code":404}}"#,
        r#"{"error":{"message":"no warehouse","type":"NoSuchWarehouseException","code":404}}"#,
    ] {
        state.lock().away = Some(away);
        let changes = catalog.poll(&known).await.unwrap();
        assert!(changes.changes.is_empty() && changes.failed[0].1.is_transient(), "{away}: {changes:?}");
        assert!(catalog.load(&table("t/1")).await.unwrap_err().is_transient(), "{away}");
        assert!(catalog.namespaces().await.unwrap_err().is_transient(), "{away}");
        assert!(catalog.tables(&table("").namespace).await.unwrap_err().is_transient(), "{away}");
    }
    for gone in ["NoSuchTableException", "NoSuchNamespaceException", "NoSuchViewException"] {
        let said = format!(r#"{{"error":{{"message":"it is gone","type":"{gone}","code":404}}}}"#);
        state.lock().away = Some(said.leak());
        assert_eq!(catalog.poll(&known).await.unwrap().changes, [Change::Dropped(table("t/1"))], "{gone}");
    }
}

/// Who gives out tokens says nothing of tables.
#[tokio::test]
async fn no_token_is_no_drop() {
    let (catalog, state) = catalog(&[("credential", "me:s&cret")]).await;
    let known = [(table("t/1"), catalog.load(&table("t/1")).await.unwrap().token)];
    {
        let mut state = state.lock();
        (state.good, state.away) = (Some("another".into()), Some("<html>no route</html>"));
    }
    let changes = catalog.poll(&known).await.unwrap();
    assert!(changes.changes.is_empty() && changes.failed[0].1.is_transient(), "{changes:?}");
}

#[tokio::test]
async fn a_token_is_asked_for_once_and_again_when_it_has_run_out() {
    let (catalog, state) = catalog(&[("credential", "me:s&cret")]).await;
    catalog.load(&table("t/1")).await.unwrap();
    catalog.namespaces().await.unwrap();
    assert_eq!(state.lock().tokens, 1);
    state.lock().good = Some("another".into());
    catalog.namespaces().await.unwrap();
    assert_eq!(state.lock().tokens, 2);
}

/// Some are good for a minute, or less, and some servers write a number as a text.
#[tokio::test]
async fn a_token_that_is_soon_over_is_shown_more_than_once() {
    for lasts in [r#""60""#, "60", "30", "null"] {
        let (catalog, state) = catalog(&[("credential", "me:s&cret")]).await;
        let token = format!(r#"{{"access_token":"t","token_type":"bearer","expires_in":{lasts}}}"#);
        state.lock().faults = vec![("/c/v1/oauth/tokens", 200, token.leak())];
        catalog.load(&table("t/1")).await.unwrap();
        catalog.namespaces().await.unwrap();
        let asked = state.lock().seen.iter().filter(|target| target.ends_with("/tokens")).count();
        assert_eq!(asked, 1, "{lasts}");
    }
}

#[tokio::test]
async fn who_is_not_let_in_is_told_so_without_the_secret() {
    let (wrong, _) = catalog(&[("credential", "me:wr0ng")]).await;
    let error = wrong.namespaces().await.unwrap_err();
    assert!(matches!(error, CatalogError::Denied { .. }), "{error}");
    let error = error.to_string();
    assert!(error.contains("unknown client") && !error.contains("wr0ng"), "{error}");
    let (expired, state) = catalog(&[("token", "old")]).await;
    state.lock().good = Some("new".into());
    let error = expired.namespaces().await.unwrap_err();
    assert!(matches!(error, CatalogError::Denied { .. }), "{error}");
    assert!(error.to_string().contains("token is no more"), "{error}");
}

#[tokio::test]
async fn nobody_there_is_no_reason_to_give_up() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = RestCatalog::new(&uri, &Options::default()).unwrap().namespaces().await.unwrap_err();
    assert!(error.is_transient(), "{error}");
}
