//! `mount --metrics ADDRESS`: the address is taken before anything is mounted, and given back at the end.
use super::served::Served;
use super::tables::Desk;
use crate::clock::Timestamp;
use crate::config::MountSettings;
use crate::error::{Error, Result};
use crate::remote::Counters;
use crate::serve::http::{Answer, Limits, listen, serve};
use crate::serve::metrics::{Metrics, MountTotals, of_mount, of_tables};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Who scrapes or hints is one or two; at the end nobody waits for them.
const LIMITS: Limits = Limits { connections: 64, drain: Duration::from_secs(1), ..Limits::DEFAULT };

/// An address that is held.
pub struct Listening {
    listener: TcpListener,
    address: SocketAddr,
}

/// What is served there.
pub struct Serving {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Listening {
    /// Takes the address of the settings, if they have one.
    pub fn begin(runtime: &Runtime, settings: &MountSettings) -> Result<Option<Self>> {
        settings.metrics.as_ref().map(|address| Self::at(runtime, address)).transpose()
    }

    /// Takes an address.
    pub fn at(runtime: &Runtime, address: &str) -> Result<Self> {
        let listener = runtime.block_on(listen(address))?;
        let address =
            listener.local_addr().map_err(|e| Error::io("cannot tell the address that is listened at", e))?;
        Ok(Self { listener, address })
    }

    /// Where that is: a port of 0 has become one.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers for `served`, and for the tables beside it.
    pub fn serve(
        self,
        runtime: &Runtime,
        settings: Arc<MountSettings>,
        served: Arc<Served>,
        requests: Arc<Counters>,
        tables: Option<Desk>,
    ) -> Serving {
        let started = Timestamp::now();
        let all = move || {
            let mut all = of_mount(&totals(&settings, &served, &requests, started));
            all.extend(tables.iter().flat_map(|desk| of_tables(&desk.totals())));
            all
        };
        self.answer(runtime, Arc::new(Metrics::new(all)))
    }

    /// Answers for a mount of tables.
    #[cfg(feature = "tables")]
    pub fn serve_tables(self, runtime: &Runtime, desk: Desk) -> Serving {
        self.answer(runtime, Arc::new(Metrics::new(move || of_tables(&desk.totals()))))
    }

    /// Answers in this way.
    pub fn answer(self, runtime: &Runtime, answers: Arc<dyn Answer>) -> Serving {
        let (stop, stopped) = watch::channel(false);
        let task = runtime.spawn(serve(self.listener, answers, LIMITS, Arc::default(), stopped));
        Serving { stop, task }
    }
}

impl Serving {
    /// Gives the address back.
    pub fn end(self, runtime: &Runtime) {
        self.stop.send_replace(true);
        let _ended = runtime.block_on(self.task);
    }
}

fn totals(settings: &MountSettings, served: &Served, requests: &Counters, started: Timestamp) -> MountTotals {
    let about = [
        ("dir", settings.dir.display().to_string()),
        ("name", settings.name.to_string()),
        ("mode", served.mode().0),
        ("transport", served.transport().to_owned()),
        ("program", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    let mut totals = MountTotals {
        about: about.into(),
        started,
        open_for_write: served.volume().open_for_write() as u64,
        operations: served.volume().counters().all().collect(),
        remote: requests.snapshot(),
        ..MountTotals::default()
    };
    if let Some(hydrator) = served.hydrator() {
        totals.absent = hydrator.absent().left();
        totals.demanded = hydrator.demanded();
        totals.prefetched = hydrator.background();
    }
    if let Some(flusher) = served.flusher() {
        let committer = flusher.committer();
        totals.flushes = flusher.status();
        totals.unsaved = flusher.unsaved(0);
        totals.cuts = flusher.cut_stats();
        totals.layers = committer.head().map_or(0, |head| head.layers.len() as u64);
        totals.unneeded = committer.unneeded();
    }
    totals
}
