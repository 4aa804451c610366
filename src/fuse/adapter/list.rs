//! Listings, with and without the attributes of what is listed.
use crate::fs::Volume;
use crate::fuse::abi::answer::List;
use crate::fuse::transport::Reply;

pub(super) fn readdir(volume: &Volume, inode: u64, offset: u64, size: u32, reply: Reply<Vec<u8>>) {
    reply.fill(size as usize, |buffer| {
        let mut list = List::new(buffer);
        volume.readdir(inode, offset, |name, entry| list.name(name.to_bytes(), entry))?;
        Ok(list.bytes())
    });
}

pub(super) fn readdirplus(volume: &Volume, inode: u64, offset: u64, size: u32, reply: Reply<Vec<u8>>) {
    reply.fill(size as usize, |buffer| {
        let mut list = List::new(buffer);
        volume.readdirplus(inode, offset, |name, entry, found| list.entry(name.to_bytes(), entry, found))?;
        Ok(list.bytes())
    });
}
