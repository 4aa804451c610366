//! A PostgreSQL server that works in a mount survives its machine: restored elsewhere, lazily, it recovers, is whole, and
//! has every transaction that it had acknowledged before an acknowledged flush.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use harness::lab::signal;
use harness::{
    Dice, Finished, LIMIT, Lab, Mode, Setup, Subject, eventually, is_root, run, skip, slice, wait_for,
};
use rustix::process::Signal;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What a server needs: where its programs are, and who it is to be (it refuses to be root).
struct Postgres {
    bin: PathBuf,
    /// Uid and gid to become; `None`: we are an ordinary user ourselves.
    id: Option<(u32, u32)>,
    /// Its socket and log, outside of the mount.
    run: PathBuf,
}

/// A server that runs. Dropping it ends it as a machine does that fails.
struct Server<'a> {
    postgres: &'a Postgres,
    child: Child,
}

/// Where a distribution keeps the programs of a server, the newest first.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut places: Vec<PathBuf> = versions.map(|v| v.path().join("bin")).collect();
    places.sort_by_key(|place| {
        std::cmp::Reverse(place.parent().and_then(|p| p.file_name()?.to_str()?.parse::<u32>().ok()))
    });
    places.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    let needed = ["initdb", "postgres", "psql", "pgbench", "pg_amcheck", "pg_checksums"];
    places.into_iter().find(|place| needed.iter().all(|program| place.join(program).exists()))
}

impl Postgres {
    /// `None`, and a word about it, where there is no server.
    fn new(run: PathBuf) -> Option<Self> {
        let Some(bin) = programs() else {
            skip("PostgreSQL", "not installed (package postgresql; scripts/provision has it)");
            return None;
        };
        let id = if is_root() { Some(user("postgres").or_else(|| user("nobody"))?) } else { None };
        fs::create_dir(&run).unwrap();
        let postgres = Self { bin, id, run };
        postgres.give(&postgres.run);
        Some(postgres)
    }

    /// Makes a directory the server's own.
    fn give(&self, dir: &Path) {
        if let Some((uid, gid)) = self.id {
            chown(dir, Some(uid), Some(gid)).unwrap();
        }
        fs::set_permissions(dir, Permissions::from_mode(0o700)).unwrap();
    }

    /// A program as the server's user, with nothing of this machine's configuration in sight.
    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.args(args).env_clear().env("PATH", &self.bin).env("LC_ALL", "C").current_dir("/");
        command.env("PGHOST", &self.run).env("PGUSER", "postgres").env("PGDATABASE", "postgres");
        if let Some((uid, gid)) = self.id {
            command.uid(uid).gid(gid);
        }
        // SAFETY: between fork and exec only prctl is called. Without it a killed test run would leave servers behind.
        unsafe {
            command.pre_exec(|| Ok(rustix::process::set_parent_process_death_signal(Some(Signal::QUIT))?));
        }
        command
    }

    #[track_caller]
    fn call(&self, program: &str, args: &[&str]) -> Finished {
        run(&mut self.command(program, args), LIMIT)
    }

    /// The answer to a query, one line for each row.
    #[track_caller]
    fn ask(&self, query: &str) -> String {
        let args = ["-qAtX", "-v", "ON_ERROR_STOP=1", "-c", query];
        self.call("psql", &args).must(query).stdout.trim().to_owned()
    }

    fn log(&self) -> PathBuf {
        self.run.join("log")
    }

    /// Starts a server on a data directory and waits until it answers: after its recovery.
    #[track_caller]
    fn start(&self, data: &Path, settings: &[&str]) -> Server<'_> {
        let log = OpenOptions::new().create(true).write(true).truncate(true).open(self.log()).unwrap();
        let (data, run) = (data.to_str().unwrap(), self.run.to_str().unwrap());
        let mut command = self.command("postgres", &["-D", data, "-k", run]);
        // Small, so that checkpoints, evictions and segments of the log come and go within moments.
        let small =
            ["shared_buffers=4MB", "max_wal_size=8MB", "checkpoint_timeout=30s", "autovacuum_naptime=1s"];
        for setting in ["listen_addresses="].iter().chain(&small).chain(settings) {
            command.args(["-c", setting]);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut server = Server { postgres: self, child };
        eventually("the server answers", LIMIT, || {
            let ended = wait_for(&mut server.child, Duration::ZERO);
            assert!(ended.is_none(), "the server does not start: {}", self.said());
            self.call("psql", &["-qAtX", "-c", "select 1"]).ok().then_some(())
        });
        server
    }

    fn said(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }
}

