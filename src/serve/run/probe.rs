//! Whether a directory can be mounted here, found out by trying.
//!
//! Neither the existence of the device nor that it can be opened says anything: a container may have the one
//! without the right to mount, and the other without the device. So each step is taken.
use serde::Serialize;
use std::path::Path;

/// What can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// A mount that everybody sees.
    Mount,
    /// A mount in a namespace of the command's own.
    Private,
    /// No mount: the directory is restored and scanned.
    Directory,
}

/// One step, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What was tried.
    pub what: &'static str,
    /// Whether it worked.
    pub ok: bool,
    /// With what, or why not.
    pub detail: String,
}

/// What was tried, in order, and what follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// Each step that was taken.
    pub steps: Vec<Step>,
    /// The best that works.
    pub way: Way,
}

impl Probe {
    /// The step that failed and why, on one line; `None` if all went well.
    pub fn reason(&self) -> Option<String> {
        let failed = self.steps.iter().filter(|step| !step.ok);
        let words: Vec<String> = failed.map(|step| format!("{}: {}", step.what, step.detail)).collect();
        (!words.is_empty()).then(|| words.join("; "))
    }
}

/// Tries on `place`, an empty directory, or says why there is none.
#[cfg(feature = "fuse")]
pub fn probe(place: Result<&Path, String>) -> Probe {
    let mut steps = Vec::new();
    let way = climb(place, &mut steps);
    Probe { steps, way }
}

/// Says that this build has no mount.
#[cfg(not(feature = "fuse"))]
pub fn probe(_: Result<&Path, String>) -> Probe {
    let detail = "this build was made without the feature 'fuse'".to_owned();
    Probe { steps: vec![Step { what: "program", ok: false, detail }], way: Way::Directory }
}

#[cfg(feature = "fuse")]
fn climb(place: Result<&Path, String>, steps: &mut Vec<Step>) -> Way {
    use crate::fuse::attempt::{device, try_mount, try_open};
    let mut took = |what: &'static str, outcome: Result<String, String>| {
        let ok = outcome.is_ok();
        let detail = outcome.unwrap_or_else(|why| why);
        steps.push(Step { what, ok, detail });
        ok
    };
    if !took("device /dev/fuse", device()) || !took("open /dev/fuse", try_open()) {
        return Way::Directory;
    }
    let place = match place {
        Ok(place) => place,
        Err(why) => {
            took("a directory to mount on", Err(why));
            return Way::Directory;
        }
    };
    if took("mount", try_mount(place)) {
        return Way::Mount;
    }
    if took("mount in a private namespace", in_private(place)) { Way::Private } else { Way::Directory }
}

/// In a process of its own, which does not come back from there.
#[cfg(feature = "fuse")]
fn in_private(place: &Path) -> Result<String, String> {
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg("try-namespace").arg(place).stdin(std::process::Stdio::null());
    let output = command.output().map_err(|e| e.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match output.status.success() {
        true => Ok(said),
        false if said.is_empty() => Err(output.status.to_string()),
        false => Err(said),
    }
}

/// What that process does.
#[cfg(feature = "fuse")]
pub fn try_private(place: &Path) -> Result<String, String> {
    super::namespace::enter().map_err(|e| e.to_string())?;
    crate::fuse::attempt::try_mount_directly(place)
}

/// A build without mounts asks for none.
#[cfg(not(feature = "fuse"))]
pub fn try_private(_: &Path) -> Result<String, String> {
    Err("this build was made without the feature 'fuse'".to_owned())
}
