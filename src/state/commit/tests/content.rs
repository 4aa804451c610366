//! Content that cannot be read, changes meanwhile, or is much.
use super::*;

#[test]
fn what_was_cut_short_while_it_was_read_is_no_damage() {
    let error = |kind: io::ErrorKind| {
        let path = RelPath::new(b"f").expect("a path");
        crate::Error::from(CommitError::Source { path, source: kind.into() })
    };
    assert_eq!(error(io::ErrorKind::UnexpectedEof).kind(), crate::ErrorKind::Io);
    assert_eq!(error(io::ErrorKind::InvalidData).kind(), crate::ErrorKind::Corrupt);
}

/// Refuses one file, and counts what was given back.
struct Guarded {
    inner: DirectorySource,
    refused: &'static str,
    error: fn() -> io::Error,
    done: Mutex<Vec<String>>,
}

impl ContentSource for Guarded {
    fn open(
        &self,
        path: &RelPath,
        captured: &Captured,
    ) -> io::Result<Box<dyn crate::layer::content::Content>> {
        if path.to_string() == self.refused { Err((self.error)()) } else { self.inner.open(path, captured) }
    }

    fn done(&self, path: &RelPath, _captured: &Captured) {
        self.done.lock().push(path.to_string());
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_is_left_out_and_told() {
    use rustix::io::Errno;
    let errors: [fn() -> io::Error; 4] = [
        || io::ErrorKind::PermissionDenied.into(),
        || Errno::NAMETOOLONG.into(),
        || Errno::LOOP.into(),
        || Errno::IO.into(),
    ];
    for error in errors {
        left_out_and_told(error).await;
    }
}

async fn left_out_and_told(error: fn() -> io::Error) {
    let s = Site::open(&MemoryStore::new(), Layout::Layered).await;
    for name in ["a", "b", "empty"] {
        s.write(name, if name == "empty" { "" } else { "1" });
    }
    fs::hard_link(s.dir.path().join("b"), s.dir.path().join("c")).expect("links");
    let guarded = |error| {
        let inner = DirectorySource::new(s.root());
        Arc::new(Guarded { inner, refused: "b", error, done: Mutex::default() })
    };
    let broken = guarded(|| rustix::io::Errno::MFILE.into());
    let e = s.committer.commit(Arc::new(s.plan()), broken, Timestamp::now()).await.expect_err("fails");
    assert!(matches!(e, CommitError::Source { .. }));
    assert_eq!(s.memory.keys(), Vec::<String>::new());
    let source = guarded(error);
    let receipt = s
        .committer
        .commit(Arc::new(s.plan()), Arc::clone(&source) as _, Timestamp::now())
        .await
        .expect("commits");
    assert_eq!(receipt.skipped.keys().map(ToString::to_string).collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(*source.done.lock(), ["a", "b", "empty"]);
    assert_eq!(s.restored("work").await, ["a=1", "empty="]);
    assert!(!s.is_clean(), "what was left out stays to be done");
    assert_eq!(s.flush().await.expect("commits").changed, 2);
    assert_eq!(s.restored("work").await, ["a=1", "b=1", "c=1", "empty="]);
}

#[tokio::test]
async fn much_content_goes_through_a_bounded_channel() {
    let s = Site::open(&MemoryStore::new(), Layout::Layered).await;
    let mut noise = blake3::Hasher::new().finalize_xof();
    let mut bytes = vec![0; 24 << 20];
    noise.fill(&mut bytes);
    fs::write(s.dir.path().join("big"), &bytes).expect("writes");
    let receipt = s.flush().await.expect("commits");
    assert!(receipt.bytes > 24 << 20);
    let key = s.head("work").await.expect("HEAD").layers.remove(0).key;
    let object = s.memory.get(&key).await.expect("layer").bytes;
    assert_eq!(object.len() as u64, receipt.bytes);
}
