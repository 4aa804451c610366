//! Times what programs do to a directory, phase by phase, and compares directories.
//!
//! ```text
//! fsbench run  DIR --target NAME --group small|data|sqlite|tree-make|tree-walk|tree-remove [--files N] [--mib N] [--ops N]
//! fsbench archive FILE.tar --files N          a tree of small files for the tree groups
//! fsbench tree DIR --files N --mib N           a tree of so much text in so many files, for bench/restore and bench/idle
//! fsbench table RESULTS.jsonl                 medians and ratios to `native`, as a markdown table
//! ```
//! `run` prints one line of JSON per phase: `{"target":"native","phase":"create","seconds":0.12}`. Nothing is
//! flushed inside a measured phase; what earlier phases left to write back is synced before each.
use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

type Outcome<T> = Result<T, Box<dyn Error>>;

const MIB: u64 = 1 << 20;
/// Size of the files of the small group, and of a block of the random group.
const SMALL_BYTES: usize = 1024;
const BLOCK_BYTES: u64 = 4096;

/// A fixed pseudo-random sequence (splitmix64): the same offsets for every target.
struct Sequence(u64);

impl Sequence {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

struct Options {
    target: String,
    group: String,
    files: usize,
    mib: u64,
    ops: u64,
    archive: Option<PathBuf>,
}

struct Bench {
    dir: PathBuf,
    options: Options,
}

impl Bench {
    /// Runs one phase and prints its line.
    fn phase(&self, name: &str, work: impl FnOnce() -> Outcome<()>) -> Outcome<()> {
        // Write-back of an earlier phase must not be paid for by this one.
        rustix::fs::sync();
        let start = Instant::now();
        work().map_err(|error| format!("{name}: {error}"))?;
        let seconds = start.elapsed().as_secs_f64();
        let line = serde_json::json!({"target": self.options.target, "phase": name, "seconds": seconds});
        writeln!(io::stdout().lock(), "{line}")?;
        Ok(())
    }

    fn small_path(&self, i: usize) -> PathBuf {
        self.dir.join(format!("d{:03}", i % 20)).join(format!("file{i:06}"))
    }

    fn each_small(&self, mut work: impl FnMut(&Path) -> io::Result<()>) -> Outcome<()> {
        for i in 0..self.options.files {
            work(&self.small_path(i))?;
        }
        Ok(())
    }

    /// Many small files: one call each, in the order in which programs make them.
    fn small(&self) -> Outcome<()> {
        for d in 0..20 {
            fs::create_dir_all(self.dir.join(format!("d{d:03}")))?;
        }
        let content = [b'x'; SMALL_BYTES];
        self.phase("create + write 1 KiB + close", || {
            self.each_small(|path| File::create_new(path)?.write_all(&content))
        })?;
        let stat = |path: &Path| fs::symlink_metadata(path).map(drop);
        self.phase("first stat after write", || self.each_small(stat))?;
        self.phase("stat again", || self.each_small(stat))?;
        let mut buffer = Vec::with_capacity(2 * SMALL_BYTES);
        let mut read = |path: &Path| {
            buffer.clear();
            File::open(path)?.read_to_end(&mut buffer)?;
            if buffer.len() == SMALL_BYTES { Ok(()) } else { Err(io::Error::other("short file")) }
        };
        self.phase("open + read + close", || self.each_small(&mut read))?;
        self.phase("open + read + close again", || self.each_small(&mut read))?;
        self.phase("unlink", || self.each_small(|path| fs::remove_file(path)))
    }

    /// One large file, in order and at random; the data stays in the page cache, as it does for programs.
    fn data(&self) -> Outcome<()> {
        let path = self.dir.join("large");
        let total = self.options.mib * MIB;
        let blocks = total / BLOCK_BYTES;
        let mut buffer = vec![0u8; MIB as usize];
        let mut sequence = Sequence(1);
        for chunk in buffer.chunks_exact_mut(8) {
            chunk.copy_from_slice(&sequence.next().to_le_bytes());
        }
        let write_all = |file: &mut File| -> Outcome<()> {
            for _ in 0..self.options.mib {
                file.write_all(&buffer)?;
            }
            Ok(())
        };
        self.phase("sequential write, new file", || write_all(&mut File::create_new(&path)?))?;
        self.phase("sequential write, over it", || {
            write_all(&mut OpenOptions::new().write(true).open(&path)?)
        })?;
        let mut into = vec![0u8; MIB as usize];
        self.phase("sequential read", || {
            let mut file = File::open(&path)?;
            let mut left = total;
            while left > 0 {
                let n = file.read(&mut into)?;
                if n == 0 {
                    return Err("short file".into());
                }
                left -= n as u64;
            }
            Ok(())
        })?;
        let mut block = [0u8; BLOCK_BYTES as usize];
        self.phase("random read 4 KiB", || {
            let file = File::open(&path)?;
            let mut sequence = Sequence(2);
            for _ in 0..self.options.ops {
                file.read_exact_at(&mut block, sequence.next() % blocks * BLOCK_BYTES)?;
            }
            Ok(())
        })?;
        self.phase("random write 4 KiB", || {
            let file = OpenOptions::new().write(true).open(&path)?;
            let mut sequence = Sequence(3);
            for _ in 0..self.options.ops {
                file.write_all_at(&block, sequence.next() % blocks * BLOCK_BYTES)?;
            }
            Ok(())
        })?;
        fs::remove_file(&path)?;
        Ok(())
    }

