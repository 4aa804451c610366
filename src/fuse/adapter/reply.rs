//! Turns a result of the volume into the one reply a request gets.
use super::super::errno::errno;
use super::TTL;
use super::convert::file_attr;
use crate::fs::Value;
use crate::fs::attr::Attr;
use fuser::{
    Generation, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyStatfs, ReplyWrite, ReplyXattr,
};
use std::io;

pub(super) fn entry(reply: ReplyEntry, result: io::Result<(u64, Attr)>) {
    match result {
        Ok((id, attr)) => reply.entry(&TTL, &file_attr(id, &attr), Generation(attr.generation)),
        Err(e) => reply.error(errno(&e)),
    }
}

pub(super) fn empty(reply: ReplyEmpty, result: io::Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(errno(&e)),
    }
}

pub(super) fn attr(reply: ReplyAttr, id: u64, result: io::Result<Attr>) {
    match result {
        Ok(attr) => reply.attr(&TTL, &file_attr(id, &attr)),
        Err(e) => reply.error(errno(&e)),
    }
}

pub(super) fn data(reply: ReplyData, result: io::Result<impl AsRef<[u8]>>) {
    match result {
        Ok(bytes) => reply.data(bytes.as_ref()),
        Err(e) => reply.error(errno(&e)),
    }
}

pub(super) fn written(reply: ReplyWrite, result: io::Result<u32>) {
    match result {
        Ok(bytes) => reply.written(bytes),
        Err(e) => reply.error(errno(&e)),
    }
}

pub(super) fn offset(reply: ReplyLseek, result: io::Result<i64>) {
    match result {
        Ok(at) => reply.offset(at),
        Err(e) => reply.error(errno(&e)),
    }
}

pub(super) fn statfs(reply: ReplyStatfs, result: io::Result<rustix::fs::StatVfs>) {
    match result {
        Ok(s) => reply.statfs(
            s.f_blocks,
            s.f_bfree,
            s.f_bavail,
            s.f_files,
            s.f_ffree,
            s.f_bsize as u32,
            s.f_namemax as u32,
            s.f_frsize as u32,
        ),
        Err(e) => reply.error(errno(&e)),
    }
}

pub(super) fn xattr(reply: ReplyXattr, result: io::Result<Value>) {
    match result {
        Ok(Value::Length(length)) => reply.size(length as u32),
        Ok(Value::Bytes(bytes)) => reply.data(&bytes),
        Err(e) => reply.error(errno(&e)),
    }
}
