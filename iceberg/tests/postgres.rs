//! A catalog in a PostgreSQL of the test's own: on a socket in its folder, and on a port of the loopback.
#![cfg(feature = "postgres")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests say what they expect")]

use icecache_iceberg::catalog::{Change, Options};
use icecache_iceberg::objects::LocalObjects;
use icecache_iceberg::{Catalog, CatalogAddress, CatalogError, TableId, Token};
use rustix::process::{Signal, geteuid, set_parent_process_death_signal};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

/// A server, for as long as this lives.
struct Server {
    child: Child,
    bin: PathBuf,
    dir: tempfile::TempDir,
    port: u16,
    /// What it logs.
    lines: Receiver<String>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a distribution keeps the programs of a server.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let places = versions.map(|version| version.path().join("bin"));
    places
        .into_iter()
        .find(|place| ["initdb", "postgres", "psql"].iter().all(|name| place.join(name).exists()))
}

/// The numbers of a user: a server does not run as root.
fn user(name: &str) -> Option<(u32, u32)> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let mut fields = users.lines().find(|line| line.split(':').next() == Some(name))?.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn command(bin: &Path, program: &str, dir: &Path) -> Command {
    let mut command = Command::new(bin.join(program));
    command
        .env_clear()
        .env("PATH", bin)
        .env("LC_ALL", "C")
        .env("PGHOST", dir)
        .env("PGUSER", "postgres")
        .current_dir("/");
    if geteuid().is_root()
        && let Some((uid, gid)) = user("postgres").or_else(|| user("nobody"))
    {
        command.uid(uid).gid(gid);
    }
    // SAFETY: between fork and exec only prctl is called. Without it a killed test would leave a server behind.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::QUIT))?));
    }
    command
}

