//! Whatever a journal holds, reading the records ends in values or in an error that says so.
#![no_main]
use icecache::journal::{Batch, Journal, MemoryJournal, Tree};
use icecache::path::RelPath;
use icecache::remote::Tag;
use icecache::state::record::{Base, Records};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

fuzz_target!(|data: &[u8]| {
    let Some((split, rest)) = data.split_first() else { return };
    let (key, value) = rest.split_at(usize::from(*split).min(rest.len()));
    let journal = Arc::new(MemoryJournal::new());
    let mut batch = Batch::new();
    batch.put(Tree("clean"), key, value);
    batch.put(Tree("link"), &[&7_u64.to_be_bytes(), key].concat(), b"");
    batch.put(Tree("pending"), &[0], value);
    batch.put(Tree("pending"), &[0, 0, 0, 0, 0], key);
    journal.apply(batch).expect("memory takes everything");
    let records = Records::open(journal.clone(), "memory:", "n").expect("opens");
    let _all = records.below(&RelPath::root()).take(16).count();
    let _names = records.children(&RelPath::root()).take(16).count();
    let _links = records.links(7);
    for pending in records.pending().into_iter().flatten().take(1) {
        let _applied = records.promote(&pending, Base { version: 1, tag: Tag("t".into()), history: None });
    }
    // The document that says whose they are.
    let mut batch = Batch::new();
    batch.put(Tree("meta"), b"state", rest);
    journal.apply(batch).expect("memory takes everything");
    let _opened = Records::open(journal, "memory:", "n");
});
