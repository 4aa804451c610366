//! [`Listing`]: the names in a folder, each with a number of its own.
//!
//! The kernel goes on with a listing behind the number of the last name that it has, and nothing else says which listing
//! that is: others may have begun anew meanwhile, and found other names. A name keeps its number as long as it is there,
//! and one that comes has a greater one. So whoever began before that gets every name once that was there all the time.
use crate::fs::listing::DirEntry;
use crate::fuse::abi::answer::List;
use crate::fuse::transport::Reply;
use crate::sync::Mutex;
use crate::tables::{Kind, Listed};
use rustix::fs::FileType;
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::Arc;

/// They come before all names and have the numbers 1 and 2. With them no listing is empty: of one that is, the kernel keeps
/// the end, and looks there before it sees that it was told to forget it.
const DOTS: [&str; 2] = [".", ".."];

/// See the module. By their numbers.
#[derive(Debug, Default)]
pub struct Listing(Vec<(u64, Listed)>);

/// The last listing of a folder. Owner of its lock.
#[derive(Debug, Default)]
pub struct Listings(Mutex<Last>);

#[derive(Debug, Default)]
struct Last {
    /// The greatest number that a name has had.
    number: u64,
    listing: Option<Arc<Listing>>,
}

impl Listings {
    /// The last one, if anybody has asked.
    pub fn last(&self) -> Option<Arc<Listing>> {
        self.0.lock().listing.clone()
    }

    /// These names are there now.
    pub fn turn_to(&self, names: Vec<Listed>) -> Arc<Listing> {
        let mut last = self.0.lock();
        let before = last.listing.take().unwrap_or_default();
        last.number = last.number.max(DOTS.len() as u64);
        let numbers: HashMap<&str, u64> =
            before.0.iter().map(|(number, (name, _))| (name.as_str(), *number)).collect();
        let mut numbered = Vec::with_capacity(names.len());
        for (name, kind) in names {
            let number = numbers.get(name.as_str()).copied().unwrap_or_else(|| {
                last.number += 1;
                last.number
            });
            numbered.push((number, (name, kind)));
        }
        numbered.sort_unstable_by_key(|(number, _)| *number);
        let listing = Arc::new(Listing(numbered));
        last.listing = Some(listing.clone());
        listing
    }
}

impl Listing {
    /// What follows a number.
    fn after(&self, number: u64) -> &[(u64, Listed)] {
        &self.0[self.0.partition_point(|(own, _)| *own <= number)..]
    }

    /// The two that every folder has, and what follows them.
    fn all_after(&self, number: u64) -> impl Iterator<Item = (u64, &str, FileType)> {
        let dots = (1..).zip(DOTS).map(|(own, name)| (own, name, FileType::Directory));
        let names = self.after(number).iter().map(|(own, (name, kind))| {
            let file_type = match kind {
                Kind::Folder => FileType::Directory,
                Kind::File => FileType::RegularFile,
                Kind::Link => FileType::Symlink,
            };
            (*own, name.as_str(), file_type)
        });
        dots.filter(move |(own, ..)| *own > number).chain(names)
    }

    /// Answers with as many of the names behind `offset` as go into `size` bytes.
    pub fn write(&self, (offset, size): (u64, u32), plus: bool, reply: Reply<Vec<u8>>) {
        reply.fill(size as usize, |buffer| {
            let mut list = List::new(buffer);
            for (next, name, file_type) in self.all_after(offset) {
                let Ok(c_name) = CString::new(name) else { continue };
                // The kernel gives numbers of its own when it looks them up.
                let entry = DirEntry { name: c_name, ino: u64::MAX, file_type, next };
                let taken = match plus {
                    // Their attributes are asked for when somebody wants them.
                    true => list.entry(name.as_bytes(), &entry, None),
                    false => list.name(name.as_bytes(), &entry),
                };
                if !taken {
                    break;
                }
            }
            Ok(list.bytes())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(listing: &Listing, after: u64) -> Vec<&str> {
        listing.after(after).iter().map(|(_, (name, _))| name.as_str()).collect()
    }

    #[test]
    fn who_goes_on_gets_every_name_once_that_was_there_all_the_time() {
        let listings = Listings::default();
        let turn_to = |all: &[&str]| {
            listings.turn_to(all.iter().map(|name| ((*name).to_owned(), Kind::File)).collect())
        };
        let first = turn_to(&["b", "d", "f", "h"]);
        let behind_d = first.0[1].0;
        assert_eq!(names(&first, behind_d), ["f", "h"]);
        // What came before and behind, and what went that was listed already.
        let second = turn_to(&["a", "d", "e", "f", "h"]);
        assert_eq!(names(&second, behind_d), ["f", "h", "a", "e"]);
        // What was the place of the listing itself goes.
        let third = turn_to(&["f", "h"]);
        assert_eq!(names(&third, behind_d), ["f", "h"]);
        // It is another one of that name.
        let fourth = turn_to(&["b", "f", "h"]);
        assert_eq!(names(&fourth, behind_d), ["f", "h", "b"]);
        let empty = turn_to(&[]);
        assert_eq!(names(&empty, 0), [""; 0]);
        assert_eq!(names(&turn_to(&["x"]), 0), ["x"]);
        // Also of an empty one the kernel gets something.
        let all = |number| empty.all_after(number).map(|(own, name, _)| (own, name)).collect::<Vec<_>>();
        assert_eq!((all(0), all(1), all(2)), (vec![(1, "."), (2, "..")], vec![(2, "..")], vec![]));
        assert!(first.0.iter().all(|(number, _)| *number > 2));
    }
}
