//! [`Entries`]: the buffers that requests and replies travel in, and which of them are with us.
use crate::fuse::abi::{InHeader, OutHeader};
use rustix::mm::{MapFlags, ProtFlags};
use std::io;
use std::ptr::NonNull;
use zerocopy::{FromBytes, IntoBytes};

/// Bytes of either half of an entry's header.
const HALF: usize = 128;

/// The header of an entry, as the kernel lays it out (`fuse_uring_req_header`).
#[repr(C)]
struct Header {
    /// The request's header, then the reply's.
    in_out: [u8; HALF],
    /// The struct of the operation.
    operation: [u8; HALF],
    flags: u64,
    commit_id: u64,
    payload_len: u32,
    padding: u32,
    reserved: u64,
}

/// What a request is made of, copied out of its entry or borrowed from it.
#[derive(Debug)]
pub struct Received<'a> {
    /// The request's header.
    pub header: InHeader,
    /// The struct of the operation, and padding.
    pub operation: [u8; HALF],
    /// Names and data.
    pub payload: &'a [u8],
}

struct Entry {
    header: NonNull<Header>,
    payload: NonNull<u8>,
    /// Index of its queue.
    queue: usize,
    /// Names the request that is with us, until its reply is handed to the kernel.
    commit: Option<Commit>,
}

#[derive(Debug, Clone, Copy)]
struct Commit {
    id: u64,
    unique: u64,
}

/// A queue of the kernel, and how many entries it has.
#[derive(Debug)]
pub struct Queue {
    /// Its number: that of its processor.
    pub id: u16,
    /// Entries made for it.
    pub total: usize,
    /// Those with requests that are not answered.
    pub busy: usize,
}

impl Queue {
    /// Entries that can take a request.
    pub fn free(&self) -> usize {
        self.total - self.busy
    }
}

/// The entries of a ring.
pub struct Entries {
    payload_bytes: usize,
    entries: Vec<Entry>,
    queues: Vec<Queue>,
    slabs: Vec<Slab>,
    /// Entries that the kernel has not been given yet: queue, number, address.
    unregistered: Vec<Unregistered>,
}

/// An entry for the kernel to take.
#[derive(Debug, Clone, Copy)]
pub struct Unregistered {
    /// Number of its queue.
    pub queue: u16,
    /// Its own number.
    pub entry: usize,
    /// Where the two `iovec`s that describe it are.
    pub address: u64,
}

impl std::fmt::Debug for Entries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entries").field("queues", &self.queues).finish_non_exhaustive()
    }
}

/// Memory of some entries: their headers, then their payloads. Pages that are never used are never
/// there, and the kernel takes the entry that was used last.
struct Slab {
    at: NonNull<u8>,
    len: usize,
    /// Kept for the kernel, which reads them when the entries are registered.
    _vectors: Vec<[libc::iovec; 2]>,
}

// SAFETY: it owns its memory; what is in it is reached through `Entries` alone.
unsafe impl Send for Slab {}
// SAFETY: it points into a slab that goes with it.
unsafe impl Send for Entry {}

impl Drop for Slab {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `Entries::grow` mapped. The ring is closed before its entries
        // are dropped, and the kernel touches them only from the thread that owns the ring.
        let _done = unsafe { rustix::mm::munmap(self.at.as_ptr().cast(), self.len) };
    }
}

impl Entries {
    /// For queues of these numbers. A payload has room for `payload_bytes`. The first queue, that of
    /// our own processor, begins with `first` entries, the others with a quarter of that.
    pub fn new(queues: Vec<u16>, payload_bytes: usize, first: usize) -> io::Result<Self> {
        let queues: Vec<Queue> = queues.into_iter().map(|id| Queue { id, total: 0, busy: 0 }).collect();
        let mut entries = Self {
            payload_bytes: payload_bytes.next_multiple_of(rustix::param::page_size()),
            entries: Vec::new(),
            queues,
            slabs: Vec::new(),
            unregistered: Vec::new(),
        };
        for queue in 0..entries.queues.len() {
            entries.grow(queue, if queue == 0 { first } else { first.div_ceil(4) })?;
        }
        Ok(entries)
    }

    /// Takes what the kernel has not been given yet.
    pub fn unregistered(&mut self) -> Vec<Unregistered> {
        std::mem::take(&mut self.unregistered)
    }

    /// The queues.
    pub fn queues(&self) -> &[Queue] {
        &self.queues
    }

    /// The queue of an entry.
    pub fn queue_of(&self, entry: usize) -> Option<u16> {
        self.entries.get(entry).and_then(|e| self.queues.get(e.queue)).map(|q| q.id)
    }