impl Server<'_> {
    /// Shuts down in good order.
    #[track_caller]
    fn stop(mut self) {
        signal(self.child.id(), Signal::INT);
        assert_eq!(wait_for(&mut self.child, LIMIT), Some(0), "{}", self.postgres.said());
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        // At once and without writing anything, but what it shares with its processes is freed.
        signal(self.child.id(), Signal::QUIT);
        if wait_for(&mut self.child, Duration::from_secs(10)).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn user(name: &str) -> Option<(u32, u32)> {
    let table = fs::read_to_string("/etc/passwd").ok()?;
    let fields: Vec<&str> = table.lines().find(|l| l.split(':').next() == Some(name))?.split(':').collect();
    Some((fields[2].parse().ok()?, fields[3].parse().ok()?))
}

/// Clients at work: pgbench, and one that counts in a table of its own and knows what was acknowledged to it.
struct Clients {
    bench: Child,
    counter: Child,
    counted: Arc<AtomicU64>,
    counting: Option<JoinHandle<()>>,
}

impl Clients {
    /// The counter goes on after `last`.
    fn start(postgres: &Postgres, last: u64) -> Self {
        let bench = ["-n", "-c", "3", "-j", "1", "-T", "3600"];
        let bench = postgres
            .command("pgbench", &bench)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut counter = postgres
            .command("psql", &["-qAtX"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let counted = Arc::new(AtomicU64::new(last));
        let (mut ask, answers) = (counter.stdin.take().unwrap(), counter.stdout.take().unwrap());
        let said = counted.clone();
        let counting = std::thread::spawn(move || {
            let mut answers = BufReader::new(answers).lines();
            for n in last + 1.. {
                // Each is a transaction; psql says the row when the server has said that it is committed.
                if writeln!(ask, "insert into counter values ({n}) returning n;").is_err() {
                    return;
                }
                match answers.next() {
                    Some(Ok(line)) => assert_eq!(line, n.to_string()),
                    _ => return,
                }
                said.store(n, Ordering::Release);
            }
        });
        Self { bench, counter, counted, counting: Some(counting) }
    }

    /// The last number whose transaction was acknowledged.
    fn counted(&self) -> u64 {
        self.counted.load(Ordering::Acquire)
    }

    #[track_caller]
    fn await_commits(&self, more: u64) {
        let from = self.counted();
        eventually("transactions", LIMIT, || (self.counted() >= from + more).then_some(()));
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        for child in [&mut self.bench, &mut self.counter] {
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(counting) = self.counting.take() {
            let _ = counting.join();
        }
    }
}

/// Everything that can be known of the databases from within; returns how far the counter is.
#[track_caller]
fn check(postgres: &Postgres, what: &str) -> u64 {
    let counter = postgres.ask("select count(*), coalesce(max(n), 0) from counter");
    let (count, max) = counter.split_once('|').unwrap();
    assert_eq!(count, max, "{what}: transactions are missing in between");
    // Each transaction of pgbench changes all four sums by the same.
    let sums = postgres.ask(
        "select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers), \
         (select sum(bbalance) from pgbench_branches), (select coalesce(sum(delta), 0) from pgbench_history)",
    );
    let sums: Vec<&str> = sums.split('|').collect();
    assert!(sums.iter().all(|sum| *sum == sums[0]), "{what}: torn transactions: {sums:?}");
    // Every heap and every index, and that these have all of those.
    postgres.call("pg_amcheck", &["--all", "--install-missing", "--heapallindexed"]).must(what);
    max.parse().unwrap()
}

/// SEMANTICS, Cut: "Databases that are being written are saved as they would be found after a power failure at that
/// instant"; Crash: "When the disk is lost as well, the tree is that of one moment, not older than the last acknowledged
/// flush."
#[test]
fn a_server_survives_its_machine() {
    let mut dice = Dice::seeded("postgres");
    let mut lab = Lab::prepare(Setup::default().flushing("200ms", "1s"));
    let Some(postgres) = Postgres::new(lab.root().join("run")) else { return };
    fs::set_permissions(lab.root(), Permissions::from_mode(0o755)).unwrap();
    postgres.give(&lab.place());
    lab.mount();

    let init =
        ["--data-checksums", "--auth=trust", "--username=postgres", "--wal-segsize=1", "--no-sync", "-D"];
    let data = lab.dir().join("data");
    postgres.call("initdb", &[&init[..], &[data.to_str().unwrap()]].concat()).must("initdb");
    let mut server = postgres.start(&data, &[]);
    postgres.call("pgbench", &["-i", "-q"]).must("pgbench -i");
    postgres.ask("create table counter (n bigint primary key)");
    let mut last = check(&postgres, "the new server");

    let modes = [Mode::Passthrough, Mode::Classic];
    for round in 0..slice(5, 100) {
        let clients = Clients::start(&postgres, last);
        clients.await_commits(1 + dice.below(60));
        let noted = clients.counted();
        lab.flush();
        clients.await_commits(dice.below(120));

        // The machine fails, and all that it had is gone.
        lab.kill();
        drop(server);
        drop(clients);
        lab.setup.mode = modes[(round + 1) % 2];
        lab.setup.options = if round % 3 == 0 { Vec::new() } else { vec!["--no-prefetch".into()] };
        lab.elsewhere();

        let data = lab.dir().join("data");
        // Before its recovery a server opens every file, which brings all of them; or it trusts the kernel.
        let opening = ["recovery_init_sync_method=fsync", "recovery_init_sync_method=syncfs"][round / 2 % 2];
        server = postgres.start(&data, &[opening]);
        let said = postgres.said();
        assert!(
            said.contains("automatic recovery in progress"),
            "nothing to recover, the check is void: {said}"
        );
        last = check(&postgres, &format!("round {round}"));
        assert!(last >= noted, "round {round}: {noted} was acknowledged and flushed, {last} came back");
    }
    server.stop();
    let data = lab.dir().join("data");
    postgres.call("pg_checksums", &["--check", "-D", data.to_str().unwrap()]).must("pg_checksums");
    lab.unmount();
}
