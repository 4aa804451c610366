//! Which of two processes of one sandbox keeps a directory: `exec` if there is one, else the extension.
//!
//! The lock of the directory sees to it that both never do. Here the extension gives way, whoever starts first: each of
//! them has a socket of its own before it calls that of the other, so at least one of them hears of the other. A socket
//! goes with its process, however that ends, and what was killed answers nobody: only who lives is given way to.
use super::keeper::Keeper;
use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long the socket of a process that was just killed may be there still.
const DYING_PATIENCE: Duration = Duration::from_secs(1);
const DYING_PAUSE: Duration = Duration::from_millis(20);
/// What `exec` says to who calls it.
const HERE: [u8; 1] = *b"k";

/// The two that may keep a directory.
#[derive(Debug, Clone, Copy)]
enum Role {
    Exec,
    Extension,
}

/// The socket of `role` for a directory: it has no place in the file system, and is of this sandbox alone.
fn address(dir: &Path, role: Role) -> io::Result<SocketAddr> {
    let dir = blake3::hash(dir.as_os_str().as_bytes()).to_hex();
    let user = rustix::process::geteuid();
    SocketAddr::from_abstract_name(format!("icecache/{user}/{role:?}/{dir}"))
}

fn listen(dir: &Path, role: Role) -> io::Result<UnixListener> {
    let address = address(dir, role)?;
    let give_up = Instant::now() + DYING_PATIENCE;
    loop {
        match UnixListener::bind_addr(&address) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && Instant::now() < give_up => {
                std::thread::sleep(DYING_PAUSE);
            }
            bound => return bound,
        }
    }
}

fn call(dir: &Path, role: Role) -> io::Result<UnixStream> {
    UnixStream::connect_addr(&address(dir, role)?)
}

/// `dir` is for this process, an `exec`, as long as it lives. Returns when the extension has given way, if there is one;
/// that may have to end its restore first.
pub fn claim(dir: &Path) -> io::Result<()> {
    let listener = listen(dir, Role::Exec)?;
    // It ends with the process.
    std::thread::Builder::new().name("claim".into()).spawn(move || {
        for mut caller in listener.incoming().flatten() {
            let _gone = caller.write_all(&HERE);
        }
    })?;
    if let Ok(mut extension) = call(dir, Role::Extension) {
        // It says nothing: that it hangs up, in whatever way, is the answer.
        let _hung_up = extension.read(&mut [0]);
    }
    Ok(())
}

/// Whether an `exec` keeps `dir`, or is about to.
fn is_kept(dir: &Path) -> bool {
    let mut said = [0];
    call(dir, Role::Exec).and_then(|mut exec| exec.read_exact(&mut said)).is_ok() && said == HERE
}

/// What an extension has while it keeps a directory: it is told here that an `exec` wants it.
#[derive(Debug)]
pub struct Offer(Option<UnixListener>);

impl Offer {
    /// `None`: an `exec` keeps `dir` or is about to.
    pub fn make(dir: &Path) -> Option<Self> {
        let listener = listen(dir, Role::Extension);
        if let Err(error) = &listener {
            tracing::warn!(%error, "nobody can ask for the directory");
        }
        (!is_kept(dir)).then(|| Self(listener.ok()))
    }

    /// Waits until an `exec` wants the directory, and has `keeper` let go of it. What is there is left to that one: it
    /// starts the runtime, so no invocation was before it.
    pub async fn give_way(self, keeper: &Arc<Keeper>) -> io::Result<()> {
        let Some(listener) = self.0 else { return Ok(()) };
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let _until_it_is_free = listener.accept().await?;
        keeper.let_go().await;
        tracing::info!("an exec keeps the directory from now on");
        Ok(())
    }
}

/// What an extension has that keeps nothing, since an `exec` is to do that: it hears here whether one comes.
#[derive(Debug)]
pub struct Expected {
    listener: Option<UnixListener>,
    has_come: watch::Sender<bool>,
}

impl Expected {
    /// An `exec` is to come for `dir`, or has.
    pub fn at(dir: &Path) -> Self {
        let listener = listen(dir, Role::Extension);
        if let Err(error) = &listener {
            tracing::warn!(%error, "nobody can say that there is an exec");
        }
        // Called for the other's only when it can be called itself.
        let has_come = watch::Sender::new(listener.is_err() || is_kept(dir));
        Self { listener: listener.ok(), has_come }
    }

    /// Whether one has come; also if nobody can know.
    pub fn has_come(&self) -> watch::Receiver<bool> {
        self.has_come.subscribe()
    }

    /// Hears of those that come, for ever: each waits until it is heard.
    pub async fn hear(self) -> io::Result<()> {
        let Some(listener) = self.listener else { return Ok(()) };
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        loop {
            let (_it_is_free, _) = listener.accept().await?;
            self.has_come.send_replace(true);
        }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use crate::error::Result;
    use crate::lambda::keeper::{Keep, When};

    /// Says by its end that it was let go of.
    struct Held(#[allow(dead_code)] std::sync::mpsc::Sender<()>);

    impl Keep for Held {
        fn save(&self, _: Option<Instant>) -> Result<()> {
            panic!("somebody else keeps it");
        }

        fn renew(&self, _: Option<Instant>) -> Result<()> {
            panic!("somebody else keeps it");
        }

        fn is_torn(&self) -> bool {
            false
        }
    }

    #[tokio::test]
    async fn an_extension_gives_way_to_who_comes_later() {
        let dir = tempfile::tempdir().expect("dir");
        let offer = Offer::make(dir.path()).expect("nobody else keeps it");
        let (held, let_go) = std::sync::mpsc::channel();
        let keeper = Arc::new(Keeper::new(Arc::new(Held(held)), When::BeforeResponse));
        let place = dir.path().to_owned();
        let exec = tokio::task::spawn_blocking(move || {
            claim(&place).expect("claims");
            assert!(
                let_go.try_recv() == Err(std::sync::mpsc::TryRecvError::Disconnected),
                "it is kept still"
            );
        });
        offer.give_way(&keeper).await.expect("waits");
        exec.await.expect("has it");
        assert!(keeper.save(None).await.is_ok(), "nothing is left to save");
    }

    #[test]
    fn an_extension_keeps_nothing_that_an_exec_has() {
        let (dir, other) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
        claim(dir.path()).expect("claims");
        assert!(Offer::make(dir.path()).is_none());
        assert!(Offer::make(other.path()).is_some(), "that is another directory");
    }

    #[tokio::test]
    async fn who_expects_an_exec_hears_of_it_and_holds_it_up_for_no_moment() {
        let dir = tempfile::tempdir().expect("dir");
        let expected = Expected::at(dir.path());
        let mut has_come = expected.has_come();
        assert!(!*has_come.borrow());
        let hears = tokio::spawn(expected.hear());
        let place = dir.path().to_owned();
        let claimed = tokio::task::spawn_blocking(move || claim(&place));
        claimed.await.expect("joins").expect("claims");
        assert!(has_come.wait_for(|has_come| *has_come).await.is_ok());
        hears.abort();
        assert!(hears.await.is_err(), "it listens on");
        assert!(*Expected::at(dir.path()).has_come().borrow(), "it was there already");
    }

    #[test]
    fn who_was_killed_is_not_given_way_to() {
        let dir = tempfile::tempdir().expect("dir");
        let killed = listen(dir.path(), Role::Exec).expect("listens");
        let dies = std::thread::spawn(move || drop(killed.accept()));
        assert!(Offer::make(dir.path()).is_some());
        dies.join().expect("joins");
    }
}
