//! [`InTurn`]: two machines that share a name and are used one after the other.
use super::lab::Lab;
use super::subject::Subject;
use std::path::{Path, PathBuf};

/// A [`Lab`] whose [`elsewhere`](Subject::elsewhere) is the other of two machines, which still has what it had
/// when it was left.
pub struct InTurn {
    lab: Lab,
    machine: u32,
}

impl InTurn {
    pub fn new(lab: Lab) -> Self {
        Self { lab, machine: 0 }
    }
}

impl Subject for InTurn {
    fn dir(&self) -> PathBuf {
        self.lab.dir()
    }

    fn flush(&mut self) -> String {
        self.lab.flush()
    }

    fn strike(&mut self) {
        self.lab.strike();
    }

    fn revive(&mut self) {
        self.lab.revive();
    }

    fn remount(&mut self) {
        self.lab.remount();
    }

    fn elsewhere(&mut self) {
        self.machine = 1 - self.machine;
        self.lab.turn_to(self.machine);
    }

    fn checkout(&self, version: &str) -> PathBuf {
        self.lab.checkout(version)
    }

    fn archive(&self, to: &Path) {
        self.lab.archive(to);
    }
}
