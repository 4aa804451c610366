//! The barrier: a process of its own that calls fsync on files through the mount, so that the
//! kernel stops their writers until the daemon answers.
//!
//! It must be a separate process without the FUSE device: a thread of the daemon that waits on the
//! daemon's own mount keeps the device open when the daemon is killed, and everything hangs
//! (see docs/SEMANTICS.md, "Crash").
//!
//! Wire format, over a socket on the helper's standard input: a request is one byte and a length
//! (u32, little endian) with as many bytes. `P` prepares: the payload is the mount point and then
//! paths, each ended by a NUL; answered by `p`. `S` starts the fsyncs; not answered. `D` ends when
//! all have returned and closes the files; answered by `d`. End of file ends the process.
use crate::path::RelPath;
use crate::state::backing::reach;
use rustix::fs::{Mode, OFlags};
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Files held at once at most, each by a thread of the helper. Files beyond it are copied without
/// a barrier and marked fuzzy.
pub const FILES_MAX: usize = 4096;

/// Bytes of a request at most.
const REQUEST_MAX: u32 = 64 << 20;

/// A helper's thread only waits in one system call.
const STACK_BYTES: usize = 64 * 1024;

/// The daemon's end.
#[derive(Debug)]
pub struct Barrier {
    mount: PathBuf,
    pid: u32,
    socket: UnixStream,
    child: Option<Child>,
    /// Asked to finish, and not yet known to have.
    finishing: bool,
}

impl Barrier {
    /// Starts `command` as the helper for the file system mounted on `mount`. The command's program
    /// must call [`serve`] with its standard input.
    pub fn start(mut command: Command, mount: &Path) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let child = command
            .current_dir("/") // never beneath the mount
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self {
            mount: mount.to_owned(),
            pid: child.id(),
            socket: ours,
            child: Some(child),
            finishing: false,
        })
    }

    /// A helper that is a thread of this process, for a directory that is no mount.
    #[cfg(test)]
    #[allow(clippy::expect_used)] // a test may panic
    pub fn in_process(dir: &Path) -> Self {
        let (socket, theirs) = UnixStream::pair().expect("socket pair");
        let _server = std::thread::spawn(move || serve(theirs));
        Self { mount: dir.to_owned(), socket, child: None, pid: 0, finishing: false }
    }

    /// The helper's process id; opens by it are the cut's own.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Opens files through the mount and readies a thread for each. Adds to what is prepared.
    ///
    /// An fsync of the last cut may still wait: behind a program's own fsync, say, that is answered
    /// only when the flush is committed. Such a helper is given up at the deadline.
    pub fn prepare<'a>(
        &mut self,
        paths: impl Iterator<Item = &'a RelPath>,
        deadline: Instant,
    ) -> io::Result<()> {
        self.settle(deadline)?;
        self.send(b'P', &preparation(&self.mount, paths))?;
        self.answer(b'p', deadline)
    }

    /// Calls fsync on everything prepared. The daemon learns from the requests that it happened.
    pub fn sync(&mut self) -> io::Result<()> {
        self.send(b'S', &[])
    }

    /// Lets the helper close the files once every fsync has returned; does not wait for that.
    pub fn finish(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.finishing, true) {
            self.send(b'D', &[])?;
        }
        Ok(())
    }

    /// Waits for what [`finish`](Self::finish) asked for.
    pub fn settle(&mut self, deadline: Instant) -> io::Result<()> {
        if std::mem::take(&mut self.finishing) { self.answer(b'd', deadline) } else { Ok(()) }
    }

    fn send(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        self.socket.write_all(&request(kind, payload))
    }

    fn answer(&mut self, expected: u8, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(left))?;
        let mut byte = [0];
        self.socket.read_exact(&mut byte)?;
        if byte[0] == expected { Ok(()) } else { Err(io::Error::other("barrier helper out of step")) }
    }
}

