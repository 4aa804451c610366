//! The commands that a ring takes, as the kernel lays them out.
use io_uring::squeue::Entry128;

/// Hands an entry to the kernel for the first time.
const REGISTER: u32 = 1;
/// Gives the reply in an entry, and the entry back.
const COMMIT_AND_FETCH: u32 = 2;
/// `IORING_OP_URING_CMD`.
const URING_CMD: u8 = 46;

/// A submission of 128 bytes: the kernel's `io_uring_sqe` with a command of 80 bytes at its end, which
/// is a `fuse_uring_cmd_req`. (The library's own constructor leaves `len` out.)
#[repr(C)]
struct Submission {
    opcode: u8,
    flags: u8,
    priority: u16,
    fd: i32,
    command: u32,
    padding: u32,
    address: u64,
    len: u32,
    command_flags: u32,
    user_data: u64,
    buffer_index: u16,
    personality: u16,
    file_index: u32,
    request_flags: u64,
    commit_id: u64,
    queue: u16,
    rest: [u8; 62],
}

impl Submission {
    fn new(fd: i32, command: u32, queue: u16, user_data: u64) -> Self {
        Self {
            opcode: URING_CMD,
            flags: 0,
            priority: 0,
            fd,
            command,
            padding: 0,
            address: 0,
            len: 0,
            command_flags: 0,
            user_data,
            buffer_index: 0,
            personality: 0,
            file_index: 0,
            request_flags: 0,
            commit_id: 0,
            queue,
            rest: [0; 62],
        }
    }

    fn into_entry(self) -> Entry128 {
        // SAFETY: both are the kernel's submission of 128 bytes (the sizes are compared at compile
        // time), plain data without invalid values.
        unsafe { std::mem::transmute::<Self, Entry128>(self) }
    }
}

/// Registers the entry whose two buffers (header and payload) the `iovec`s at `address` describe.
pub fn register(fd: i32, queue: u16, user_data: u64, address: u64) -> Entry128 {
    Submission { address, len: 2, ..Submission::new(fd, REGISTER, queue, user_data) }.into_entry()
}

/// Answers the request `commit_id` from the entry it came in.
pub fn commit(fd: i32, queue: u16, user_data: u64, commit_id: u64) -> Entry128 {
    Submission { commit_id, ..Submission::new(fd, COMMIT_AND_FETCH, queue, user_data) }.into_entry()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn the_layout_is_the_kernels() {
        assert_eq!(size_of::<Submission>(), 128);
        assert_eq!(
            (offset_of!(Submission, address), offset_of!(Submission, len), offset_of!(Submission, user_data)),
            (16, 24, 32)
        );
        assert_eq!((offset_of!(Submission, request_flags), offset_of!(Submission, queue)), (48, 64));
        let entry = register(3, 1, 99, 0xdead);
        assert_eq!(entry.get_user_data(), 99);
    }
}
