//! [`Connection`]: the device of one mount after its handshake, and what was agreed on it.
use super::abi::init::{Features, InitIn, InitOut, Limits};
use super::abi::notice::{InvalidateInode, invalidate_name};
use super::abi::{InHeader, MAJOR, Opcode, OutHeader};
use super::interrupts::Interrupts;
use std::ffi::CStr;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use zerocopy::{FromBytes, IntoBytes};

/// Bytes that a read of the device must at least have room for.
const READ_MIN: usize = 8192;
/// Room in a read for what comes with the data of a WRITE: header, struct, and some to spare.
const READ_EXTRA: usize = 4096;

/// What a mount asks of the kernel.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// A kernel without these is refused.
    pub needed: Features,
    /// Refinements: a kernel that lacks one serves the mount without it.
    pub helpful: Features,
    /// What we choose.
    pub limits: Limits,
}

impl Wanted {
    /// What serves both on one mount.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let (own, others) = (self.limits, other.limits);
        Self {
            needed: self.needed | other.needed,
            helpful: self.helpful | other.helpful,
            limits: Limits {
                io_bytes: own.io_bytes.max(others.io_bytes),
                background: own.background.max(others.background),
                stack_depth: own.stack_depth.max(others.stack_depth),
            },
        }
    }
}

/// One mount's channel to the kernel.
#[derive(Debug)]
pub struct Connection {
    device: OwnedFd,
    features: Features,
    limits: Limits,
    interrupts: Arc<Interrupts>,
}

impl Connection {
    /// Answers the kernel's first request on a device that was just mounted.
    pub fn handshake(device: OwnedFd, wanted: &Wanted) -> io::Result<Arc<Self>> {
        let mut buffer = vec![0; READ_MIN];
        loop {
            let length = rustix::io::retry_on_intr(|| rustix::io::read(&device, &mut *buffer))?;
            let (header, body) = InHeader::read_from_prefix(&buffer[..length])
                .map_err(|_| invalid("the kernel's first message is too short"))?;
            if header.opcode != Opcode::Init as u32 {
                return Err(invalid("the kernel's first message is no INIT"));
            }
            let asked = InitIn::read(body).ok_or_else(|| invalid("the kernel's INIT is too short"))?;
            if asked.major > MAJOR {
                reply(&device, header.unique, 0, InitOut::older().as_bytes())?;
                continue;
            }
            let offered = asked.features();
            let refusal = if !asked.is_usable() {
                Some(format!("FUSE protocol {}.{} is too old (Linux 5.4)", asked.major, asked.minor))
            } else if !offered.has(wanted.needed) {
                Some(format!("this kernel does not offer {:?}", Features(wanted.needed.0 & !offered.0)))
            } else {
                None
            };
            if let Some(why) = refusal {
                let _told = reply(&device, header.unique, -libc::EPROTO, &[]);
                return Err(io::Error::new(io::ErrorKind::Unsupported, why));
            }
            let features = offered & (wanted.needed | wanted.helpful);
            let out = InitOut::new(&asked, features, wanted.limits);
            reply(&device, header.unique, 0, out.as_bytes())?;
            let missing = Features(wanted.helpful.0 & !offered.0);
            tracing::debug!(kernel = format!("{}.{}", asked.major, asked.minor), ?missing, "fuse handshake");
            let (limits, interrupts) = (wanted.limits, Arc::default());
            return Ok(Arc::new(Self { device, features, limits, interrupts }));
        }
    }

    /// Requests that wait.
    pub fn interrupts(&self) -> &Arc<Interrupts> {
        &self.interrupts
    }

    /// What was agreed.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Bytes of one READ, WRITE or listing at most.
    pub fn io_bytes(&self) -> usize {
        self.limits.io_bytes as usize
    }

    /// Bytes that a buffer for [`receive`](Self::receive) must have.
    pub fn receive_bytes(&self) -> usize {
        READ_MIN.max(self.io_bytes() + READ_EXTRA)
    }

