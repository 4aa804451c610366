//! [`Overlay`]: an overlayfs in the place of the directory that is mounted.
use super::lab::detach;
use super::{LIMIT, Lab, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the layers of an overlayfs lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layers {
    /// On one file system: every file has the device of the overlayfs.
    Together,
    /// Each on one of its own: only directories have the device of the overlayfs, and two files may have one number.
    Apart,
}

/// The directory that is to be mounted, in an overlayfs: what it has is of an image that nobody changes.
#[derive(Debug)]
pub struct Overlay {
    place: PathBuf,
    beneath: Vec<PathBuf>,
}

impl Overlay {
    /// `None`: it cannot be mounted here.
    pub fn over(lab: &Lab, layers: Layers, fill: impl FnOnce(&Path)) -> Option<Self> {
        let [lower, changes] = ["lower", "changes"].map(|name| lab.root().join(name));
        let mut overlay = Self { place: lab.place(), beneath: Vec::new() };
        for dir in [&lower, &changes] {
            fs::create_dir(dir).unwrap();
            if layers == Layers::Apart {
                let mut mount = Command::new("mount");
                mount.args(["-t", "tmpfs", "none"]).arg(dir);
                if !run(&mut mount, LIMIT).ok() {
                    return None;
                }
                overlay.beneath.push(dir.clone());
            }
        }
        fill(&lower);
        let [upper, work] = ["upper", "work"].map(|name| changes.join(name));
        fs::create_dir(&upper).unwrap();
        fs::create_dir(&work).unwrap();
        let path = |dir: &Path| dir.to_str().unwrap().to_owned();
        let options =
            format!("xino=off,lowerdir={},upperdir={},workdir={}", path(&lower), path(&upper), path(&work));
        let mut mount = Command::new("mount");
        mount.args(["-t", "overlay", "overlay", "-o", &options]).arg(&overlay.place);
        run(&mut mount, LIMIT).ok().then_some(overlay)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        detach(&self.place);
        self.beneath.iter().for_each(|dir| detach(dir));
    }
}
