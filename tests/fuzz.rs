//! A slice of the fuzzing in every run: each target of `fuzz/` with mutations of what `scripts/fuzz` begins with. That
//! goes on from there, for as long as one likes, led by coverage and under the address sanitizer.
#![cfg(all(feature = "fuse", feature = "redis", feature = "tables"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)] // a test may panic
#![allow(unused_attributes)] // the targets are programs elsewhere
extern crate self as libfuzzer_sys;

mod harness;

#[path = "../fuzz/fuzz_targets/absent_log.rs"]
mod absent_log;
#[path = "../fuzz/fuzz_targets/cache_records.rs"]
mod cache_records;
#[path = "../fuzz/fuzz_targets/cache_witness.rs"]
mod cache_witness;
#[path = "../fuzz/fuzz_targets/fuse_request.rs"]
mod fuse_request;
#[path = "../fuzz/fuzz_targets/head_document.rs"]
mod head_document;
#[path = "../fuzz/fuzz_targets/hive_reply.rs"]
mod hive_reply;
#[path = "../fuzz/fuzz_targets/iceberg_avro.rs"]
mod iceberg_avro;
#[path = "../fuzz/fuzz_targets/iceberg_metadata.rs"]
mod iceberg_metadata;
#[path = "../fuzz/fuzz_targets/iceberg_parquet.rs"]
mod iceberg_parquet;
#[path = "../fuzz/fuzz_targets/journal_records.rs"]
mod journal_records;
#[path = "../fuzz/fuzz_targets/layer_index.rs"]
mod layer_index;
#[path = "../fuzz/fuzz_targets/layer_reader.rs"]
mod layer_reader;
#[path = "../fuzz/fuzz_targets/orc_deletes.rs"]
mod orc_deletes;
#[path = "../fuzz/fuzz_targets/predicate.rs"]
mod predicate;
#[path = "../fuzz/fuzz_targets/redis_value.rs"]
mod redis_value;
#[path = "../fuzz/fuzz_targets/table_pins.rs"]
mod table_pins;
#[path = "../fuzz/fuzz_targets/table_remembered.rs"]
mod table_remembered;
#[path = "../fuzz/fuzz_targets/tar_headers.rs"]
mod tar_headers;
#[path = "../fuzz/fuzz_targets/trace.rs"]
mod trace;

use harness::{Dice, slice};
use std::path::Path;
use std::process::Command;

/// Stands where the fuzzing engine's macro would.
#[macro_export]
macro_rules! fuzz_target {
    (|$data:ident: &[u8]| $body:block) => {
        pub fn run($data: &[u8]) $body
    };
}

macro_rules! targets {
    ($($name:ident,)*) => {
        const TARGETS: &[&str] = &[$(stringify!($name)),*];

        mod nothing_breaks {
            $(
                #[test]
                fn $name() {
                    super::try_many(stringify!($name), crate::$name::run);
                }
            )*
        }
    };
}

targets! {
    absent_log,
    cache_records,
    cache_witness,
    fuse_request,
    head_document,
    hive_reply,
    iceberg_avro,
    iceberg_metadata,
    iceberg_parquet,
    journal_records,
    layer_index,
    layer_reader,
    orc_deletes,
    predicate,
    redis_value,
    table_pins,
    table_remembered,
    tar_headers,
    trace,
}

/// The longest input.
const BYTES_MAX: usize = 1 << 16;

#[test]
fn all_targets_are_here() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| Path::new(&entry.unwrap().file_name()).file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    assert_eq!(names, TARGETS);
}

