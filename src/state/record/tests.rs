//! Records, their index of names, and pending flushes.
use super::*;
use crate::clock::Timestamp;
use crate::journal::failing::Failing;
use crate::journal::{MemoryJournal, Redo};

fn path(s: &str) -> RelPath {
    RelPath::new(s).expect("valid path")
}

fn file(ino: u64, nlink: u32) -> Identity {
    Identity {
        dev: 64,
        ino,
        mode: 0o100_644,
        nlink,
        uid: 1000,
        gid: 1000,
        rdev: 0,
        size: 300,
        mtime: Timestamp { sec: 1_700_000_000, nsec: 5 },
        ctime: Timestamp { sec: -1, nsec: 7 },
    }
}

fn dir(ino: u64) -> Identity {
    Identity { mode: 0o040_755, ..file(ino, 2) }
}

fn base(version: u64) -> Base {
    Base { version, tag: Tag(format!("t{version}")), history: None }
}

fn records(journal: &Arc<MemoryJournal>) -> Records {
    Records::open(Arc::clone(journal) as _, "memory:", "n").expect("opens")
}

fn filled() -> (Arc<MemoryJournal>, Records) {
    let journal = Arc::new(MemoryJournal::new());
    let r = records(&journal);
    let entries = [
        ("", dir(1)),
        ("a", dir(2)),
        ("a/b", dir(3)),
        ("a/b/c", file(4, 2)),
        ("a/x", file(4, 2)),
        ("a-b", file(5, 1)),
        ("z", file(6, 1)),
    ];
    r.restored(entries.into_iter().map(|(p, i)| (path(p), i)), base(1), true).expect("restores");
    (journal, r)
}

fn all(r: &Records) -> Vec<String> {
    r.below(&RelPath::root()).map(|i| i.expect("reads").0.to_string()).collect()
}

#[test]
fn a_record_is_these_bytes() {
    let bytes = encode(&file(4, 2)).expect("encodes");
    let expected = [1, 64, 4, 164, 131, 2, 2, 232, 7, 232, 7, 0, 172, 2, 128, 196, 159, 213, 12, 5, 1, 7];
    assert_eq!(bytes, expected);
    assert_eq!(decode(&bytes).expect("decodes"), file(4, 2));
    assert!(decode(&[2, 64]).is_err());
    assert!(decode(&bytes[..9]).is_err());
    assert!(decode(b"").is_err());
}