    /// One transaction a row in WAL mode, by the program everybody has.
    fn sqlite(&self) -> Outcome<()> {
        let path = self.dir.join("bench.db");
        let mut script = String::from(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB);\n",
        );
        for i in 0..self.options.ops {
            script.push_str(&format!("INSERT INTO t VALUES({i}, zeroblob(500));\n"));
        }
        let sqlite = |input: String| -> Outcome<String> {
            let mut child = Command::new("sqlite3")
                .args(["-bail"])
                .arg(&path)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            let mut stdin = child.stdin.take().ok_or("no stdin")?;
            let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
            let output = child.wait_with_output()?;
            writer.join().map_err(|_| "the writer panicked")??;
            if output.status.success() {
                Ok(String::from_utf8(output.stdout)?)
            } else {
                Err("sqlite3 failed".into())
            }
        };
        self.phase("SQLite WAL inserts", || sqlite(script).map(drop))?;
        let rows = sqlite("PRAGMA integrity_check; SELECT count(*) FROM t;".to_owned())?;
        if rows.split_whitespace().collect::<Vec<_>>() != ["ok", &self.options.ops.to_string()] {
            return Err(format!("SQLite lost something: {rows}").into());
        }
        for suffix in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(self.dir.join(format!("bench.db{suffix}")));
        }
        Ok(())
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Outcome<()> {
        let status =
            Command::new(program).args(arguments).current_dir(&self.dir).stdout(Stdio::null()).status()?;
        if status.success() { Ok(()) } else { Err(format!("{program}: {status}").into()) }
    }

    fn tree_make(&self) -> Outcome<()> {
        let archive =
            self.options.archive.as_ref().ok_or("--archive is needed")?.to_str().ok_or("not UTF-8")?;
        self.phase("tar x", || self.command("tar", &["-xf", archive]))
    }

    /// `-size` makes find stat every file. The caller mounts anew before this group, so that the first is the first.
    fn tree_walk(&self) -> Outcome<()> {
        let find = || self.command("find", &[".", "-type", "f", "-size", "+1000000c"]);
        self.phase("find, first in the mount", find)?;
        self.phase("find, again", find)?;
        self.phase("read every file", || {
            self.command("grep", &["-r", "-c", "-F", "no such text", "."]).or(Ok(()))
        })?;
        self.phase("find, after reading every file", find)?;
        // A mount that lost the tree finds nothing, quickly.
        let listed = Command::new("find")
            .args([".", "-type", "f", "-printf", "x"])
            .current_dir(&self.dir)
            .output()?
            .stdout
            .len();
        if listed == self.options.files {
            Ok(())
        } else {
            Err(format!("{listed} files, not {}", self.options.files).into())
        }
    }

    fn tree_remove(&self) -> Outcome<()> {
        self.phase("rm -rf", || self.command("rm", &["-rf", "tree"]))
    }

    fn run(&self) -> Outcome<()> {
        match self.options.group.as_str() {
            "small" => self.small(),
            "data" => self.data(),
            "sqlite" => self.sqlite(),
            "tree-make" => self.tree_make(),
            "tree-walk" => self.tree_walk(),
            "tree-remove" => self.tree_remove(),
            other => Err(format!("unknown group: {other}").into()),
        }
    }
}

/// Writes a tree of `files` small files (1 to 16 KiB, 20 a directory) as a tar archive beside `archive`.
fn archive(archive: &Path, files: usize) -> Outcome<()> {
    let root = archive.with_extension("source");
    let mut sequence = Sequence(4);
    for i in 0..files {
        let dir = root.join("tree").join(format!("a{}", i / 400)).join(format!("b{}", i / 20 % 20));
        if i % 20 == 0 {
            fs::create_dir_all(&dir)?;
        }
        let text = format!("{:016x}\n", sequence.next());
        let lines = 64 + (sequence.next() % 960) as usize;
        fs::write(dir.join(format!("file{i}.txt")), text.repeat(lines))?;
    }
    let status = Command::new("tar")
        .arg("-cf")
        .arg(archive)
        .arg("-C")
        .arg(&root)
        .args(["--sort=name", "tree"])
        .status()?;
    fs::remove_dir_all(&root)?;
    if status.success() { Ok(()) } else { Err("tar failed".into()) }
}