impl Server {
    /// `None`, and a word about it, where there is none.
    fn start() -> Option<Self> {
        let Some(bin) = programs() else {
            eprintln!("SKIPPED: PostgreSQL is not installed (package postgresql)");
            return None;
        };
        let dir = tempfile::Builder::new().prefix("ic-pg.").tempdir_in("/var/tmp").unwrap();
        if geteuid().is_root() {
            let (uid, gid) = user("postgres").or_else(|| user("nobody"))?;
            chown(dir.path(), Some(uid), Some(gid)).unwrap();
        }
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let data = dir.path().join("data");
        let made = command(&bin, "initdb", dir.path())
            .args(["--auth=trust", "--username=postgres", "--no-sync", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut child = command(&bin, "postgres", dir.path())
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "log_statement=all", "-c"])
            .arg(format!("unix_socket_directories={}", dir.path().display()))
            .args(["-p", &port.to_string()])
            .arg("-D")
            .arg(&data)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready =
            lines.by_ref().map_while(Result::ok).any(|line| line.contains("ready to accept connections"));
        let (log, logged) = channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| log.send(line)));
        let server = Self { child, bin, dir, port, lines: logged };
        assert!(ready, "the server ends before it is ready");
        Some(server)
    }

    /// What psql prints.
    fn run(&self, sql: &str) -> String {
        let done = command(&self.bin, "psql", self.dir.path())
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", sql])
            .args(["-p", &self.port.to_string()])
            .output()
            .unwrap();
        assert!(done.status.success(), "{sql}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    }

    /// How many queries there were since this was asked last.
    fn queries(&self) -> usize {
        self.run("SELECT 'as far as this'");
        let before = self.lines.iter().take_while(|line| !line.contains("as far as this"));
        before.filter(|line| line.contains("execute") && line.contains("iceberg_tables")).count()
    }

    fn open(&self) -> Arc<dyn Catalog> {
        let socket = self.dir.path().to_str().unwrap().replace('/', "%2F");
        self.open_at(&socket, "").unwrap()
    }

    fn open_at(&self, host: &str, parameters: &str) -> Result<Arc<dyn Catalog>, CatalogError> {
        let address: CatalogAddress =
            format!("prod=sql:postgres://postgres@{host}:{}/postgres{parameters}", self.port)
                .parse()
                .unwrap();
        address.open(&Options::default(), Arc::new(LocalObjects::new()))
    }

    /// A key and a certificate for it in the folder: of who vouches for others, or for the name `localhost` by that one.
    fn certify(&self, name: &str, by: Option<&str>) -> PathBuf {
        let file = |name: &str, kind: &str| self.dir.path().join(format!("{name}.{kind}"));
        let config = "[req]\ndistinguished_name=dn\n[dn]\n[ca]\nbasicConstraints=critical,CA:TRUE\n\
                      [server]\nbasicConstraints=critical,CA:FALSE\nsubjectAltName=DNS:localhost\n";
        std::fs::write(file("openssl", "cnf"), config).unwrap();
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj"]);
        openssl.arg(format!("/CN={name}")).arg("-config").arg(file("openssl", "cnf"));
        openssl.arg("-keyout").arg(file(name, "key")).arg("-out").arg(file(name, "crt"));
        match by {
            None => openssl.args(["-extensions", "ca"]),
            Some(by) => openssl
                .args(["-extensions", "server", "-CA"])
                .arg(file(by, "crt"))
                .arg("-CAkey")
                .arg(file(by, "key")),
        };
        let made = openssl.output().unwrap();
        assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
        if geteuid().is_root()
            && let Some((uid, gid)) = user("postgres").or_else(|| user("nobody"))
        {
            chown(file(name, "key"), Some(uid), Some(gid)).unwrap();
        }
        file(name, "crt")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_in_postgresql_is_read_and_followed() {
    let Some(server) = Server::start() else { return };
    let catalog = server.open();
    let error = catalog.tables(&["db".into()]).await.unwrap_err();
    assert!(matches!(error, CatalogError::Refused { .. }), "{error}");

    // The table of an old catalog, without the kind and without namespaces.
    server.run(
        "CREATE TABLE iceberg_tables (catalog_name VARCHAR(255) NOT NULL, table_namespace VARCHAR(255) NOT NULL,
         table_name VARCHAR(255) NOT NULL, metadata_location VARCHAR(1000), previous_metadata_location VARCHAR(1000));
         INSERT INTO iceberg_tables VALUES ('prod', 'db', 't', 's3://b/t/1.metadata.json', NULL), ('prod', 'db', 'u', 's3://b/u/1.metadata.json', NULL)",
    );
    let id = |name: &str| TableId { namespace: vec!["db".into()], name: name.into() };
    assert_eq!(catalog.namespaces().await.unwrap(), [["db"]]);
    assert_eq!(catalog.tables(&["db".into()]).await.unwrap(), [id("t"), id("u")]);
    let mut known: Vec<(TableId, Token)> = Vec::new();
    for name in ["t", "u"] {
        known.push((id(name), catalog.load(&id(name)).await.unwrap().token));
    }
    assert!(matches!(catalog.load(&id("none")).await, Err(CatalogError::NotFound { .. })));
    assert_eq!(catalog.poll(&known).await.unwrap().changes, []);
    // Names and changes are one query, also where there is no table of namespaces.
    server.queries();
    let (names, changes) = catalog.names_and_changes(&known).await.unwrap();
    assert_eq!(
        (names.namespaces[0].1.as_ref().map(Vec::len), changes.changes, server.queries()),
        (Some(2), vec![], 1)
    );

    server.run(
        "ALTER TABLE iceberg_tables ADD COLUMN iceberg_type VARCHAR(5);
         CREATE TABLE iceberg_namespace_properties (catalog_name VARCHAR(255), namespace VARCHAR(255), property_key VARCHAR(255), property_value VARCHAR(1000));
         INSERT INTO iceberg_namespace_properties VALUES ('prod', 'empty', 'exists', 'true');
         INSERT INTO iceberg_tables VALUES ('prod', 'db', 'v', 's3://b/v/1.metadata.json', NULL, 'VIEW');
         UPDATE iceberg_tables SET metadata_location = 's3://b/t/2.metadata.json' WHERE table_name = 't';
         DELETE FROM iceberg_tables WHERE table_name = 'u'",
    );
    assert_eq!(
        catalog.poll(&known).await.unwrap().changes,
        [Change::Changed(id("t")), Change::Dropped(id("u"))]
    );
    assert_eq!(catalog.tables(&["db".into()]).await.unwrap(), [id("t")]);
    assert_eq!(catalog.namespaces().await.unwrap(), [["db"], ["empty"]]);
    server.queries();
    let (names, changes) = catalog.names_and_changes(&known).await.unwrap();
    assert_eq!((names.namespaces.len(), changes.changes.len(), server.queries()), (3, 2, 1));

    // A connection that is cut is made again.
    server.run(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'icecache'",
    );
    let first = catalog.load(&id("t")).await;
    assert!(first.as_ref().is_ok() || first.as_ref().is_err_and(CatalogError::is_transient), "{first:?}");
    assert_eq!(catalog.load(&id("t")).await.unwrap().metadata_location.as_str(), "s3://b/t/2.metadata.json");
}

/// TABLES: "The URI of a PostgreSQL may say `sslmode` and `sslrootcert` as libpq has them".
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_may_be_a_secret() {
    let Some(server) = Server::start() else { return };
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("SKIPPED: no certificate can be made without openssl");
        return;
    }
    server.run(
        "CREATE TABLE iceberg_tables (catalog_name VARCHAR(255), table_namespace VARCHAR(255), table_name VARCHAR(255),
         metadata_location VARCHAR(1000));
         INSERT INTO iceberg_tables VALUES ('prod', 'db', 't', 's3://b/t/1.metadata.json')",
    );
    // Whether the connection is one under TLS; or why there is none.
    let ask = async |host: &str, parameters: &str| -> Result<bool, String> {
        let catalog = server.open_at(host, parameters).map_err(|error| error.to_string())?;
        let tables = catalog.tables(&["db".into()]).await.map_err(|error| error.to_string())?;
        assert_eq!(tables.len(), 1);
        let ours = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                    WHERE application_name = 'icecache' AND state = 'idle'";
        let is_secret = server.run(ours);
        server.run("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'icecache'");
        Ok(is_secret == "t")
    };
    assert_eq!(ask("localhost", "").await, Ok(false));
    let none = ask("localhost", "?sslmode=require").await.unwrap_err();
    assert!(none.contains("does not support TLS"), "{none}");

    let (ours, theirs) = (server.certify("ours", None), server.certify("theirs", None));
    let own = server.certify("server", Some("ours"));
    for (setting, file) in [("ssl_cert_file", &own), ("ssl_key_file", &own.with_extension("key"))] {
        server.run(&format!("ALTER SYSTEM SET {setting} = '{}'", file.display()));
    }
    server.run("ALTER SYSTEM SET ssl = on");
    server.run("SELECT pg_reload_conf()");
    let begun = std::time::Instant::now();
    while server.run("SHOW ssl") != "on" {
        assert!(begun.elapsed().as_secs() < 60, "the server does not take the key");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let by = |mode: &str, roots: &Path| format!("?sslmode={mode}&sslrootcert={}", roots.display());
    assert_eq!(ask("localhost", "").await, Ok(true), "what the server offers is taken");
    assert_eq!(ask("localhost", "?sslmode=disable").await, Ok(false));
    assert_eq!(ask("localhost", "?sslmode=require").await, Ok(true), "whoever that is");
    assert_eq!(ask("localhost", &by("verify-full", &ours)).await, Ok(true));
    assert_eq!(ask("127.0.0.1", &by("verify-ca", &ours)).await, Ok(true));
    assert_eq!(ask("localhost", &by("verify-full", &own)).await, Ok(true), "its own certificate");
    for (host, parameters, why) in [
        ("127.0.0.1", by("verify-full", &ours), "not valid for name"),
        ("localhost", by("verify-full", &theirs), "UnknownIssuer"),
        ("localhost", by("verify-ca", &theirs), "UnknownIssuer"),
        ("localhost", by("require", &theirs), "UnknownIssuer"),
        ("localhost", "?sslmode=verify-full".to_owned(), "UnknownIssuer"),
        ("localhost", by("verify-full", Path::new("/none.pem")), "/none.pem"),
        ("localhost", by("verify-full", &own.with_extension("key")), "no certificate"),
    ] {
        let told = ask(host, &parameters).await.unwrap_err();
        assert!(told.contains(why), "{parameters}: {told}");
    }
}
