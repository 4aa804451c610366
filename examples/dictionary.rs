//! What a compression dictionary gains on a tree: `cargo run --profile ci --example dictionary -- DIR`.
//!
//! Makes one of half of the tree's small files, then packs layers of 1, 5, 20, 100 and 500 of the others, and one
//! of all of these, with and without it, and prints a table of their sizes, which depend on no machine.
#![allow(clippy::print_stdout)]
use icecache::layer::content::Content;
use icecache::layer::dictionary::{Dictionary, sample};
use icecache::layer::{Entry, Kind, LayerWriter, Metadata, PackOptions, References};
use icecache::path::RelPath;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What counts as small, and how much of it a dictionary is made of; as in `state/commit/compress.rs`.
const SMALL_BYTES_MAX: u64 = 32 << 10;
const SAMPLES_MAX: usize = 4096;
/// Layers of each size, of files from all over the tree.
const LAYERS: usize = 20;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let Some(top) = std::env::args_os().nth(1).map(PathBuf::from) else {
        return Err("usage: dictionary DIR".into());
    };
    let mut paths = Vec::new();
    collect(&top, &mut paths)?;
    // The same order everywhere, and neighbours far apart.
    paths.sort_by_key(|path| blake3::hash(path.as_os_str().as_bytes()).to_hex().to_string());
    let half = paths.split_off(paths.len() / 2);
    let load_all = |paths: &[PathBuf]| paths.iter().filter_map(|path| load(&top, path)).collect::<Vec<_>>();
    let (known, files) = (load_all(&half), load_all(&paths));
    let samples: Vec<Vec<u8>> = known
        .iter()
        .take(SAMPLES_MAX)
        .map(|(entry, bytes)| sample(entry, bytes))
        .collect::<Result<_, _>>()?;
    let dictionary = Dictionary::train(&samples)?;
    println!("a dictionary of {} bytes, made of {} files", dictionary.bytes().len(), samples.len());
    println!("| files in a layer | without | with | gain |\n|---|---|---|---|");
    for count in [1, 5, 20, 100, 500, files.len()] {
        let layers = if count == files.len() { 1 } else { LAYERS };
        let (mut without, mut with) = (0, 0);
        for layer in 0..layers {
            let picked: Vec<_> = (0..count).map(|n| &files[(layer * count + n) % files.len()]).collect();
            without += pack(&picked, None)?;
            with += pack(&picked, Some(dictionary.clone()))?;
        }
        let gain = (1.0 - with as f64 / without as f64) * 100.0;
        println!("| {count} | {} | {} | {gain:.1} % |", without / layers as u64, with / layers as u64);
    }
    Ok(())
}

fn collect(dir: &Path, paths: &mut Vec<PathBuf>) -> Outcome<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let Ok(metadata) = path.symlink_metadata() else { continue };
        if metadata.is_dir() {
            collect(&path, paths)?;
        } else if metadata.is_file() && (1..=SMALL_BYTES_MAX).contains(&metadata.len()) {
            paths.push(path);
        }
    }
    Ok(())
}

fn load(top: &Path, path: &Path) -> Option<(Entry, Vec<u8>)> {
    let bytes = fs::read(path).ok()?;
    let meta = Metadata { mode: 0o644, ..Metadata::default() };
    let kind = Kind::File { size: bytes.len() as u64, fuzzy: false, refs: References::none() };
    let path = RelPath::new(path.strip_prefix(top).ok()?.as_os_str().as_bytes()).ok()?;
    Some((Entry { path, kind, meta }, bytes))
}

/// How many bytes a layer of these files has.
fn pack(files: &[&(Entry, Vec<u8>)], dictionary: Option<Dictionary>) -> Outcome<u64> {
    let mut writer = LayerWriter::with_dictionary(std::io::sink(), PackOptions::default(), dictionary);
    let mut content = tempfile::tempfile()?;
    let mut files: Vec<_> = files.to_vec();
    files.sort_by(|a, b| a.0.path.cmp(&b.0.path));
    for (entry, bytes) in files {
        std::io::Seek::rewind(&mut content)?;
        content.set_len(0)?;
        content.write_all(bytes)?;
        writer.append(entry, Some(&content as &dyn Content))?;
    }
    Ok(writer.finish()?.1.bytes)
}
