//! Merged layers say what the layers said that they take the place of.
use super::merge::{Merge, Tail};
use super::*;
use crate::clock::Timestamp;
use crate::layer::{Entry, Kind, LayerIndex, LayerWriter, Metadata, PackOptions, References, Row};
use crate::path::RelPath;
use crate::state::absent::tree::{ROOT, Tree, What};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const PATHS: [&str; 14] =
    ["a", "b", "c", "a/a", "a/b", "a-b", "b/a", "b/c", "c/a", "a/a/a", "a/b/c", "b/a/a", "b/a/b", "c/a/a"];

#[derive(Debug, Clone)]
enum Edit {
    Write(usize),
    Make(usize),
    Remove(usize),
    Link(usize, usize),
    Symlink(usize),
}

fn edits() -> impl Strategy<Value = Vec<Vec<Edit>>> {
    let p = || 0..PATHS.len();
    let edit = prop_oneof![
        5 => p().prop_map(Edit::Write),
        4 => p().prop_map(Edit::Make),
        4 => p().prop_map(Edit::Remove),
        2 => (p(), p()).prop_map(|(a, b)| Edit::Link(a, b)),
        1 => p().prop_map(Edit::Symlink),
    ];
    proptest::collection::vec(proptest::collection::vec(edit, 1..9), 2..7)
}

fn path(p: &str) -> RelPath {
    RelPath::new(p).expect("valid path")
}

/// A tree that is edited, and what a layer has to say of it.
#[derive(Default)]
struct Model {
    /// By path whether it is a directory.
    now: BTreeMap<RelPath, bool>,
    before: BTreeMap<RelPath, bool>,
    gone: BTreeSet<RelPath>,
    rows: BTreeMap<RelPath, Kind>,
    written: u64,
}

impl Model {
    fn remove(&mut self, p: &RelPath) {
        self.rows.retain(|q, _| !q.starts_with(p));
        self.now.retain(|q, _| !q.starts_with(p));
        if self.before.keys().any(|q| q.starts_with(p)) {
            self.gone.retain(|q| !q.starts_with(p));
            self.gone.insert(p.clone());
        }
        // Links to what is gone lose it; whoever unlinks a name brings the others along.
        let lost = |kind: &Kind| matches!(kind, Kind::HardLink { target } if target.starts_with(p));
        for kind in self.rows.values_mut().filter(|kind| lost(kind)) {
            self.written += 1;
            *kind = file(self.written);
        }
    }

    fn parents(&mut self, p: &RelPath) {
        let mut above: Vec<RelPath> = p.ancestors().filter(|dir| !dir.is_root()).collect();
        above.reverse();
        for dir in above {
            match self.now.get(&dir) {
                Some(true) => {}
                Some(false) => {
                    self.remove(&dir);
                    self.set(&dir, Kind::Directory);
                }
                None => self.set(&dir, Kind::Directory),
            }
        }
    }

    fn set(&mut self, p: &RelPath, kind: Kind) {
        self.now.insert(p.clone(), kind == Kind::Directory);
        self.rows.insert(p.clone(), kind);
    }

    fn apply(&mut self, edit: &Edit) {
        match edit {
            Edit::Write(p) | Edit::Symlink(p) => {
                let p = path(PATHS[*p]);
                self.parents(&p);
                if self.now.get(&p) == Some(&true) || matches!(self.rows.get(&p), Some(Kind::HardLink { .. }))
                {
                    self.remove(&p);
                }
                let links_to = |kind: &Kind| matches!(kind, Kind::HardLink { target } if *target == p);
                if self.rows.values().any(links_to) {
                    self.remove(&p);
                }
                self.written += 1;
                let kind = match edit {
                    Edit::Symlink(_) => Kind::Symlink { target: vec![b'x'; self.written as usize] },
                    _ => file(self.written),
                };
                self.set(&p, kind);
            }
            Edit::Make(p) => {
                let p = path(PATHS[*p]);
                self.parents(&p);
                if self.now.get(&p) == Some(&false) {
                    self.remove(&p);
                }
                self.set(&p, Kind::Directory);
            }
            Edit::Remove(p) => self.remove(&path(PATHS[*p])),
            Edit::Link(from, to) => {
                let (from, to) = (path(PATHS[*from]), path(PATHS[*to]));
                let is_file = matches!(self.rows.get(&from), Some(Kind::File { .. }));
                if from < to && is_file && !self.now.contains_key(&to) && !to.starts_with(&from) {
                    self.parents(&to);
                    self.set(&to, Kind::HardLink { target: from });
                }
            }
        }
    }

