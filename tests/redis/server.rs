//! Real servers, as children of the test on free loopback ports; and what the tests do with a tier.
use crate::common::{Source, config, content, object, place};
use crate::harness::{LIMIT, eventually, run, tool, wait_for};
use async_trait::async_trait;
use bytes::Bytes;
use icecache::cache::{Cache, Chain, ObjectId, Tier, TierError};
use icecache::redis::{RedisOptions, RedisStatus, RedisTier};
use rustix::process::{Pid, Signal, kill_process};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A port nobody listens on now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A running `redis-server`; ended with this.
#[derive(Debug)]
pub struct Server {
    child: Child,
    pub port: u16,
    dir: tempfile::TempDir,
    /// What it was started with, but for the port.
    args: Vec<String>,
    /// What `redis-cli` needs besides the port.
    cli: Vec<String>,
}

impl Server {
    /// Without persistence, with these further arguments.
    pub fn start(args: &[&str]) -> Self {
        Self::with(args, &[])
    }

    /// … and with arguments that `redis-cli` needs.
    pub fn with(args: &[&str], cli: &[&str]) -> Self {
        let dir = place();
        let args: Vec<_> = args.iter().map(ToString::to_string).collect();
        let cli = cli.iter().map(ToString::to_string).collect();
        // Somebody else may take the port between our look and the server's.
        for _ in 0..5 {
            let port = free_port();
            if let Some(child) = spawn(&dir, port, &args) {
                return Self { child, port, dir, args, cli };
            }
        }
        panic!("redis-server does not start: {}", said(&dir));
    }

    /// A cluster of three masters without replicas; slots of one that is gone do not stop the others.
    pub fn cluster() -> [Self; 3] {
        let nodes = [(); 3].map(|()| {
            let bus = free_port().to_string();
            let cluster = ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"];
            let rest =
                ["--cluster-port", &bus, "--cluster-require-full-coverage", "no", "--cluster-node-timeout"];
            Self::start(&[&cluster[..], &rest[..], &["2000"]].concat())
        });
        let addresses = nodes.each_ref().map(|node| format!("127.0.0.1:{}", node.port));
        let mut create = Command::new("redis-cli");
        create.args(["--cluster", "create"]).args(&addresses).args([
            "--cluster-replicas",
            "0",
            "--cluster-yes",
        ]);
        run(&mut create, LIMIT).must("making a cluster");
        for node in &nodes {
            eventually("the cluster to be well", LIMIT, || {
                node.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok").then_some(())
            });
        }
        nodes
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// What `redis-cli` prints.
    #[track_caller]
    pub fn cli(&self, args: &[&str]) -> String {
        let mut cli = Command::new("redis-cli");
        cli.args(["-p", &self.port.to_string()]).args(&self.cli).args(args);
        run(&mut cli, LIMIT).must("redis-cli").stdout.trim().to_owned()
    }

    /// All keys.
    pub fn keys(&self) -> Vec<String> {
        let mut keys: Vec<_> = self.cli(&["KEYS", "*}:*"]).lines().map(str::to_owned).collect();
        keys.retain(|key| !key.is_empty());
        keys.sort();
        keys
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// It does nothing any more; the kernel still takes connections for it.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// It goes on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        wait_for(&mut self.child, LIMIT).expect("it ends");
    }

    /// Once more, on the same port, empty.
    pub fn restart(&mut self) {
        // The port may be free a little later.
        self.child =
            eventually("redis-server to come back", LIMIT, || spawn(&self.dir, self.port, &self.args));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = wait_for(&mut self.child, LIMIT);
    }
}

/// Running and listening, or nothing.
fn spawn(dir: &tempfile::TempDir, port: u16, args: &[String]) -> Option<Child> {
    let log = dir.path().join("log");
    let port_args = if args.iter().any(|arg| arg == "--tls-cert-file") {
        ["--port".into(), "0".into(), "--tls-port".into(), port.to_string()]
    } else {
        ["--port".into(), port.to_string(), "--tcp-backlog".into(), "128".into()]
    };
    // It must not outlive a test that is killed.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "redis-server"])
        .args(port_args)
        .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no"])
        .arg("--dir")
        .arg(dir.path())
        .arg("--logfile")
        .arg(&log)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(dir.path().join("stderr")).unwrap());
    let mut child = command.spawn().expect("setpriv (util-linux) is not here: scripts/provision installs it");
    eventually("redis-server to listen", LIMIT, || match wait_for(&mut child, Duration::ZERO) {
        Some(127) => panic!("redis-server is not here: scripts/provision installs it"),
        Some(_) => Some(None),
        None => TcpStream::connect(("127.0.0.1", port)).ok().map(Some),
    })
    .map(|_| child)
}

fn said(dir: &tempfile::TempDir) -> String {
    let read = |name| std::fs::read_to_string(dir.path().join(name)).unwrap_or_default();
    read("log") + &read("stderr")
}

