//! `icecache doctor`: what works on this machine, found out by trying.
use super::output::safe;
use super::{Context, Exit};
use crate::serve::run::probe::{Probe, Way, probe, try_private};
use crate::{Error, Result};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Doctor {}

impl Doctor {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let place = std::env::temp_dir().join(format!("icecache-doctor-{}", std::process::id()));
        let failed = |e| Error::io(format!("cannot make a directory to try on: {}", place.display()), e);
        DirBuilder::new().mode(0o700).create(&place).map_err(failed)?;
        let probe = probe(&place);
        let _gone = std::fs::remove_dir(&place);
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