/// Writes a tree of `files` files with `mib` MiB altogether below `root`, 100 a directory. Sizes vary from half to one
/// and a half of the mean; the text halves when it is compressed, as source and tables do.
fn tree(root: &Path, files: usize, mib: u64) -> Outcome<()> {
    let mut sequence = Sequence(5);
    let mean = (mib * MIB) / files.max(1) as u64;
    for i in 0..files {
        let dir = root.join(format!("a{}", i / 2000)).join(format!("b{}", i / 100 % 20));
        if i % 100 == 0 {
            fs::create_dir_all(&dir)?;
        }
        // Pairs of files add up to twice the mean, so that the total is exact.
        let spread = Sequence((i / 2) as u64).next() % mean.max(1);
        let bytes = if i % 2 == 0 { mean / 2 + spread } else { mean + mean / 2 - spread };
        let mut text = String::with_capacity(bytes as usize + 32);
        while (text.len() as u64) < bytes {
            text.push_str(&format!("{:016x}{:016x}\n", sequence.next(), sequence.next()));
        }
        text.truncate(bytes as usize);
        fs::write(dir.join(format!("file{i}.txt")), text)?;
    }
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

fn milliseconds(seconds: f64) -> String {
    let ms = seconds * 1000.0;
    if ms < 10.0 { format!("{ms:.2} ms") } else { format!("{ms:.0} ms") }
}

/// The n-th result of a target is paired with the n-th of native: they ran one after the other, in the same noise.
fn table(results: &Path) -> Outcome<()> {
    let mut targets: Vec<String> = Vec::new();
    let mut phases: Vec<String> = Vec::new();
    let mut seconds: BTreeMap<(String, String), Vec<f64>> = BTreeMap::new();
    for line in io::BufReader::new(File::open(results)?).lines() {
        let value: serde_json::Value = serde_json::from_str(&line?)?;
        let text =
            |field: &str| value[field].as_str().map(str::to_owned).ok_or(format!("no {field} in {value}"));
        let (target, phase) = (text("target")?, text("phase")?);
        for (list, item) in [(&mut targets, &target), (&mut phases, &phase)] {
            if !list.contains(item) {
                list.push(item.clone());
            }
        }
        let time = value["seconds"].as_f64().ok_or("no seconds")?;
        seconds.entry((phase, target)).or_default().push(time);
    }
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "| phase | {} |",
        targets
            .iter()
            .map(|t| if t == "native" { "native".to_owned() } else { format!("{t} / native") })
            .collect::<Vec<_>>()
            .join(" | ")
    )?;
    writeln!(out, "|---|{}", "---:|".repeat(targets.len()))?;
    for phase in &phases {
        let native = seconds.get(&(phase.clone(), "native".to_owned())).cloned().unwrap_or_default();
        let mut row = Vec::new();
        for target in &targets {
            let Some(times) = seconds.get(&(phase.clone(), target.clone())) else {
                row.push("–".to_owned());
                continue;
            };
            if target == "native" {
                row.push(milliseconds(median(&mut times.clone())));
            } else {
                let mut ratios: Vec<f64> =
                    times.iter().zip(&native).map(|(time, base)| time / base).collect();
                if ratios.is_empty() {
                    row.push(milliseconds(median(&mut times.clone())));
                    continue;
                }
                let (low, high) =
                    ratios.iter().fold((f64::MAX, 0f64), |(low, high), r| (low.min(*r), high.max(*r)));
                let middle = median(&mut ratios);
                row.push(format!("**{middle:.2}** ({low:.2}–{high:.2})"));
            }
        }
        writeln!(out, "| {phase} | {} |", row.join(" | "))?;
    }
    Ok(())
}

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let verb = arguments.next().ok_or("usage: fsbench run|archive|tree|table PATH [OPTION VALUE]...")?;
    let path = PathBuf::from(arguments.next().ok_or("a path is needed")?);
    let mut options = Options {
        target: "native".into(),
        group: "small".into(),
        files: 5000,
        mib: 1024,
        ops: 20_000,
        archive: None,
    };
    while let Some(option) = arguments.next() {
        let value = arguments.next().ok_or(format!("{option} needs a value"))?;
        match option.as_str() {
            "--target" => options.target = value,
            "--group" => options.group = value,
            "--files" => options.files = value.parse()?,
            "--mib" => options.mib = value.parse()?,
            "--ops" => options.ops = value.parse()?,
            "--archive" => options.archive = Some(PathBuf::from(value)),
            other => return Err(format!("unknown option: {other}").into()),
        }
    }
    match verb.as_str() {
        "run" => Bench { dir: path, options }.run(),
        "archive" => archive(&path, options.files),
        "tree" => tree(&path, options.files, options.mib),
        "table" => table(&path),
        other => Err(format!("unknown verb: {other}").into()),
    }
}