    /// Waits for a request on the device and returns its length. `None`: the mount is over.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        use rustix::io::Errno;
        loop {
            return match rustix::io::read(&self.device, &mut *buffer) {
                Ok(length) => Ok(Some(length)),
                // A request that was taken back while we fetched it; a signal.
                Err(Errno::NOENT | Errno::INTR | Errno::AGAIN) => continue,
                Err(Errno::NODEV | Errno::CONNABORTED) => Ok(None),
                Err(e) => Err(e.into()),
            };
        }
    }

    /// Answers a request on the device. `error` is 0 or a negated errno.
    pub fn reply(&self, unique: u64, error: i32, payload: &[u8]) -> io::Result<()> {
        reply(&self.device, unique, error, payload)
    }

    /// Drops what the kernel has cached of an inode; see [`InvalidateInode::new`]. Unless it is attributes
    /// alone, this may wait for locks that a request of ours holds: then never call it from a thread that
    /// serves requests.
    pub fn invalidate(&self, inode: u64, offset: i64, length: i64) -> io::Result<()> {
        let notice = InvalidateInode::new(inode, offset, length);
        rustix::io::write(&self.device, notice.as_bytes())?;
        Ok(())
    }

    /// Has a name in a directory looked up anew. May wait for locks that a request of ours holds: never call it from a
    /// thread that serves requests.
    pub fn invalidate_name(&self, dir: u64, name: &CStr) -> io::Result<()> {
        rustix::io::write(&self.device, &invalidate_name(dir, name))?;
        Ok(())
    }

    /// Registers a file of the backing, so that opens can be served from it by the kernel. The
    /// descriptor may be closed afterwards.
    pub fn register(self: &Arc<Self>, file: BorrowedFd<'_>) -> io::Result<Backing> {
        let map = BackingMap { fd: file.as_raw_fd(), flags: 0, padding: 0 };
        // SAFETY: the request's number says that it reads a `BackingMap`, and `map` is one.
        let id = unsafe { libc::ioctl(self.device.as_raw_fd(), BACKING_OPEN, &raw const map) };
        if id < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Backing { connection: self.clone(), id: id as u32 })
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

/// A file of the backing that the kernel keeps open for passthrough, until this is dropped.
#[derive(Debug)]
pub struct Backing {
    connection: Arc<Connection>,
    id: u32,
}

impl Backing {
    /// What the kernel calls it.
    pub fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        // SAFETY: the request's number says that it reads four bytes, and `id` is four. It fails when
        // the mount is over, and then the kernel has forgotten it anyway.
        let _done =
            unsafe { libc::ioctl(self.connection.device.as_raw_fd(), BACKING_CLOSE, &raw const self.id) };
    }
}

#[repr(C)]
struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

/// Type byte of the device's ioctls.
const IOCTL_TYPE: u8 = 229;
const BACKING_OPEN: libc::Ioctl = write_request::<BackingMap>(1);
const BACKING_CLOSE: libc::Ioctl = write_request::<u32>(2);

/// `_IOW(IOCTL_TYPE, number, T)` of the kernel.
const fn write_request<T>(number: u8) -> libc::Ioctl {
    rustix::ioctl::opcode::write::<T>(IOCTL_TYPE, number) as libc::Ioctl
}

fn reply(device: &OwnedFd, unique: u64, error: i32, payload: &[u8]) -> io::Result<()> {
    let length = size_of::<OutHeader>() + payload.len();
    let header = OutHeader { len: length as u32, error, unique };
    let written = rustix::io::writev(device, &[IoSlice::new(header.as_bytes()), IoSlice::new(payload)])?;
    debug_assert_eq!(written, length); // the device takes all or fails
    Ok(())
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ioctl_numbers_are_the_kernels() {
        assert_eq!((BACKING_OPEN, BACKING_CLOSE), (0x4010_e501, 0x4004_e502));
    }
}