/// Certificates for 127.0.0.1, and who vouches for them.
#[derive(Debug)]
pub struct Certificates {
    dir: tempfile::TempDir,
}

impl Certificates {
    pub fn make() -> Self {
        let made = Self { dir: place() };
        let path = |name: &str| made.path(name).into_os_string();
        let openssl = |args: &[&str], files: &[(&str, &str)]| {
            let mut all: Vec<std::ffi::OsString> = args.iter().map(Into::into).collect();
            for (option, name) in files {
                all.extend([option.into(), path(name)]);
            }
            tool("openssl", &all.iter().map(AsRef::as_ref).collect::<Vec<_>>());
        };
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let root = ["req", "-x509", "-days", "2", "-subj", "/CN=icecache test"];
        openssl(&[&root[..], &key[..]].concat(), &[("-keyout", "ca.key"), ("-out", "ca.pem")]);
        let request = ["req", "-subj", "/CN=redis"];
        openssl(&[&request[..], &key[..]].concat(), &[("-keyout", "redis.key"), ("-out", "redis.csr")]);
        std::fs::write(made.path("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
        let files = [("-in", "redis.csr"), ("-CA", "ca.pem"), ("-CAkey", "ca.key"), ("-extfile", "names")];
        openssl(
            &["x509", "-req", "-days", "2", "-CAcreateserial"],
            &[&files[..], &[("-out", "redis.pem")]].concat(),
        );
        made
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Deadlines that no slow machine misses; what is never awaited in a test that goes well.
pub fn options(url: &str) -> RedisOptions {
    let mut options = RedisOptions::parse(url).unwrap();
    options.deadline = LIMIT;
    options.write_deadline = LIMIT;
    options.connect_deadline = LIMIT;
    options.chunk_bytes = 16 << 10;
    options
}

/// Connected, with the options of [`options`].
pub async fn tier(url: &str) -> RedisTier {
    connected(options(url)).await
}

pub async fn connected(options: RedisOptions) -> RedisTier {
    let tier = RedisTier::open(options).await.unwrap();
    tier.ready().await.unwrap();
    tier
}

/// Waits until `status` is as it is to be. Each change of it rings.
pub async fn await_status(tier: &RedisTier, what: &str, yes: impl Fn(&RedisStatus) -> bool) {
    let mut changes = tier.watch();
    let waiting = async {
        while !yes(&tier.status()) {
            changes.changed().await.unwrap();
        }
    };
    assert!(
        tokio::time::timeout(LIMIT, waiting).await.is_ok(),
        "waited in vain: {what}: {:?}",
        tier.status()
    );
}

/// Waits until all servers answer.
pub async fn await_up(tier: &RedisTier) {
    let up =
        |status: &RedisStatus| !status.nodes.is_empty() && status.nodes.iter().all(|node| node.up.is_some());
    await_status(tier, "redis to answer", up).await;
}

/// A tier that says when a block is written.
#[derive(Debug)]
struct Told {
    tier: RedisTier,
    written: watch::Sender<u64>,
}

#[async_trait]
impl Tier for Told {
    fn name(&self) -> &'static str {
        self.tier.name()
    }

    async fn get(&self, object: &ObjectId, range: Range<u64>) -> Result<Option<Bytes>, TierError> {
        self.tier.get(object, range).await
    }

    async fn put(&self, object: &ObjectId, range: Range<u64>, bytes: Bytes) -> Result<(), TierError> {
        self.tier.put(object, range, bytes).await?;
        self.written.send_modify(|written| *written += 1);
        Ok(())
    }
}

/// A machine: its own directory, its own origin, a tier.
pub struct Machine {
    pub cache: Cache,
    pub source: Arc<Source>,
    pub tier: RedisTier,
    told: Arc<Told>,
    _dir: tempfile::TempDir,
}

impl Machine {
    pub async fn new(tier: RedisTier) -> Self {
        let dir = place();
        let cache = Cache::open(config(dir.path())).await.unwrap();
        let told = Arc::new(Told { tier: tier.clone(), written: watch::Sender::new(0) });
        Self { cache, source: Arc::default(), tier, told, _dir: dir }
    }

    /// Reads a range of an object, and looks at every byte.
    pub async fn read(&self, seed: u64, size: u64, range: Range<u64>) {
        let chain = Arc::new(Chain::new(vec![self.told.clone()], self.source.clone()));
        let blob = self.cache.blob(&object(seed, size), chain).unwrap();
        let bytes = blob.read(range.start, (range.end - range.start) as usize).await.unwrap();
        assert!(bytes == content(seed, range.clone()), "object {seed} {range:?} is wrong");
    }

    /// Waits until so many blocks that it has read are written.
    pub async fn await_writes(&self, writes: u64) {
        let mut written = self.told.written.subscribe();
        let waiting = written.wait_for(|written| *written >= writes);
        assert!(tokio::time::timeout(LIMIT, waiting).await.is_ok(), "{writes} blocks are not written");
    }
}

/// `path` as a query value.
pub fn query(path: &Path) -> String {
    path.display().to_string()
}