    /// The layer of what was done since the last one. `backwards`: as tar may write it, which lists no directory before what
    /// is in it, but a file before its other names.
    fn layer(&mut self, backwards: bool) -> Vec<u8> {
        let mut writer = LayerWriter::new(Vec::new(), PackOptions { level: 1, threads: 1 });
        for p in std::mem::take(&mut self.gone) {
            append(&mut writer, &Entry { path: p, kind: Kind::Whiteout, meta: Metadata::default() });
        }
        let mut rows: Vec<(RelPath, Kind)> = std::mem::take(&mut self.rows).into_iter().collect();
        if backwards {
            rows.reverse();
            rows.sort_by_key(|(_, kind)| matches!(kind, Kind::HardLink { .. }));
        }
        for (path, kind) in rows {
            let meta = Metadata { mode: 0o644, mtime: Timestamp { sec: 5, nsec: 0 }, ..Metadata::default() };
            let meta = if matches!(kind, Kind::HardLink { .. }) { Metadata::default() } else { meta };
            append(&mut writer, &Entry { path, kind, meta });
        }
        self.before.clone_from(&self.now);
        writer.finish().expect("finishes").0
    }
}

/// One that is told from others by its size.
fn file(size: u64) -> Kind {
    Kind::File { size, fuzzy: false, refs: References::none() }
}

fn append(writer: &mut LayerWriter<Vec<u8>>, entry: &Entry) {
    let content = tempfile::tempfile().expect("temporary file");
    let size = if let Kind::File { size, .. } = entry.kind { size } else { 0 };
    std::os::unix::fs::FileExt::write_all_at(&content, &vec![b'x'; size as usize], 0).expect("writes");
    writer.append(entry, Some(&content)).expect("appends");
}

fn tail(layer: &[u8]) -> Tail<'_> {
    let length = LayerIndex::tail_bytes(layer).expect("a footer") as usize;
    Tail { bytes: &layer[layer.len() - length..], layer_bytes: layer.len() as u64 }
}

fn rows(layer: &[u8]) -> Vec<Row> {
    let tail = tail(layer);
    LayerIndex::read(tail.bytes, tail.layer_bytes).expect("reads").1.map(|row| row.expect("a row")).collect()
}

/// Merges layers into the rows of one.
fn merged(layers: &[Vec<u8>], on_top: bool) -> Vec<Row> {
    let tails: Vec<Tail<'_>> = layers.iter().map(|layer| tail(layer)).collect();
    let mut merge = Merge::new(&tails).expect("begins");
    let row = |entry| Row { entry, offset: 0, length: 512 };
    let entries: Vec<Row> = merge.by_ref().map(|merged| row(merged.expect("merges").entry)).collect();
    let whiteout = |path| row(Entry { path, kind: Kind::Whiteout, meta: Metadata::default() });
    let whiteouts = if on_top { merge.into_whiteouts() } else { Vec::new() };
    whiteouts.into_iter().map(whiteout).chain(entries).collect()
}

fn shown(layers: impl IntoIterator<Item = Vec<Row>>) -> Vec<String> {
    let mut tree = Tree::default();
    for layer in layers {
        tree.lay(layer.into_iter().map(Ok)).expect("lays");
    }
    // Names of one file are told by its number, in the order in which they are met.
    let mut numbers = BTreeMap::new();
    let mut show = |node| match tree.what(node) {
        What::Directory => format!("{}/", tree.path(node)),
        What::File(file) => {
            let next = numbers.len();
            let number = numbers.entry(file).or_insert(next);
            format!("{}={} #{number}", tree.path(node), tree.file(file).size)
        }
        What::Special(special) => format!("{}@{:?}", tree.path(node), tree.special(special).0),
    };
    tree.walk().filter(|node| *node != ROOT).map(&mut show).collect()
}

