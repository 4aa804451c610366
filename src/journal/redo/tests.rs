use super::*;
use crate::journal::failing::Failing;
use std::sync::Arc;

const T: Tree = Tree("t");

fn put(journal: &dyn Journal, key: &[u8], value: &[u8]) -> Result<(), JournalError> {
    let mut batch = Batch::new();
    batch.put(T, key, value);
    journal.apply(batch)
}

fn get(journal: &dyn Journal, key: &[u8]) -> Option<Vec<u8>> {
    journal.get(T, key).expect("reads")
}

#[test]
fn a_disk_that_is_full_for_a_moment_costs_nothing_that_was_applied() {
    let journal = Redo::new(Failing::default());
    put(&journal, b"flushed", b"1").expect("applies");
    journal.flush().expect("flushes");
    put(&journal, b"applied", b"1").expect("applies");
    put(&journal, b"applied", b"2").expect("applies");
    journal.inner().set_full(true);
    journal.flush().expect_err("the disk is full");
    put(&journal, b"late", b"1").expect_err("it is still full");
    journal.get(T, b"flushed").expect_err("it is not opened anew");
    journal.inner().set_full(false);
    for (key, value) in [(&b"flushed"[..], b"1"), (b"applied", b"2")] {
        assert_eq!(get(&journal, key).as_deref(), Some(&value[..]));
    }
    assert_eq!(journal.times(), 1);
    put(&journal, b"after", b"1").expect("applies");
    journal.flush().expect("flushes");
    let kept = journal.inner().crashed();
    assert_eq!(get(&kept, b"applied").as_deref(), Some(&b"2"[..]));
    assert!(get(&kept, b"after").is_some());
    assert_eq!(journal.desk.lock().bytes, 0);
}

/// The database may have a part of a batch that failed: nobody ever sees it like that.
#[test]
fn a_batch_that_failed_is_there_as_a_whole_or_not_at_all() {
    for full_after in 0..6 {
        let journal = Redo::new(Failing::default());
        let both = |value: &[u8]| {
            let mut batch = Batch::new();
            batch.put(T, b"a", value);
            batch.put(T, b"b", value);
            journal.apply(batch)
        };
        journal.inner().fail_after(full_after);
        let told: Vec<bool> = (b'1'..=b'3').map(|value| both(&[value]).is_ok()).collect();
        journal.inner().set_full(false);
        let (a, b) = (get(&journal, b"a"), get(&journal, b"b"));
        assert_eq!(a, b, "{full_after}");
        let last = told.iter().rposition(|told| *told).map(|n| b'1' + n as u8);
        assert!(a.map(|a| a[0]) >= last, "{full_after}: {told:?}");
        journal.flush().expect("flushes");
        assert_eq!(get(&journal.inner().crashed(), b"a"), get(&journal, b"b"));
    }
}

#[test]
fn what_is_kept_is_bounded() {
    let journal = Redo::new(Failing::default());
    let value = vec![7; KEPT_BYTES_MAX / 8];
    for n in 0..100_u8 {
        put(&journal, &[n], &value).expect("applies");
        assert!(journal.desk.lock().bytes <= KEPT_BYTES_MAX, "{n}");
    }
    put(&journal, b"large", &vec![7; KEPT_BYTES_MAX * 2]).expect("one may be larger");
    put(&journal, b"next", b"1").expect("applies");
    assert_eq!(journal.desk.lock().kept.len(), 1);
    assert!(get(&journal.inner().crashed(), b"large").is_some());
    // And it stays so while nothing can be written: then nothing is applied.
    put(&journal, b"more", &vec![7; KEPT_BYTES_MAX / 2]).expect("applies");
    journal.inner().set_full(true);
    for n in 0..100_u8 {
        put(&journal, &[n], &vec![8; KEPT_BYTES_MAX / 2]).expect_err("it is full");
    }
    assert!(journal.desk.lock().bytes <= KEPT_BYTES_MAX);
    journal.inner().set_full(false);
    assert!(get(&journal, b"more").is_some());
}

#[test]
fn a_scan_goes_on_where_the_journal_was_begun_anew() {
    let journal = Redo::new(Failing::default());
    for n in 0..1000_u16 {
        put(&journal, &n.to_be_bytes(), b"").expect("applies");
    }
    let mut seen = Vec::new();
    for pair in journal.scan_prefix(T, b"") {
        let key = pair.expect("reads").0;
        if seen.len() == 500 {
            journal.inner().set_full(true);
            put(&journal, b"zz", b"").expect_err("full");
            journal.inner().set_full(false);
        }
        seen.push(key);
    }
    assert_eq!(seen.len(), 1001, "with the one that came meanwhile");
    assert!(seen.is_sorted());
}

#[test]
fn threads_that_apply_while_it_fails_are_all_told_the_truth() {
    let journal = Arc::new(Redo::new(Failing::default()));
    std::thread::scope(|scope| {
        for user in 0..4_u8 {
            let journal = &journal;
            scope.spawn(move || {
                for round in 0..200_u8 {
                    if round % 50 == user {
                        journal.inner().fail_after(usize::from(user) + 1);
                    }
                    while put(&**journal, &[user], &[round]).is_err() {
                        journal.inner().set_full(false);
                    }
                    if round % 7 == 0 {
                        let _full = journal.flush();
                    }
                    journal.inner().set_full(false);
                    if let Ok(value) = journal.get(T, &[user]) {
                        assert_eq!(value, Some(vec![round]));
                    }
                }
            });
        }
    });
    journal.inner().set_full(false);
    journal.flush().expect("flushes");
    let kept = journal.inner().crashed();
    assert!((0..4).all(|user| get(&kept, &[user]) == Some(vec![199])));
}
