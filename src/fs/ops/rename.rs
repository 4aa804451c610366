//! Rename, with every flag. The caller has passed the gate.
use crate::fs::absent::Moving;
use crate::fs::attr::Attr;
use crate::fs::counters::Op;
use crate::fs::restate::Place;
use crate::fs::{Volume, sys};
use crate::state::dirty::Extent;
use rustix::io::Errno;
use std::ffi::CStr;
use std::io::{self, ErrorKind};

impl Volume {
    /// Renames; `flags` as in renameat2(2).
    pub fn rename(
        &self,
        parent: u64,
        name: &CStr,
        new_parent: u64,
        new_name: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        self.count(Op::Rename);
        let (from, to) = (self.inode(parent)?, self.inode(new_parent)?);
        let place = |dir, name| Place { dir, name };
        if self.rename_absent(place(&from, name), place(&to, new_name), flags)? {
            return Ok(());
        }
        let exchange = flags & libc::RENAME_EXCHANGE != 0;
        // A file that moves is on the disk by now.
        let mut moving = self.moving_directory(&from, name)?;
        let (mut other, replaced) = match exchange {
            true => (self.moving_directory(&to, new_name)?, None),
            false => (Moving::default(), self.emptied_directory(&to, new_name)?),
        };
        let dirs = (from.dir()?, to.dir()?);
        let source = Attr::at(&dirs.0, name)?;
        let over = if exchange { None } else { self.absent_file_at(&to, new_name) };
        if over.is_some() && source.is_dir() {
            return Err(Errno::NOTDIR.into());
        }
        let target = Attr::at(&dirs.1, new_name).ok();
        let same = target.is_some_and(|t| t.key == source.key);
        let moved = self.inodes.find(&source);
        let victim = match target {
            Some(_) if !same && !exchange => self.victim(&to, new_name)?,
            _ => None,
        };
        let exchanged = target.filter(|_| same || exchange).and_then(|attr| self.inodes.find(&attr));
        let mut came = false;
        let paths = || Some((from.path()?.join(name.to_bytes()), to.path()?.join(new_name.to_bytes())));
        let rename = || {
            // Whoever opens one of them by its names finds the old one or the new one.
            let replaced = victim.as_ref().map(|victim| &victim.inode);
            let renamed = [moved.as_ref(), exchanged.as_ref(), replaced]
                .into_iter()
                .flatten()
                .find(|inode| inode.is_dir());
            let _renaming = renamed.and_then(|inode| inode.renaming());
            sys::rename(&dirs.0, name, &dirs.1, new_name, flags)?;
            if same && !exchange {
                return Ok(()); // two names of one file: rename(2) does nothing
            }
            if let Some(victim) = &victim {
                victim.is_gone(&to, new_name);
            }
            if let Some(inode) = &exchanged {
                inode.remove_link(to.id, new_name);
                inode.add_link(&from, name);
            }
            if let Some(inode) = &moved {
                inode.remove_link(from.id, name);
                inode.add_link(&to, new_name);
            }
            Ok(())
        };
        let taking = || {
            // What is replaced and absent cannot come until that is done.
            let held = over.map(|(absent, node, _)| absent.hold(node)?.ok_or(Errno::AGAIN.into()));
            let held =
                held.transpose().inspect_err(|e: &io::Error| came = e.kind() == ErrorKind::WouldBlock)?;
            self.taking([&mut moving, &mut other], || self.naming(rename))?;
            match held.zip(over) {
                Some((held, (_, _, file))) if !same => self.removed_absent(held, file, &to, new_name),
                _ => Ok(()),
            }
        };
        let renamed = self.shelter.rename(exchange, paths, taking).inspect_err(|_| {
            if let Some(victim) = &victim {
                victim.stays();
            }
        });
        if came {
            return self.rename(parent, name, new_parent, new_name, flags);
        }
        renamed?;
        if same && !exchange {
            return Ok(());
        }
        self.left_tree(moving.left, moved.as_deref())?;
        if exchange {
            self.left_tree(other.left, exchanged.as_deref())?;
        } else {
            self.left_tree(replaced, None)?;
        }
        // A directory is marked whole at both ends: where it was another may soon stand, and what
        // the last version had below it must then be found gone.
        let extent = |attr: Option<Attr>| match attr {
            Some(attr) if attr.is_dir() => Extent::Subtree,
            _ => Extent::Entry,
        };
        let extent = extent(Some(source)).max(extent(target.filter(|_| exchange)));
        self.mark_name(&to, new_name, extent);
        self.mark_name(&from, name, extent);
        Ok(())
    }
}
