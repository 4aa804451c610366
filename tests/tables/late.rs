//! Answers of the store that do not come.
use crate::lake::{Lake, files};
use crate::support::s3server::Fault;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use tokio::sync::Notify;

/// After so many answers it is known how long one usually takes.
const LEARNED: usize = 32;

/// The same of the first look at a file of a table, which brings its last block.
#[test]
fn who_opens_a_file_of_a_table_does_not_wait_for_one_answer() {
    let lake = Lake::prepare(|_| false);
    for n in 0..LEARNED {
        lake.cloud.server.put_into("lake", &format!("small/{n}"), format!("object {n}"));
    }
    lake.mount();
    for n in 0..LEARNED {
        let object = lake.dir.join("objects/s3/lake/small").join(n.to_string());
        assert_eq!(fs::read_to_string(object).unwrap(), format!("object {n}"));
    }
    let data = lake.table("avro").join("data");
    let file = files(&data).remove(0);
    let key = format!("wh/db/avro/data/{}", file.strip_prefix(&data).unwrap().display());
    let bytes = lake.objects[&key].clone();
    let before = lake.stats()["hedged"]["won"].as_u64().unwrap();
    let (asked, gate) = (Arc::<AtomicU64>::default(), Arc::new(Notify::new()));
    let (counted, held) = (asked.clone(), gate.clone());
    lake.cloud.server.control().set_hook(move |request| {
        let first = request.key == key && counted.fetch_add(1, SeqCst) == 0;
        if first { Fault::Hold(held.clone()) } else { Fault::None }
    });
    assert_eq!(fs::read(&file).unwrap(), bytes);
    assert_eq!((asked.load(SeqCst), lake.stats()["hedged"]["won"].as_u64()), (2, Some(before + 1)));
    gate.notify_waiters();
    lake.cloud.server.control().clear_hook();
    lake.unmount();
}

/// An answer that does not come is asked for once more, and only once; the reader has the bytes while the first request
/// still waits.
#[test]
fn an_answer_that_does_not_come_is_asked_for_twice() {
    let lake = Lake::prepare(|_| false);
    for n in 0..=LEARNED {
        lake.cloud.server.put_into("lake", &format!("small/{n}"), format!("object {n}"));
    }
    lake.mount();
    let dir = lake.dir.join("objects/s3/lake/small");
    for n in 0..LEARNED {
        assert_eq!(fs::read_to_string(dir.join(n.to_string())).unwrap(), format!("object {n}"));
    }
    let before = lake.stats()["hedged"]["won"].as_u64().unwrap();
    let (asked, gate) = (Arc::<AtomicU64>::default(), Arc::new(Notify::new()));
    let (counted, held) = (asked.clone(), gate.clone());
    lake.cloud.server.control().set_hook(move |request| {
        let first = request.operation == "GetObject"
            && request.key == format!("small/{LEARNED}")
            && counted.fetch_add(1, SeqCst) == 0;
        if first { Fault::Hold(held.clone()) } else { Fault::None }
    });
    assert_eq!(fs::read_to_string(dir.join(LEARNED.to_string())).unwrap(), format!("object {LEARNED}"));
    assert_eq!(asked.load(SeqCst), 2);
    assert_eq!(lake.stats()["hedged"]["won"], before + 1);
    gate.notify_waiters();
    lake.cloud.server.control().clear_hook();
    lake.unmount();
}