impl Drop for Barrier {
    fn drop(&mut self) {
        let _closed = self.socket.shutdown(std::net::Shutdown::Both);
        // It may sit in an fsync that is answered much later: nobody here waits for that.
        if let Some(mut child) = self.child.take() {
            let _killed = child.kill();
            let _reaper = std::thread::Builder::new().name("reaper".into()).spawn(move || child.wait());
        }
    }
}

fn request(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut request = vec![kind];
    request.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    request.extend_from_slice(payload);
    request
}

/// What `P` carries.
fn preparation<'a>(mount: &Path, paths: impl Iterator<Item = &'a RelPath>) -> Vec<u8> {
    let mut payload = mount.as_os_str().as_bytes().to_vec();
    payload.push(0);
    for path in paths {
        payload.extend_from_slice(path.as_bytes());
        payload.push(0);
    }
    payload
}

/// The helper's end: serves requests until the end of `input`.
pub fn serve(mut input: UnixStream) -> io::Result<()> {
    let mut held: Vec<(Sender<()>, JoinHandle<()>)> = Vec::new();
    loop {
        let mut head = [0; 5];
        match input.read_exact(&mut head) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            result => result?,
        }
        let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
        if length > REQUEST_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "barrier request is too long"));
        }
        let mut payload = vec![0; length as usize];
        input.read_exact(&mut payload)?;
        match head[0] {
            b'P' => {
                prepare(&payload, &mut held);
                input.write_all(b"p")?;
            }
            b'S' => {
                for (start, _) in &held {
                    let _gone = start.send(());
                }
            }
            b'D' => {
                for (start, thread) in held.drain(..) {
                    drop(start);
                    let _panicked = thread.join();
                }
                input.write_all(b"d")?;
            }
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "unknown barrier request")),
        }
    }
}

/// A file that cannot be opened any more is left out: the daemon sees that it is not held.
fn prepare(payload: &[u8], held: &mut Vec<(Sender<()>, JoinHandle<()>)>) {
    let mut parts = payload.split(|b| *b == 0);
    let Some(mount) = parts.next() else { return };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(root) = rustix::fs::open(OsStr::from_bytes(mount), flags, Mode::empty()) else { return };
    for path in parts.filter(|p| !p.is_empty()) {
        if held.len() >= FILES_MAX {
            return;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(path) = RelPath::new(path) else { continue };
        let open = |at: BorrowedFd<'_>, name: &CStr| rustix::fs::openat(at, name, flags, Mode::empty());
        let Ok(file) = reach(root.as_fd(), &path, open) else { continue };
        let file = File::from(file);
        let (start, started) = channel::<()>();
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
            if started.recv().is_ok() {
                let _answered = file.sync_all();
            }
        });
        if let Ok(thread) = thread {
            held.push((start, thread));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_these_bytes() {
        let paths = [RelPath::new("a").expect("valid"), RelPath::new("b/c").expect("valid")];
        let payload = preparation(Path::new("/m"), paths.iter());
        assert_eq!(request(b'P', &payload), b"P\x09\0\0\0/m\0a\0b/c\0");
        assert_eq!(request(b'S', b""), b"S\0\0\0\0");
    }

    #[test]
    fn requests_are_served_until_the_end_and_bad_ones_end_it() {
        let dir = tempfile::tempdir().expect("temp dir");
        std::fs::write(dir.path().join("f"), b"x").expect("write");
        let (mut ours, theirs) = UnixStream::pair().expect("pair");
        let server = std::thread::spawn(move || serve(theirs));
        let mut request = dir.path().as_os_str().as_bytes().to_vec();
        request.extend_from_slice(b"\0f\0missing\0");
        let mut send = |kind: u8, payload: &[u8]| {
            ours.write_all(&[kind]).expect("send");
            ours.write_all(&(payload.len() as u32).to_le_bytes()).expect("send");
            ours.write_all(payload).expect("send");
        };
        send(b'P', &request);
        send(b'S', b"");
        send(b'D', b"");
        send(b'?', b"");
        let mut answers = [0; 2];
        ours.read_exact(&mut answers).expect("answers");
        assert_eq!(&answers, b"pd");
        assert!(server.join().expect("no panic").is_err());
    }
}
