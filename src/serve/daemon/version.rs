//! A mount that shows one version and changes nothing.
//!
//! It has no journal, no identity as a writer, no flushes; all it keeps is the content that was touched, in
//! a folder of its own, and that goes away with it.
mod controller;

use super::ending::{Content, Ending};
use super::mounting::Mounting;
use super::{Prepared, Standing};
use crate::config::{Choice, Layout, Restore};
use crate::error::{Error, ErrorKind, Result};
use crate::serve::shown;
use crate::serve::start::reconcile::Found;
use crate::serve::start::reports::Reports;
use crate::serve::startup::Progress;
use crate::state::absent::{Absent, Source};
use crate::state::choice::choose;
use crate::state::dirty::Marks;
use crate::state::head::{Head, read_head};
use crate::state::restore::{self, LayerSource, Policy};
use controller::VersionController;
use std::sync::Arc;

/// Shows the version that was chosen.
pub(super) fn stand(at: &Prepared<'_>, choice: &Choice) -> Result<Standing> {
    let Prepared { settings, locks, runtime, store, requests, .. } = *at;
    if settings.layout == Layout::Single {
        let message = "layout single keeps the newest version only: leave --version and --at out";
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    shown::content(&settings.state_dir); // of a daemon that was killed
    let head = find(at, choice)?;
    let found = Found { marks: Marks::new(), absent: bring(at, &head)? };
    let handle = runtime.handle();
    let mounting = Mounting::begin(settings, locks, found, store, handle, None)?;
    let served = mounting.serve(settings, None, handle, None)?;
    let version = head.version.to_string();
    let content = Content::Version(version.clone());
    let ending = Arc::new(Ending::new(settings.clone(), served.clone(), content));
    let controller = Arc::new(VersionController {
        settings: settings.clone(),
        served: served.clone(),
        ending: ending.clone(),
        requests: requests.clone(),
        store: store.clone(),
        version: version.clone(),
    });
    Ok(Standing { served, ending, controller, version: Some(version), tables: None })
}

/// The document as of the chosen version.
fn find(at: &Prepared<'_>, choice: &Choice) -> Result<Head> {
    let Prepared { settings, runtime, store, .. } = *at;
    let name = &settings.name;
    let Some((head, _)) = runtime.block_on(read_head(&**store, name.as_str()))? else {
        let message = format!("remote has no such name: {name} in {}", store.url());
        return Err(Error::new(ErrorKind::NotFound, message));
    };
    choose(head, choice)
}

/// Lays the version out, and brings all of it if that was asked for or nothing else can be done.
fn bring(at: &Prepared<'_>, head: &Head) -> Result<Option<Arc<Absent>>> {
    let Prepared { settings, status, locks, runtime, store, .. } = *at;
    if settings.restore == Restore::Lazy && Source::can_read(head) {
        status.progress(Progress { phase: "reading tables".into(), ..Progress::default() });
        let source = Source {
            store: store.clone(),
            root: locks.backing_fd()?,
            place: settings.state_dir.join("absent"),
            records: None,
        };
        let absent = Arc::new(runtime.block_on(source.begin(head))?);
        absent.finish_root()?;
        return Ok(Some(absent));
    }
    let progress = Reports::to(status);
    let layers = LayerSource::newest_first(head);
    let work = restore::restore(store.clone(), layers, locks.backing_fd()?, Policy::default(), &progress);
    for note in runtime.block_on(work)?.notes {
        status.notice(note);
    }
    Ok(None)
}