proptest! {
    #[test]
    fn a_merged_layer_says_the_same(edits in edits(), cut in (0usize..8, 0usize..8), backwards in 0u8..) {
        let mut model = Model::default();
        let layers: Vec<Vec<u8>> = edits
            .iter()
            .enumerate()
            .map(|(n, edits)| {
                edits.iter().for_each(|edit| model.apply(edit));
                model.layer(backwards >> n & 1 == 1)
            })
            .collect();
        let (a, b) = (cut.0 % layers.len(), cut.1 % layers.len());
        let run = a.min(b)..a.max(b) + 1;
        let all = shown(layers.iter().map(|layer| rows(layer)));
        let below = layers[..run.start].iter().map(|layer| rows(layer));
        let above = layers[run.end..].iter().map(|layer| rows(layer));
        let one = merged(&layers[run.clone()], run.start > 0);
        let mut sorted: Vec<_> = one.iter().filter(|r| r.entry.kind != Kind::Whiteout).collect();
        sorted.sort_by(|x, y| x.entry.path.cmp(&y.entry.path));
        prop_assert!(one.iter().filter(|r| r.entry.kind != Kind::Whiteout).eq(sorted), "out of order");
        prop_assert_eq!(shown(below.chain([one]).chain(above)), all);
    }
}

fn chain(sizes: &[u64]) -> Vec<LayerRef> {
    let mut layers = Vec::new();
    for (n, bytes) in sizes.iter().enumerate() {
        let mut layer = crate::state::head::tests::layer(&format!("layers/{n}.tar.zst"));
        layer.table = Some(crate::layer::Tail { bytes: 1, digest: [0; 32] }.into());
        layers.push(LayerRef { bytes: *bytes, version: n as u64 + 1, ..layer });
    }
    layers
}

#[test]
fn small_layers_are_merged_and_a_large_base_stays() {
    assert_eq!(choose(&chain(&[1 << 30, 10, 10, 10, 10, 10]), 16), None, "short enough");
    let long = chain(&[&[1 << 30][..], &[100; 15]].concat());
    assert_eq!(choose(&long, 16), Some(1..15), "all but the base and the newest");
    // What was merged grows, and is left alone until there is enough on top of it.
    let grown = chain(&[&[1 << 30, 1 << 20][..], &[100; 14]].concat());
    assert_eq!(choose(&grown, 16), Some(2..15));
    let close = chain(&[&[800_000, 400_000, 100_000][..], &[30_000; 13]].concat());
    assert_eq!(choose(&close, 16), Some(0..15));
    // However large they are, the chain becomes shorter.
    let steep: Vec<u64> = (0..16).map(|n| 1 << (60 - 3 * n)).collect();
    assert_eq!(choose(&chain(&steep), 16), Some(10..15));
    // Layers without a table stay apart.
    let mut old = chain(&[100; 16]);
    old[3].table = None;
    assert_eq!(choose(&old, 16), Some(4..15));
}

/// However many versions there are, the chain stays short and the work for each bounded.
#[test]
fn ten_thousand_flushes_cost_what_they_should() {
    let (mut layers, mut written, mut longest) = (chain(&[1 << 30]), 0, 0);
    for _ in 0..10_000 {
        layers.extend(chain(&[1000]));
        while let Some(run) = choose(&layers, 16) {
            let bytes: u64 = layers[run.clone()].iter().map(|layer| layer.bytes).sum();
            written += if bytes > 1 << 29 { 0 } else { bytes }; // the base is referred to
            layers.splice(run, chain(&[bytes]));
        }
        longest = longest.max(layers.len());
    }
    assert!(longest < 16, "{longest} layers");
    let amplification = written as f64 / (10_000.0 * 1000.0);
    assert!(amplification < 5.0, "each byte was written {amplification} times more");
}
