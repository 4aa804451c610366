//! Any sequence of operations, restarts and crashes: what is read is right, and the sum of the sizes on the
//! disk equals the budget.
use crate::common::{BLOCK, Source, assert_budget, config, content, key, object, place, read};
use crate::harness::long;
use bytes::Bytes;
use icecache::cache::{Begun, Cache, Config, File, Fill, Inserted, PolicyKind};
use icecache::journal::MemoryJournal;
use proptest::prelude::*;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

const KEYS: u64 = 12;

#[derive(Debug, Clone)]
enum Op {
    Insert { key: u64, size: u64 },
    Rename { key: u64, size: u64 },
    Begin { key: u64, size: u64 },
    Write { size: u64 },
    Finish,
    GiveUp,
    LookUp { key: u64, hold: bool },
    Release,
    Remove { key: u64 },
    Read { object: u64, block: u64 },
    Whole { object: u64 },
    RemoveObject { object: u64 },
    MakeRoom { bytes: u64 },
    Flush,
    Restart,
    Crash,
}

fn op() -> impl Strategy<Value = Op> {
    let (key, size) = (0..KEYS, prop_oneof![Just(0_u64), 1..9000_u64, Just(4096_u64), 1..4 * BLOCK]);
    prop_oneof![
        6 => (key.clone(), size.clone()).prop_map(|(key, size)| Op::Insert { key, size }),
        2 => (key.clone(), size.clone()).prop_map(|(key, size)| Op::Rename { key, size }),
        2 => (key.clone(), size.clone()).prop_map(|(key, size)| Op::Begin { key, size }),
        2 => size.prop_map(|size| Op::Write { size }),
        2 => Just(Op::Finish),
        1 => Just(Op::GiveUp),
        5 => (key.clone(), any::<bool>()).prop_map(|(key, hold)| Op::LookUp { key, hold }),
        2 => Just(Op::Release),
        3 => key.prop_map(|key| Op::Remove { key }),
        8 => (0..3_u64, 0..70_u64).prop_map(|(object, block)| Op::Read { object, block }),
        1 => (0..3_u64).prop_map(|object| Op::Whole { object }),
        1 => (0..3_u64).prop_map(|object| Op::RemoveObject { object }),
        1 => (0..20 * BLOCK).prop_map(|bytes| Op::MakeRoom { bytes }),
        1 => Just(Op::Flush),
        1 => Just(Op::Restart),
        1 => Just(Op::Crash),
    ]
}

/// Blocks of objects by seed: small, one with a witness that is a file, and a single block.
fn an_object(n: u64) -> icecache::cache::ObjectId {
    object(100 + n, [5 * BLOCK + 1, 70 * BLOCK, 1000][n as usize])
}

struct Model {
    cache: Option<Cache>,
    journal: Arc<MemoryJournal>,
    config: Config,
    source: Arc<Source>,
    /// The seed of what a key was last inserted with, and its size.
    last: HashMap<u64, (u64, u64)>,
    seeds: u64,
    fill: Option<(Fill, u64, u64, u64)>,
    held: Vec<(File, u64, u64)>,
}

impl Model {
    fn cache(&self) -> &Cache {
        self.cache.as_ref().unwrap()
    }

    fn seed(&mut self) -> u64 {
        self.seeds += 1;
        1000 + self.seeds
    }

    async fn open(&mut self) {
        let cache = Cache::open_on(self.config.clone(), self.journal.clone()).await.unwrap();
        cache.settled().await;
        self.cache = Some(cache);
    }

    fn inserted(
        &mut self,
        key: u64,
        seed: u64,
        size: u64,
        result: Result<Inserted, icecache::cache::CacheError>,
    ) {
        match result {
            Ok(Inserted::New(_)) => drop(self.last.insert(key, (seed, size))),
            Ok(_) => {}
            Err(e) => assert!(e.is_full(), "{e}"),
        }
    }