    /// Makes `count` entries more for a queue.
    pub fn grow(&mut self, queue: usize, count: usize) -> io::Result<()> {
        let Some(id) = self.queues.get(queue).map(|q| q.id) else { return Ok(()) };
        let headers = (count * size_of::<Header>()).next_multiple_of(rustix::param::page_size());
        let len = headers + count * self.payload_bytes;
        let (access, kind) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: a fresh mapping at an address that the kernel chooses touches no memory of ours.
        let at = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, access, kind)? };
        let at = NonNull::new(at.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let first = self.entries.len();
        let mut vectors = Vec::with_capacity(count);
        for index in 0..count {
            // SAFETY: both stay inside the mapping by the computation of its length; pages are aligned
            // for anything.
            let (header, payload) =
                unsafe { (at.cast::<Header>().add(index), at.add(headers + index * self.payload_bytes)) };
            vectors.push([
                libc::iovec { iov_base: header.as_ptr().cast(), iov_len: size_of::<Header>() },
                libc::iovec { iov_base: payload.as_ptr().cast(), iov_len: self.payload_bytes },
            ]);
            self.entries.push(Entry { header, payload, queue, commit: None });
        }
        for (index, both) in vectors.iter().enumerate() {
            let address = both.as_ptr().expose_provenance() as u64;
            self.unregistered.push(Unregistered { queue: id, entry: first + index, address });
        }
        self.queues[queue].total += count;
        self.slabs.push(Slab { at, len, _vectors: vectors });
        Ok(())
    }

    /// An entry came back with a request in it.
    pub fn receive(&mut self, number: usize) -> Option<Received<'_>> {
        let entry = self.entries.get_mut(number)?;
        // SAFETY: the mapping lives as long as `self`; the kernel has given the entry to us and does
        // not touch it until it is committed.
        let header = unsafe { entry.header.as_ref() };
        let request = InHeader::read_from_prefix(&header.in_out).ok()?.0;
        entry.commit = Some(Commit { id: header.commit_id, unique: request.unique });
        self.queues[entry.queue].busy += 1;
        let len = (header.payload_len as usize).min(self.payload_bytes);
        // SAFETY: as above, and `len` is at most the payload's length.
        let payload = unsafe { std::slice::from_raw_parts(entry.payload.as_ptr(), len) };
        Some(Received { header: request, operation: header.operation, payload })
    }

    /// An entry that the kernel has given up.
    pub fn lose(&mut self, number: usize) {
        if let Some(entry) = self.entries.get(number) {
            let queue = &mut self.queues[entry.queue];
            queue.total = queue.total.saturating_sub(1);
        }
    }

    /// The payload of an entry that is with us and carries no names or data: free to be written.
    pub fn buffer(&self, number: usize) -> Option<(NonNull<u8>, usize)> {
        self.entries.get(number).map(|entry| (entry.payload, self.payload_bytes))
    }

    /// Writes a reply into its entry. `in_place`: that many bytes of it are there already. Returns
    /// what names the request to the kernel, or `None` if no request is in that entry.
    pub fn answer(&mut self, number: usize, error: i32, payload: &[u8], in_place: usize) -> Option<u64> {
        let entry = self.entries.get_mut(number)?;
        let commit = entry.commit.take()?;
        self.queues[entry.queue].busy -= 1;
        let fits = payload.len().max(in_place) <= self.payload_bytes;
        let (error, payload, in_place) =
            if fits { (error, payload, in_place) } else { (libc::EIO, &[][..], 0) };
        // SAFETY: as in `receive`; nobody borrows from the entry, because the handler has returned.
        let header = unsafe { entry.header.as_mut() };
        let len = payload.len().max(in_place);
        let out =
            OutHeader { len: (size_of::<OutHeader>() + len) as u32, error: -error, unique: commit.unique };
        header.in_out[..size_of::<OutHeader>()].copy_from_slice(out.as_bytes());
        header.payload_len = len as u32;
        // SAFETY: the payload has room for it, as was asked above, and is no part of the reply's source.
        unsafe { std::ptr::copy_nonoverlapping(payload.as_ptr(), entry.payload.as_ptr(), payload.len()) };
        Some(commit.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn the_header_is_the_kernels() {
        assert_eq!(size_of::<Header>(), 288);
        assert_eq!((offset_of!(Header, commit_id), offset_of!(Header, payload_len)), (264, 272));
    }

    #[test]
    fn a_request_comes_and_its_reply_goes() {
        let mut entries = Entries::new(vec![3, 9], 5000, 2).expect("memory");
        let made: Vec<_> = entries.unregistered().iter().map(|u| (u.queue, u.entry)).collect();
        assert_eq!(made, [(3, 0), (3, 1), (9, 2)]);
        assert!(entries.unregistered().is_empty());
        assert_eq!((entries.queue_of(1), entries.queues()[0].free()), (Some(3), 2));
        // SAFETY: what the kernel does, on memory of the entries, which nobody else refers to now.
        let header = unsafe { entries.entries[1].header.as_mut() };
        header.in_out[8..16].copy_from_slice(&77u64.to_ne_bytes());
        (header.commit_id, header.payload_len) = (78, 4);
        // SAFETY: a payload has room for more than four bytes.
        unsafe { entries.entries[1].payload.as_ptr().copy_from(b"name".as_ptr(), 4) };
        let received = entries.receive(1).expect("a request");
        assert_eq!((received.header.unique, received.payload), (77, &b"name"[..]));
        assert_eq!(entries.queues()[0].free(), 1);
        assert_eq!(entries.answer(1, libc::ENOENT, b"", 0), Some(78));
        assert_eq!(entries.answer(1, 0, b"", 0), None, "a request gets one answer");
        assert_eq!(entries.queues()[0].free(), 2);
        // SAFETY: as above.
        let header = unsafe { entries.entries[1].header.as_ref() };
        assert_eq!(header.in_out[4..8], (-libc::ENOENT).to_ne_bytes());
        assert_eq!(header.payload_len, 0);
        assert!(entries.receive(3).is_none() && entries.answer(9, 0, b"", 0).is_none());
    }
}