#[test]
fn the_meta_document_is_this_text() {
    let meta = Meta {
        meta_version: META_VERSION,
        url: "file:///r".into(),
        name: "work".into(),
        fork: None,
        writer: Uuid::from_u128(7),
        base: Some(base(3)),
        clean: true,
        place: None,
    };
    let text = r#"{"meta_version":1,"url":"file:///r","name":"work","fork":null,"writer":"00000000-0000-0000-0000-000000000007","base":{"version":3,"tag":"t3"},"clean":true}"#;
    assert_eq!(String::from_utf8(encode_meta(&meta).expect("encodes")).expect("text"), text);
    assert_eq!(decode_meta(text.as_bytes()).expect("decodes"), meta);
    let born = Some(Timestamp { sec: 9, nsec: 1 });
    for (place, told) in
        [(Place { ino: 5, born: None }, ""), (Place { ino: 5, born }, r#","born":{"sec":9,"nsec":1}"#)]
    {
        let placed = text.replace("true}", &format!(r#"true,"place":{{"ino":5{told}}}}}"#));
        let meta = Meta { place: Some(place), ..meta.clone() };
        assert_eq!(String::from_utf8(encode_meta(&meta).expect("encodes")).expect("text"), placed);
        assert_eq!(decode_meta(placed.as_bytes()).expect("decodes"), meta);
    }
    let newer = text.replace(r#""meta_version":1"#, r#""meta_version":2"#);
    assert!(decode_meta(newer.as_bytes()).is_err());
    assert!(decode_meta(b"").is_err());
}

#[test]
fn changes_under_way_are_these_bytes() {
    let changes = vec![
        Delta::Remove(b"a".to_vec()),
        Delta::RemoveBelow(b"b".to_vec()),
        Delta::Put(b"c/d".to_vec(), file(4, 2)),
    ];
    let bytes = postcard::to_allocvec(&changes).expect("encodes");
    let ident = &encode(&file(4, 2)).expect("encodes")[1..];
    let expected = [&[3, 0, 1, b'a', 1, 1, b'b', 2, 3, b'c', b'/', b'd'][..], ident].concat();
    assert_eq!(bytes, expected);
}

#[test]
fn records_come_in_path_order_and_by_directory() {
    let (_, r) = filled();
    assert_eq!(all(&r), ["a", "a/b", "a/b/c", "a/x", "a-b", "z"]);
    let children = |d: &str| -> Vec<String> {
        r.children(&path(d))
            .map(|c| {
                let (name, ident) = c.expect("reads");
                format!("{}{}", name.escape_ascii(), if ident.is_some() { "" } else { "?" })
            })
            .collect()
    };
    assert_eq!(children(""), ["a", "a-b", "z"]);
    assert_eq!(children("a"), ["b", "x"]);
    assert_eq!(children("z"), Vec::<String>::new());
    let mut batch = Batch::new();
    batch.delete(CLEAN, b"a");
    r.journal.apply(batch).expect("applies");
    assert_eq!(children(""), ["a?", "a-b", "z"]);
    assert!(r.any_within(&path("a")).expect("reads"));
    assert!(!r.any_within(&path("b")).expect("reads"));
    assert!(r.any_within(&RelPath::root()).expect("reads"));
}

#[test]
fn only_files_with_several_names_are_indexed() {
    let (_, r) = filled();
    assert_eq!(r.links(4).expect("reads"), [path("a/b/c"), path("a/x")]);
    for ino in [1, 2, 5] {
        assert_eq!(r.links(ino).expect("reads"), []);
    }
}

#[test]
fn a_pending_flush_changes_nothing_until_it_is_promoted() {
    let (journal, r) = filled();
    let deltas = vec![
        Delta::Remove(b"a/b".to_vec()),
        Delta::Put(b"a/x".to_vec(), file(4, 1)),
        Delta::Put(b"new".to_vec(), file(9, 3)),
    ];
    let staged = r.stage("n", "layers/2", ([7; 32], 10), 2, deltas.into_iter()).expect("stages");
    assert_eq!(all(&r).len(), 6);

    // The machine stops between staging and swapping, and again between swapping and promoting.
    let crashed = Arc::new(journal.crashed());
    let r = records(&crashed);
    assert!(!r.was_clean());
    assert_eq!(r.pending().expect("reads"), std::slice::from_ref(&staged));
    r.promote(&staged, base(2)).expect("promotes");
    assert_eq!(all(&r), ["a", "a/x", "a-b", "new", "z"]);
    assert_eq!(r.links(4).expect("reads"), []);
    assert_eq!(r.links(9).expect("reads"), [path("new")]);
    assert_eq!(r.pending().expect("reads"), []);
    assert_eq!(r.meta().base, Some(base(2)));
    let again = records(&Arc::new(crashed.crashed()));
    assert_eq!(all(&again), all(&r));
}

#[test]
fn a_large_promotion_that_was_cut_off_is_finished_at_the_next_start() {
    let (journal, r) = filled();
    let many = (0..10_000_u64).map(|n| Delta::Put(format!("m/{n}").into_bytes(), file(100 + n, 1)));
    let staged = r.stage("n", "layers/2", ([7; 32], 10), 2, many).expect("stages");
    // Play the first batch of the promotion only.
    let mut writer = Writer::new(&r);
    put_swapped(&mut writer.batch, &staged);
    writer.put(&path("m/0"), &file(100, 1)).expect("puts");
    let part = std::mem::take(&mut writer.batch);
    r.journal.apply(part).expect("applies");
    let r = records(&Arc::new(journal.killed()));
    let found = r.interrupted().expect("reads").expect("there");
    r.promote(&found, base(2)).expect("promotes");
    assert_eq!(all(&r).len(), 10_006);
    assert_eq!(r.interrupted().expect("reads"), None);
}

fn put_swapped(batch: &mut Batch, staged: &Pending) {
    let mut value = serde_json::to_value(staged).expect("json");
    value["swapped"] = true.into();
    batch.put(pending::PENDING, &[value["slot"].as_u64().expect("slot") as u8], value.to_string());
}

#[test]
fn pending_flushes_are_bounded_and_the_oldest_makes_room() {
    let (_, r) = filled();
    for n in 0..20 {
        let layer = format!("layers/{n}");
        r.stage("n", &layer, ([0; 32], 1), 2, [Delta::Remove(b"z".to_vec())].into_iter()).expect("stages");
    }
    let layers: Vec<_> = r.pending().expect("reads").into_iter().map(|p| p.layer).collect();
    assert_eq!(layers, (12..20).map(|n| format!("layers/{n}")).collect::<Vec<_>>());
    r.restored([(path("y"), file(1, 1))].into_iter(), base(9), true).expect("restores");
    assert_eq!(r.pending().expect("reads"), []);
    assert_eq!(all(&r), ["y"]);
}

#[test]
fn dropping_a_flush_takes_what_is_stored_and_not_what_its_header_claims() {
    let (_, r) = filled();
    let staged = r.stage("n", "layers/2", ([0; 32], 1), 2, [Delta::Remove(b"z".to_vec())].into_iter());
    let staged = staged.expect("stages");
    let mut header = serde_json::to_value(&staged).expect("json");
    header["chunks"] = 1_000_000.into();
    let slot = header["slot"].as_u64().expect("slot") as u8;
    let mut batch = Batch::new();
    batch.put(pending::PENDING, &[slot], header.to_string());
    // Left by a longer flush that never got its header.
    batch.put(pending::PENDING, &[slot, 0, 0, 0, 9], b"old");
    batch.put(pending::PENDING, &[slot + 1, 0, 0, 0, 0], b"another's");
    r.journal.apply(batch).expect("applies");
    let claims = r.pending().expect("reads").remove(0);
    let mut batch = Batch::new();
    r.drop_keys(&mut batch, &claims).expect("reads");
    assert_eq!(batch.len(), 3, "header, its chunk, and the one left over");
    r.discard(&claims).expect("discards");
    let left: Vec<_> = r.journal.scan_prefix(pending::PENDING, b"").map(|p| p.expect("reads").0).collect();
    assert_eq!(left, [[slot + 1, 0, 0, 0, 0]]);
}

#[test]
fn a_state_belongs_to_one_remote_and_name_and_knows_how_it_stopped() {
    let journal = Arc::new(MemoryJournal::new());
    let first = records(&journal);
    let writer = first.meta().writer;
    assert!(first.was_clean());
    first.close_clean().expect("closes");
    let second = records(&Arc::new(journal.crashed()));
    assert!(second.was_clean());
    assert_eq!(second.meta().writer, writer);
    let third = records(&journal);
    let base = Base { version: 1, tag: Tag("1".into()), history: None };
    third.restored(std::iter::empty(), base, true).expect("notes");
    drop(third);
    assert!(matches!(
        Records::open(Arc::clone(&journal) as _, "memory:", "other"),
        Err(RecordError::Foreign { .. })
    ));
    Records::reset(&*journal, "memory:", "other").expect("resets");
    let moved = Records::open(Arc::clone(&journal) as _, "memory:", "other").expect("opens");
    assert_eq!(moved.meta().writer, writer);
    assert_eq!(moved.meta().base, None);
}

/// The state directory is full for a moment, before any write of two flushes: the journal goes on, and has either the
/// one version with its records or the other, as the meta document says, and what came meanwhile.
#[test]
fn a_disk_that_is_full_for_a_moment_leaves_records_and_base_of_one_version() {
    for writes in 0..24 {
        let journal = Arc::new(Redo::new(Failing::default()));
        let r = Records::open(Arc::clone(&journal) as _, "memory:", "n").expect("opens");
        let old = (0..200).map(|n| (path(&format!("d/{n}")), file(n, 1)));
        r.restored(old, base(1), true).expect("restores");
        let flush = |version: u64| {
            let gone = (0..100).map(|n| Delta::Remove(format!("d/{n}").into_bytes()));
            let new = (0..5000).map(|n| Delta::Put(format!("new/{n}").into_bytes(), file(1000 + n, 1)));
            let staged =
                r.stage("n", &format!("layers/{version}"), ([0; 32], 1), version, gone.chain(new))?;
            r.promote(&staged, base(version))
        };
        journal.inner().fail_after(writes);
        let came = r.arrived([(path("came"), file(7, 1))]);
        let first = flush(2);
        assert_eq!(first.is_ok() && came.is_ok(), !journal.inner().is_stuck(), "{writes}");
        journal.inner().set_full(false);
        // As the committer does it: what HEAD has is promoted, once more if need be.
        for pending in r.pending().expect("reads") {
            r.promote(&pending, base(2)).expect("promotes");
        }
        let same = |r: &Records| {
            let new = r.any_within(&path("new")).expect("reads");
            assert_eq!(r.meta().base, Some(base(if new { 2 } else { 1 })), "{writes}");
            let records = r.below(&path("new")).chain(r.below(&path("d"))).count();
            assert_eq!(records, if new { 5100 } else { 200 }, "{writes}");
            assert!(came.is_err() || r.get(&path("came")).expect("reads").is_some(), "{writes}");
        };
        same(&r);
        flush(2).expect("there is room again");
        same(&r);
        r.close_clean().expect("closes");
        same(&records(&Arc::new(journal.inner().crashed())));
    }
}

/// The first mount had a mistyped remote: it came to nothing, so the next may have another.
#[test]
fn a_start_that_came_to_nothing_binds_nobody() {
    let journal = Arc::new(MemoryJournal::new());
    drop(records(&journal));
    let right = Records::open(Arc::clone(&journal) as _, "s3://bucket", "other").expect("opens");
    assert_eq!((right.meta().url.as_str(), right.meta().name.as_str()), ("s3://bucket", "other"));
    drop(right);
    let kept = Records::open(Arc::new(journal.crashed()) as _, "s3://bucket", "other").expect("opens");
    assert!(!kept.was_clean(), "it was not stopped in good order");
}

/// A journal that fails after so many batches, as if its process had been killed.
#[derive(Debug)]
struct Mortal {
    journal: Arc<MemoryJournal>,
    batches: std::sync::atomic::AtomicUsize,
}

impl Journal for Mortal {
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
        self.journal.get(tree, key)
    }

    fn apply(&self, batch: Batch) -> Result<(), JournalError> {
        let left =
            self.batches.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        left.map_err(|_| JournalError::corrupt("killed"))?;
        self.journal.apply(batch)
    }

    fn scan(&self, tree: Tree, prefix: &[u8], from: &[u8]) -> crate::journal::Pairs<'_> {
        self.journal.scan(tree, prefix, from)
    }

    fn flush(&self) -> Result<(), JournalError> {
        self.journal.flush()
    }
}

#[test]
fn the_header_of_a_restore_is_this_text() {
    let (_, r) = filled();
    r.begin_restore(3, true, [(path("a/b"), false), (path("c"), true)]).expect("begins");
    let found: Vec<_> =
        r.journal.scan_prefix(restoring::RESTORING, b"").map(|pair| pair.expect("reads")).collect();
    let header = br#"{"restoring_version":1,"version":3,"keeps":true,"settled":false}"#;
    assert_eq!(
        found,
        [(vec![0], header.to_vec()), (b"\x01a\0b".to_vec(), vec![]), (b"\x01c".to_vec(), vec![1])]
    );
}

/// SEMANTICS, Restore: "A start that breaks off while a version comes to the directory leaves no changes".
#[test]
fn records_of_a_restore_that_breaks_off_anywhere_are_of_one_that_is_under_way() {
    let new: Vec<_> = (0..6000).map(|n| (path(&format!("n{n}")), file(100 + n, 1))).collect();
    let old: Vec<_> = (0..6000).map(|n| (path(&format!("o{n}")), file(9000 + n, 2))).collect();
    let stands =
        |r: &Records| new.iter().all(|(path, now)| r.get(path).expect("reads").as_ref() == Some(now));
    let mut settled = 0;
    for batches in 0.. {
        let journal = Arc::new(MemoryJournal::new());
        let r = records(&journal);
        r.restored(old.iter().cloned(), base(1), true).expect("restores");
        r.begin_restore(2, false, [(path("mine"), false)]).expect("begins");
        r.placed(new.iter().cloned(), false).expect("records");
        let mortal = Arc::new(Mortal { journal: Arc::new(journal.killed()), batches: batches.into() });
        let Ok(dying) = Records::open(Arc::clone(&mortal) as _, "memory:", "n") else { continue };
        let result = dying.restored(new.iter().cloned(), base(2), true).and_then(|()| dying.end_restore());
        let r = records(&Arc::new(mortal.journal.killed()));
        let Some(restoring) = r.restoring().expect("reads") else {
            assert_eq!(r.meta().base, Some(base(2)));
            if result.is_ok() {
                assert_eq!(all(&r).len(), new.len());
                assert_eq!(r.links(9000).expect("reads"), []);
                break;
            }
            continue;
        };
        assert!(stands(&r), "after {batches} batches");
        assert_eq!(
            r.meta().base,
            Some(base(if restoring.settled { 2 } else { 1 })),
            "after {batches} batches"
        );
        assert!(restoring.settled || restoring.local.contains_key(&path("mine")));
        settled += u32::from(restoring.settled);
    }
    assert!(settled > 0);
}

#[test]
fn another_remote_knows_nothing_of_a_restore_that_broke_off() {
    let journal = Arc::new(MemoryJournal::new());
    let r = records(&journal);
    r.begin_restore(3, false, []).expect("begins");
    r.placed([(path("a"), file(1, 1))], true).expect("records");
    let other = Records::open(Arc::new(journal.killed()) as _, "s3://bucket", "other").expect("opens");
    assert_eq!(other.restoring().expect("reads"), None);
    assert_eq!(all(&other), Vec::<String>::new());
}

/// A directory of which only the change time moved: to these nanoseconds.
fn at(nsec: u32) -> Identity {
    Identity { ctime: Timestamp { sec: 1_700_000_000, nsec }, ..dir(2) }
}

#[test]
fn a_record_follows_a_directory_that_was_touched_and_no_other() {
    let (_, r) = filled();
    let a = path("a");
    let recorded = |r: &Records| r.get(&a).expect("reads").expect("recorded").ctime.nsec;
    r.restored([(a.clone(), at(1))].into_iter(), base(1), true).expect("restores");
    r.touched(&a, &at(1), &at(2)).expect("touches");
    assert_eq!(recorded(&r), 2);
    // A program has changed it: that is to be found.
    r.touched(&a, &at(5), &at(6)).expect("touches");
    assert_eq!(recorded(&r), 2);
    let commit = |ident: Identity, version: u64| {
        let delta = Delta::Put(b"a".to_vec(), ident);
        let staged = r.stage("n", "layer", ([0; 32], 1), version, [delta].into_iter()).expect("stages");
        r.promote(&staged, base(version)).expect("promotes");
    };
    // A flush that looked at it between two touches.
    r.touched(&a, &at(6), &at(8)).expect("touches");
    commit(at(6), 2);
    assert_eq!(recorded(&r), 8);
    r.touched(&a, &at(8), &at(9)).expect("touches");
    assert_eq!(recorded(&r), 9);
    // One that looked at it before it was changed again.
    r.touched(&a, &at(20), &at(21)).expect("touches");
    commit(at(15), 3);
    assert_eq!(recorded(&r), 15);
    let changed = Identity { mode: 0o040_700, ..at(21) };
    commit(changed, 4);
    assert_eq!(recorded(&r), 21);
    assert_eq!(r.get(&a).expect("reads"), Some(changed), "what a program changed is not what was touched");
    commit(at(20), 5);
    assert_eq!(recorded(&r), 21);
}

#[test]
fn what_no_file_shows_is_on_the_disk_before_a_version_says_it() {
    let (_journal, r) = filled();
    let dir = tempfile::tempdir().expect("temp dir");
    let root = std::fs::File::open(dir.path()).expect("opens").into();
    let absent = Arc::new(Absent::of_nothing(root, &dir.path().join("log")).expect("a log"));
    r.set_absent(&absent);
    assert!(absent.is_unsynced().expect("asks"));
    let deltas = [Delta::Remove(b"z".to_vec())];
    let pending = r.stage("n", "l2", ([0; 32], 0), 2, deltas.into_iter()).expect("stages");
    assert!(!absent.is_unsynced().expect("asks"), "HEAD may have it next");
    absent.remove_directory(0).expect("says so");
    r.promote(&pending, base(2)).expect("promotes");
    assert!(!absent.is_unsynced().expect("asks"), "and what is said of it since");
}