    async fn run(&mut self, op: &Op, dir: &Path) {
        match *op {
            Op::Insert { key: n, size } => {
                let seed = self.seed();
                let result = self.cache().insert(&key(n), Bytes::from(content(seed, 0..size))).await;
                self.inserted(n, seed, size, result);
            }
            Op::Rename { key: n, size } => {
                let seed = self.seed();
                let path = dir.join("source");
                std::fs::write(&path, content(seed, 0..size)).unwrap();
                let result = self.cache().insert_rename(&key(n), &path).await;
                self.inserted(n, seed, size, result);
            }
            Op::Begin { key: n, size } => {
                let options = icecache::cache::FillOptions {
                    size: size.is_multiple_of(2).then_some(size),
                    filler: "random".into(),
                };
                match self.cache().begin(&key(n), options) {
                    Ok(Begun::Fill(fill)) => {
                        let seed = self.seed();
                        self.fill = Some((fill, n, seed, 0));
                    }
                    Ok(_) => {}
                    Err(e) => assert!(e.is_full(), "{e}"),
                }
            }
            Op::Write { size } => {
                if let Some((mut fill, n, seed, at)) = self.fill.take()
                    && fill.write(Bytes::from(content(seed, at..at + size))).await.is_ok()
                {
                    self.fill = Some((fill, n, seed, at + size));
                }
            }
            Op::Finish => {
                if let Some((fill, n, seed, size)) = self.fill.take()
                    && fill.finish().await.is_ok()
                {
                    self.last.insert(n, (seed, size));
                }
            }
            Op::GiveUp => self.fill = None,
            Op::LookUp { key: n, hold } => {
                if self.fill.as_ref().is_some_and(|fill| fill.1 == n) {
                    return; // it would wait for us
                }
                let found = self.cache().look_up_file(key(n)).await.unwrap();
                let Some(file) = found else { return };
                let (seed, size) = self.last.get(&n).copied().expect("nobody inserted that");
                assert_eq!(read(&file), content(seed, 0..size), "key {n}");
                if hold {
                    self.held.push((file, seed, size));
                }
            }
            Op::Release => drop(self.held.pop()),
            Op::Remove { key: n } => {
                self.cache().remove(key(n)).await;
                self.last.remove(&n);
                if self.fill.as_ref().is_some_and(|fill| fill.1 == n) {
                    self.fill = None;
                }
            }
            Op::Read { object: n, block } => {
                let id = an_object(n);
                let offset = block * BLOCK % id.size;
                let blob = self.cache().blob(&id, self.source.clone()).unwrap();
                let got = blob.read(offset, 1000).await.unwrap();
                assert_eq!(got, content(100 + n, offset..(offset + 1000).min(id.size)));
            }
            Op::Whole { object: n } => {
                let id = an_object(n);
                let blob = self.cache().blob(&id, self.source.clone()).unwrap();
                blob.warm(0..6).await.unwrap();
                self.cache().quiet().await;
                if let Some(file) = blob.file().await.unwrap() {
                    self.held.push((file, 100 + n, id.size));
                }
            }
            Op::RemoveObject { object: n } => drop(self.cache().remove_object(&an_object(n)).await),
            Op::MakeRoom { bytes } => drop(self.cache().make_room(bytes).await),
            Op::Flush => self.cache().flush().await.unwrap(),
            Op::Restart => {
                self.fill = None;
                self.held.clear();
                self.cache().quiet().await;
                self.cache.take().unwrap().close().await.unwrap();
                self.open().await;
            }
            Op::Crash => {
                self.cache().quiet().await;
                self.journal = Arc::new(self.journal.crashed());
                // What a killed process leaves: nothing of it runs any more, and nothing is tidied.
                std::mem::forget((self.fill.take(), std::mem::take(&mut self.held), self.cache.take()));
                self.open().await;
            }
        }
    }
}

fn cases() -> ProptestConfig {
    ProptestConfig {
        cases: if long() { 400 } else { 24 },
        max_shrink_iters: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn the_budget_is_the_sum_of_the_sizes_on_the_disk(
        ops in proptest::collection::vec(op(), 1..60),
        policy in proptest::sample::select(PolicyKind::ALL.to_vec()),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = place();
            let config = Config {
                max_bytes: 12 * BLOCK,
                max_entries: 9,
                policy,
                ..config(&dir.path().join("cache"))
            };
            let mut model = Model {
                cache: None,
                journal: Arc::new(MemoryJournal::new()),
                config,
                source: Arc::new(Source::default()),
                last: HashMap::new(),
                seeds: 0,
                fill: None,
                held: Vec::new(),
            };
            model.open().await;
            for (n, op) in ops.iter().enumerate() {
                model.run(op, dir.path()).await;
                model.cache().quiet().await;
                assert_budget(model.cache(), &format!("after step {n}, {op:?}"));
                let used = model.cache().stats().used;
                assert!(used.bytes <= 12 * BLOCK && used.entries <= 9, "{used:?} after step {n}, {op:?}");
                for (file, seed, size) in &model.held {
                    assert_eq!(read(file), content(*seed, 0..*size), "held, after step {n}, {op:?}");
                }
            }
        });
    }
}
