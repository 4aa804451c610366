//! What a flush costs the processor, whatever the size of the tree.
use super::*;
use crate::journal::SledJournal;

fn processor_time() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

#[test]
fn one_change_among_many_files_needs_no_walk() {
    let mut w = World::new();
    let place = tempfile::tempdir().expect("dir");
    let journal = SledJournal::open(&place.path().join("journal"), Duration::ZERO).expect("opens").journal;
    w.records = Records::open(Arc::new(journal), "memory:", "n").expect("opens");
    for n in 0..40 {
        w.make(&format!("d{n}/"));
        for m in 0..250 {
            w.make(&format!("d{n}/f{m}"));
        }
    }
    w.commit(&[("", S)]);
    assert!(w.scan().marks.is_empty());
    fs::write(w.at("d7/f7"), "changed").expect("writes");
    let start = processor_time();
    let plan = w.plan(&[("d7/f7", E)]);
    w.promote(&plan);
    let spent = processor_time() - start;
    assert_eq!(words(&plan), ["+d7/f7"]);
    assert!(spent < Duration::from_millis(20), "{spent:?}");
}
