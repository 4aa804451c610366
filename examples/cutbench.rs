//! Measures how long a cut holds up a program that never stops writing.
//!
//! ```text
//! cutbench DIR --program ICECACHE [--cuts N] [--mib N] [--files N]
//! ```
//! Keeps files open for writing, changes so many MiB among them, asks for a flush and waits for it, and again. Beside
//! it one thread writes 4 KiB blocks without a pause and notes its longest write of each round. Every round is measured
//! twice: with the flush, and for as long without one. Prints one row of a markdown table.
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error>>;

const BLOCK_BYTES: u64 = 4096;
/// The writer goes round in so many blocks, so that its file does not grow.
const BLOCKS: u64 = 256;

/// A thread that writes without a pause; `longest` collects its longest write in microseconds.
struct Writer {
    longest: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<io::Result<u64>>,
}

impl Writer {
    fn start(path: &Path) -> Outcome<Self> {
        let file = File::create(path)?;
        let (longest, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (seen, ended) = (longest.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut block = [0u8; BLOCK_BYTES as usize];
            let mut written = 0u64;
            while !ended.load(Ordering::Relaxed) {
                block[..8].copy_from_slice(&written.to_le_bytes());
                let start = Instant::now();
                file.write_all_at(&block, written % BLOCKS * BLOCK_BYTES)?;
                seen.fetch_max(start.elapsed().as_micros() as u64, Ordering::Relaxed);
                written += 1;
            }
            Ok(written)
        });
        Ok(Self { longest, stop, thread })
    }

    fn end(self) -> Outcome<u64> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.thread.join().map_err(|_| "the writer panicked")??)
    }
}

/// Writes `bytes` of new content over the files, the same share to each.
fn change(files: &[File], bytes: u64, seed: u64) -> io::Result<()> {
    let share = bytes / files.len().max(1) as u64;
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut content = vec![0u8; share as usize];
    for file in files {
        for chunk in content.chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
        }
        file.write_all_at(&content, 0)?;
    }
    Ok(())
}

fn percentile(values: &mut [u64], percent: usize) -> f64 {
    values.sort_unstable();
    let at = (values.len().saturating_sub(1) * percent + 50) / 100;
    values.get(at).map_or(f64::NAN, |us| *us as f64 / 1000.0)
}

fn ask(program: &Path, arguments: &[&str], dir: &Path) -> Outcome<String> {
    let output = Command::new(program).arg(arguments[0]).arg(dir).args(&arguments[1..]).output()?;
    if output.status.success() {
        Ok(String::from_utf8(output.stdout)?)
    } else {
        Err(format!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
    }
}

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("usage: cutbench DIR --program PATH [OPTION VALUE]...")?);
    let (mut program, mut cuts, mut mib, mut count) = (PathBuf::from("icecache"), 200u64, 64u64, 100u64);
    while let Some(option) = arguments.next() {
        let value = arguments.next().ok_or(format!("{option} needs a value"))?;
        match option.as_str() {
            "--program" => program = PathBuf::from(value),
            "--cuts" => cuts = value.parse()?,
            "--mib" => mib = value.parse()?,
            "--files" => count = value.parse()?,
            other => return Err(format!("unknown option: {other}").into()),
        }
    }
    let open =
        |i| OpenOptions::new().create(true).truncate(true).write(true).open(dir.join(format!("open{i}")));
    let files: Vec<File> = (0..count).map(open).collect::<io::Result<_>>()?;
    let writer = Writer::start(&dir.join("written"))?;
    let (mut held, mut free, mut said) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=cuts {
        change(&files, mib << 20, round + 1)?;
        writer.longest.store(0, Ordering::Relaxed);
        let start = Instant::now();
        ask(&program, &["flush", "--wait"], &dir)?;
        let longest = writer.longest.swap(0, Ordering::Relaxed);
        std::thread::sleep(start.elapsed().min(Duration::from_secs(2)));
        if round == 0 {
            continue; // the first saves everything and starts the helper
        }
        held.push(longest);
        free.push(writer.longest.load(Ordering::Relaxed));
        let stats: serde_json::Value = serde_json::from_str(&ask(&program, &["stats", "--json"], &dir)?)?;
        said.push(stats["cut"]["last_pause_us"].as_u64().ok_or("no cut.last_pause_us")?);
    }
    let written = writer.end()?;
    if written < cuts {
        return Err("the writer hardly wrote".into());
    }
    writeln!(
        io::stdout().lock(),
        "| {mib} MiB in {count} files | {:.1} ms | **{:.1} ms** | {:.1} ms | {:.1} ms | {:.1} ms | ≤ 25 ms |",
        percentile(&mut held, 50),
        percentile(&mut held, 99),
        percentile(&mut held, 100),
        percentile(&mut free, 99),
        percentile(&mut said, 99),
    )?;
    Ok(())
}
