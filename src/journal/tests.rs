//! What every journal does.
use super::*;
use std::time::Duration;

const A: Tree = Tree("a");
const AB: Tree = Tree("ab");

fn each(check: impl Fn(&dyn Journal)) {
    check(&MemoryJournal::new());
    let dir = tempfile::tempdir().expect("dir");
    check(&SledJournal::open(&dir.path().join("journal"), Duration::ZERO).expect("opens").journal);
}

fn keys(pairs: Pairs<'_>) -> Vec<Vec<u8>> {
    pairs.map(|p| p.expect("reads").0).collect()
}

#[test]
fn trees_are_apart_and_batches_span_them() {
    each(|j| {
        let mut batch = Batch::new();
        batch.put(A, b"b\0x", b"1");
        batch.put(AB, b"x", b"2");
        batch.put(A, b"gone", b"3");
        batch.delete(A, b"gone");
        j.apply(batch).expect("applies");
        j.flush().expect("flushes");
        assert_eq!(j.get(A, b"b\0x").expect("reads"), Some(b"1".to_vec()));
        assert_eq!(j.get(A, b"x").expect("reads"), None);
        assert_eq!(j.get(A, b"gone").expect("reads"), None);
        assert_eq!(keys(j.scan_prefix(A, b"")), [b"b\0x".to_vec()]);
        assert_eq!(keys(j.scan_prefix(AB, b"")), [b"x".to_vec()]);
    });
}

#[test]
fn scans_are_ordered_bounded_by_prefix_and_start_where_told() {
    each(|j| {
        let mut batch = Batch::new();
        for n in (0..1000_u16).rev() {
            batch.put(A, &[&b"p"[..], &n.to_be_bytes()].concat(), b"");
        }
        batch.put(A, b"o", b"");
        batch.put(A, b"q", b"");
        j.apply(batch).expect("applies");
        let all = keys(j.scan_prefix(A, b"p"));
        assert_eq!(all.len(), 1000);
        assert!(all.is_sorted());
        let from = [&b"p"[..], &990_u16.to_be_bytes()].concat();
        assert_eq!(keys(j.scan(A, b"p", &from)), all[990..]);
        assert_eq!(keys(j.scan(A, b"p", b"o")), all);
        assert_eq!(keys(j.scan(A, b"", b"p\xff")), [b"q".to_vec()]);
        assert_eq!(keys(j.scan_prefix(A, b"r")), Vec::<Vec<u8>>::new());
    });
}

#[test]
fn a_crash_of_the_memory_journal_keeps_what_was_flushed() {
    let j = MemoryJournal::new();
    let set = |value: &[u8]| {
        let mut batch = Batch::new();
        batch.put(A, b"k", value);
        j.apply(batch).expect("applies");
    };
    set(b"1");
    j.flush().expect("flushes");
    set(b"2");
    assert_eq!(j.crashed().get(A, b"k").expect("reads"), Some(b"1".to_vec()));
    assert_eq!(j.killed().get(A, b"k").expect("reads"), Some(b"2".to_vec()));
}