/// What the readers meet in real life is a better start than nothing.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let golden = |name: &str| std::fs::read(root.join("tests/golden").join(name)).unwrap();
    match target {
        "layer_reader" => {
            ["layer-v1.tar.zst", "layer-v2.tar.zst", "layer-v3.tar.zst", "layer-v3-dictionary.tar.zst"]
                .map(golden)
                .into()
        }
        "layer_index" => vec![golden("layer-v2.tar.zst")],
        "tar_headers" => vec![zstd::decode_all(&golden("layer-v1.tar.zst")[..]).unwrap()],
        "head_document" => ["golden.json", "golden-inline.json"]
            .map(|name| std::fs::read(root.join("src/state/head").join(name)).unwrap())
            .into(),
        "iceberg_avro" => of_tables(&["avro"]),
        "iceberg_metadata" => of_tables(&["json", "puffin"]),
        "iceberg_parquet" => of_tables(&["parquet"]),
        "orc_deletes" => std::fs::read_dir(root.join("iceberg/tests/fixtures/orc"))
            .unwrap()
            .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
            .collect(),
        "predicate" => PREDICATES.iter().map(|text| text.as_bytes().to_vec()).collect(),
        _ => vec![Vec::new()],
    }
}

/// On the columns that the target knows.
const PREDICATES: [&str; 4] = [
    "a AND NOT b >= -12 OR c < 1.5e3 AND d IN (1, 2.50, -3)",
    "(e BETWEEN DATE '2026-01-31' AND '2026-02-01') AND f != '12:00:00' OR g = TIMESTAMP '2026-01-31 12:00:00'",
    "i LIKE 'it''s%' AND h > '2026-01-31T12:00:00Z' AND k = X'00FF'",
    "\"j\" = 'f79c3e09-677c-4bbd-a479-3f349cb785e7' AND i IS NOT NULL AND i NOT IN ('', 'x')",
];

/// Files of these kinds of the tables that the tests have.
fn of_tables(extensions: &[&str]) -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("iceberg/tests/fixtures/tables.tar.zst");
    let mut tar = Command::new("tar");
    tar.args(["--zstd", "--wildcards", "--transform=s,/,-,g", "-xf"]).arg(archive).arg("-C").arg(dir.path());
    tar.args(extensions.iter().map(|extension| format!("*.{extension}")));
    harness::run(&mut tar, harness::LIMIT).must("tar");
    let files =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
    files.filter(|bytes| bytes.len() <= BYTES_MAX).collect()
}

fn try_many(target: &str, run: fn(&[u8])) {
    let (seeds, mut dice) = (seeds(target), Dice::seeded(target));
    assert!(!seeds.is_empty());
    for seed in &seeds {
        run(seed);
    }
    for _ in 0..slice(3000, 300_000) {
        let mut input = seeds[dice.below(seeds.len() as u64) as usize].clone();
        for _ in 0..=dice.below(6) {
            mutate(&mut input, &mut dice);
        }
        let broken = std::panic::catch_unwind(|| run(&input)).is_err();
        if broken {
            let path = std::env::temp_dir().join(format!("icecache-fuzz-{target}"));
            std::fs::write(&path, &input).unwrap();
            panic!("{target} breaks of {}", path.display());
        }
    }
}

fn mutate(input: &mut Vec<u8>, dice: &mut Dice) {
    let length = input.len() as u64;
    let (from, to) = (dice.below(length), dice.below(length + 1));
    let (from, to) = (from.min(to) as usize, from.max(to) as usize);
    let some = |dice: &mut Dice| -> Vec<u8> { (0..dice.below(40)).map(|_| dice.next() as u8).collect() };
    match dice.below(7) {
        0 if from < to => input[from] ^= 1 << dice.below(8),
        1 if from < to => input[from] = [0, 1, 0x7f, 0x80, 0xff][dice.below(5) as usize],
        2 => {
            let value = [0, 1, u64::MAX, 1 << 31, 1 << 32, 1 << 63, dice.next()][dice.below(7) as usize];
            let width = [2, 4, 8][dice.below(3) as usize].min(input.len() - from);
            input[from..from + width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
        3 => drop(input.drain(from..to.min(from + 64))),
        4 if length < BYTES_MAX as u64 => {
            let twice = input[from..to.min(from + 512)].to_vec();
            input.splice(from..from, twice);
        }
        5 => input.truncate(to),
        _ => {
            let bytes = some(dice);
            input.splice(from..from, bytes);
        }
    }
}
