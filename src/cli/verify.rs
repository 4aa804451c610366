//! `icecache verify --remote URL --name NAME [--quick] [VERSION]`.
use super::flags::{Flags, RemoteScope};
use super::offline::{self, Choice};
use super::output::{bytes, safe};
use super::progress::View;
use super::version::Version;
use super::{Context, Exit};
use crate::Result;
use crate::state::verify::{Depth, Report};
use crate::sync::Mutex;
use serde::Serialize;
use std::time::Instant;

#[derive(Debug, clap::Args)]
pub struct Verify {
    #[command(flatten)]
    version: Version,
    /// Read only the tables at the ends of the layers, not the content
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    flags: Flags<RemoteScope>,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Document<'a> {
    /// Whether everything that there is was looked at and found right.
    ok: bool,
    quick: bool,
    #[serde(flatten)]
    report: &'a Report,
    duration_ms: u64,
}

impl Verify {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let remote = self.flags.remote(context)?;
        let depth = if self.quick { Depth::Tails } else { Depth::Whole };
        let begun = Instant::now();
        let view = Mutex::new(View::new(&context.output));
        let done = offline::verify(&remote, &Choice::of(self.version.typed()), depth, &|progress| {
            view.lock().show(progress);
        });
        drop(view);
        let report = done?;
        let took = begun.elapsed();
        let exit = exit(&report);
        if context.output.json {
            let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            let ok = exit == Exit::Done;
            context.output.value(&Document { ok, quick: self.quick, report: &report, duration_ms })?;
            return Ok(exit);
        }
        for damage in &report.damaged {
            context.output.line(&safe(&format!("{}: {}", damage.layer, damage.what)));
        }
        for layer in &report.unchecked {
            context.output.line(&safe(&format!("{layer}: not checkable quickly")));
        }
        context.output.line(&summary(&report, took.as_secs_f64()));
        if exit == Exit::Failure {
            context.output.warn("some layers have no table: without --quick they are read as a whole");
        }
        Ok(exit)
    }
}

/// Zero says that all is well; what was not looked at is not known to be.
fn exit(report: &Report) -> Exit {
    if !report.damaged.is_empty() || report.tree == Some(false) {
        Exit::Damaged
    } else if !report.unchecked.is_empty() {
        Exit::Failure
    } else {
        Exit::Done
    }
}

fn summary(report: &Report, seconds: f64) -> String {
    let state = match exit(report) {
        Exit::Damaged => format!("{} of {} layers damaged", report.damaged.len(), report.layers),
        Exit::Done => format!("{} layers are well", report.layers),
        _ => format!("{} of {} layers not checked", report.unchecked.len(), report.layers),
    };
    let (version, read) = (report.version, bytes(report.bytes));
    format!("version {version}: {state}; {} entries, {read} read, {seconds:.1} s", report.entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::verify::Damage;

    #[test]
    fn zero_means_that_all_is_well() {
        let well = Report {
            version: 3,
            layers: 2,
            bytes: 0,
            entries: 7,
            tree: Some(true),
            damaged: Vec::new(),
            unchecked: Vec::new(),
        };
        assert_eq!(exit(&well), Exit::Done);
        assert!(summary(&well, 0.0).starts_with("version 3: 2 layers are well; 7 entries"));
        let unchecked = Report { unchecked: vec!["layers/1".into()], tree: None, ..well };
        assert_eq!(exit(&unchecked), Exit::Failure);
        let damage = Damage { layer: "layers/2".into(), version: 3, what: "it is not there".into() };
        assert_eq!(exit(&Report { damaged: vec![damage], ..unchecked }), Exit::Damaged);
    }
}
