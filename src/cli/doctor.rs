//! `icecache doctor`: what works on this machine, found out by trying.
use super::output::safe;
use super::{Context, Exit};
use crate::Result;
use crate::serve::run::probe::{Probe, Way, probe, try_private};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Doctor {}

impl Doctor {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let place = place();
        let probe = probe(place.as_deref().map_err(String::clone));
        let _gone = place.map(std::fs::remove_dir);
        if context.output.json {
            context.output.value(&probe)?;
            return Ok(Exit::Done);
        }
        let rows: Vec<[String; 3]> = probe.steps.iter().map(row).collect();
        context.output.table(["TRIED", "WORKS", "DETAIL"], &rows);
        context.output.line(&format!("exec and mount: {}", sentence(&probe)));
        Ok(Exit::Done)
    }
}

/// An empty directory, wherever one can be made.
fn place() -> std::result::Result<PathBuf, String> {
    let name = format!("icecache-doctor-{}", std::process::id());
    let mut why = String::new();
    for above in [std::env::temp_dir(), "/tmp".into(), "/var/tmp".into(), "/dev/shm".into()] {
        let place = above.join(&name);
        match DirBuilder::new().mode(0o700).create(&place) {
            Ok(()) => return Ok(place),
            Err(e) if why.is_empty() => why = format!("cannot make {}: {e}", place.display()),
            Err(_) => {}
        }
    }
    Err(why)
}

fn row(step: &crate::serve::run::probe::Step) -> [String; 3] {
    [step.what.to_owned(), if step.ok { "yes" } else { "no" }.to_owned(), safe(&step.detail)]
}

fn sentence(probe: &Probe) -> &'static str {
    match probe.way {
        Way::Mount => "the directory is mounted",
        Way::Private => "exec mounts the directory for its command alone; mount does not work",
        Way::Directory => "exec restores and scans the directory; mount does not work",
    }
}

/// `icecache try-namespace PLACE` (hidden): the step of the probe that cannot be taken back.
#[derive(Debug, clap::Args)]
pub struct TryNamespace {
    place: PathBuf,
}

impl TryNamespace {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let (exit, detail) = match try_private(&self.place) {
            Ok(detail) => (Exit::Done, detail),
            Err(why) => (Exit::Failure, why),
        };
        context.output.line(&safe(&detail));
        Ok(exit)
    }
}
