//! [`Mounting`]: a directory on its way from what was found to being served.
use super::served::{Parts, Served};
use super::tables::Shelf;
use crate::config::{
    Access, FsyncMode, Layout, MountSettings, OnConflict, Passthrough, Transport as TransportSetting, Xattr,
};
use crate::error::{Error, Result};
use crate::fs::{Volume, VolumeOptions};
use crate::fuse::adapter::{Adapter, Durable, io_bytes, wanted};
use crate::fuse::connection::Connection;
use crate::fuse::mount::{
    Backing, MountOptions, Mounted, NoPassthrough, Restrictions, mount, probe_passthrough,
};
use crate::fuse::transport::{Handler, Offer, attach};
use crate::remote::Store;
use crate::serve::start::lock::Locks;
use crate::serve::start::reconcile::Found;
use crate::state::absent::{Gathering, Hydrator, Learned, Pace, Shown};
use crate::state::barrier::Barrier;
use crate::state::commit::{Committer, Tidy};
use crate::state::cut::{CutOptions, Cutter};
use crate::state::flusher::{Flusher, StartBarrier, Timing, WhenLost};
use crate::state::plan::{LookOptions, change_tick};
use crate::state::record::Records;
use crate::state::staging::Staging;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// How long a `--fsync remote` waits after a failed flush before it asks for another.
const DURABLE_PAUSE: Duration = Duration::from_millis(500);

/// How many requests may wait for their answers at any time, beside those that a cut holds: with
/// `--fsync remote` every fsync does, and after a lazy restore every open of a file that is not here.
fn withheld(fsync: FsyncMode, lazy: bool) -> usize {
    match fsync {
        FsyncMode::Local if !lazy => 0,
        FsyncMode::Local | FsyncMode::Remote => 1024,
    }
}

/// What was read first is written once so long after the mount, and at its end.
const LEARNED_AFTER: Duration = Duration::from_secs(60);

/// How long the background waits after a failure, at first and at most.
const PREFETCH_PAUSE: Duration = Duration::from_secs(1);
const PREFETCH_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Any right for others than the owner.
const FOR_OTHERS: u32 = 0o077;

/// A directory that is mounted, but not answered yet.
pub struct Mounting {
    volume: Arc<Volume>,
    hydrator: Option<Arc<Hydrator>>,
    learned: Option<Arc<Learned>>,
    classic: Option<NoPassthrough>,
    depth: u32,
    rings: Option<Offer>,
    device: OwnedFd,
    mounted: Mounted,
}

impl Mounting {
    /// Mounts what was `found`: its marks are what the first flush looks at. With a `shelf` tables are shown as well.
    pub fn begin(
        settings: &MountSettings,
        locks: &Locks,
        found: Found,
        store: &Store,
        runtime: &Handle,
        shelf: Option<&Shelf>,
    ) -> Result<Self> {
        let Found { marks, absent } = found;
        let read_only = settings.shows.is_some();
        rustix::process::umask(rustix::fs::Mode::empty()); // the kernel has applied the caller's
        let backing =
            Backing::probe(locks.backing()).map_err(|e| Error::io("cannot look at the backing", e))?;
        let classic = match settings.passthrough {
            Passthrough::Off => Some(NoPassthrough::TurnedOff),
            Passthrough::Auto => probe_passthrough(locks.backing(), &settings.state_dir.join("probe")).err(),
        };
        let allow_other = allow_other(settings, locks)?;
        let options = VolumeOptions {
            passthrough: classic.is_none(),
            xattr: settings.xattr == Xattr::On,
            acl: settings.xattr == Xattr::On,
            labels: knows_labels(),
            copy_file_range: classic.is_some() || backing.reflink,
            read_only,
        };
        let volume = Volume::new(locks.backing_fd()?, staging(settings)?, options, absent.clone());
        let volume = Arc::new(volume.map_err(|e| Error::io("cannot open the backing", e))?);
        volume.dirty().restore(marks);
        shelf.map_or(Ok(()), |shelf| shelf.fits(&volume))?;
        // Who only looks at a version teaches nothing, and a trace is replaced by the next.
        let learned = absent
            .as_ref()
            .filter(|_| !read_only && settings.layout != Layout::Log)
            .map(|absent| Arc::new(Learned::new(absent.clone(), store.clone(), settings.name.as_str())));
        let hydrator = absent.map(|absent| {
            let shown: Arc<dyn Shown> = volume.clone();
            absent.show(Arc::downgrade(&shown));
            let neighbours = !settings.no_prefetch || read_only;
            let pace = Pace::new(settings.prefetch_rate);
            Arc::new(Hydrator::new(absent, store.clone(), runtime.clone(), neighbours, pace))
        });

        let source = format!("icecache:{}", settings.name);
        let chosen = settings.mount_flags;
        let flags =
            Restrictions { nosuid: chosen.nosuid, nodev: chosen.nodev, noexec: chosen.noexec, read_only };
        // Before the mount: that is when the kernel decides whether it offers rings.
        let rings = match settings.transport {
            TransportSetting::Device => None,
            TransportSetting::Auto => {
                let withheld = withheld(settings.fsync, hydrator.is_some());
                let withheld = withheld + shelf.map_or(0, Shelf::withheld);
                let io_bytes = io_bytes(&options).max(shelf.map_or(0, Shelf::io_bytes));
                Offer::make(io_bytes as usize, withheld)
                    .inspect_err(|why| tracing::info!("requests travel by the device: {why}"))
                    .ok()
            }
        };
        let (device, mounted) = mount(&settings.dir, &MountOptions { source, allow_other, flags })?;
        Ok(Self { volume, hydrator, learned, classic, depth: backing.depth, rings, device, mounted })
    }

    /// What saves what changes, through `committer`.
    pub fn flusher(
        &self,
        settings: &Arc<MountSettings>,
        locks: &Locks,
        records: Arc<Records>,
        committer: Arc<Committer>,
        runtime: &Handle,
    ) -> Result<Arc<Flusher>> {
        let staging = staging(settings).inspect_err(|_| {
            let _detached = self.mounted.unmount(true);
        })?;
        let cutter = Cutter::new(
            self.volume.clone(),
            staging,
            CutOptions {
                deadline: settings.cut_deadline,
                mount_dev: self.mounted.dev(),
                hold: self.volume.options().passthrough,
                look: LookOptions {
                    tick: change_tick(locks.backing().as_fd()),
                    whole: settings.layout == Layout::Single,
                    ..LookOptions::default()
                },
            },
            None,
        );
        let flusher = Flusher::new(
            self.volume.clone(),
            cutter,
            committer,
            records,
            start_barrier(settings, &self.volume),
            (
                Timing { debounce: settings.debounce, max_delay: settings.max_delay },
                Tidy {
                    chain: settings.chain as usize,
                    keep: settings.keep as usize,
                    keep_for: settings.keep_for,
                    delete_after: settings.delete_after,
                    amplification: u64::from(settings.amplification),
                },
            ),
            runtime.clone(),
        );
        let gathering = self
            .learned
            .clone()
            .filter(|_| !settings.no_prefetch && settings.layout == Layout::Layered)
            .zip(self.hydrator.as_ref())
            .map(|(learned, hydrator)| Gathering::new(hydrator.absent().clone(), learned));
        let closing: Option<WhenLost> = (settings.on_conflict == OnConflict::ReadOnly).then(|| {
            let volume = self.volume.clone();
            Box::new(move || volume.close_for_changes()) as WhenLost
        });
        let flusher = flusher.bringing(self.hydrator.clone()).gathering(gathering).when_lost(closing);
        Ok(Arc::new(flusher))
    }

    /// Starts to answer, and to flush by `flusher` if there is one.
    pub fn serve(
        self,
        settings: &MountSettings,
        flusher: Option<Arc<Flusher>>,
        runtime: &Handle,
        shelf: Option<&Shelf>,
    ) -> Result<Arc<Served>> {
        let Self { volume, hydrator, learned, classic, depth, rings, device, mounted } = self;
        let durable: Option<Arc<dyn Durable>> = match (settings.fsync, &flusher) {
            (FsyncMode::Local, _) | (_, None) => None,
            (FsyncMode::Remote, Some(flusher)) => Some(Arc::new(RemoteFsync {
                volume: volume.clone(),
                flusher: flusher.clone(),
                runtime: runtime.clone(),
                limit: settings.fsync_timeout,
            })),
        };
        let threads = settings.fuse_threads as usize;
        let asked = wanted(volume.options(), depth, rings.is_some());
        let asked = shelf.map_or(asked, |shelf| asked.and(shelf.wanted(rings.is_some())));
        let adapter = Adapter::new(volume.clone(), durable, hydrator.clone());
        let handler: Arc<dyn Handler> = match shelf {
            Some(shelf) => shelf.beside(volume.clone(), adapter),
            None => Arc::new(adapter),
        };
        let attached = Connection::handshake(device, &asked)
            .and_then(|connection| attach(connection, handler, rings, threads));
        let attached = attached.map_err(|e| {
            let _detached = mounted.unmount(true);
            Error::io("the kernel refused the mount's handshake", e)
        })?;
        volume.set_kernel(Box::new(attached.link.clone()));
        if let Some(shelf) = shelf {
            shelf.set_kernel(attached.link);
        }
        let of =
            Parts { volume, flusher, mounted, classic, hydrator: hydrator.clone(), learned: learned.clone() };
        let served = Served::start(of, attached.transport)?;
        if let Some(learned) = learned.clone() {
            runtime.spawn(async move {
                tokio::time::sleep(LEARNED_AFTER).await;
                learned.save().await;
            });
        }
        if let Some(hydrator) = hydrator.filter(|_| !settings.no_prefetch) {
            runtime.spawn(prefetch(hydrator, learned));
        }
        Ok(Arc::new(served))
    }
}

fn staging(settings: &MountSettings) -> Result<Staging> {
    let place = settings.state_dir.join("staging");
    Staging::open(&place).map_err(|e| Error::io(format!("cannot use {}", place.display()), e))
}

/// Brings everything in the background; after a failure it is tried again, less and less often.
/// What was read first after earlier mounts comes first.
async fn prefetch(hydrator: Arc<Hydrator>, learned: Option<Arc<Learned>>) {
    if let Some(learned) = learned
        && let Some(trace) = learned.earlier().await
        && let Err(error) = hydrator.bring_first(trace).await
    {
        tracing::debug!(%error, "what was read first earlier could not be brought first");
    }
    let mut pause = PREFETCH_PAUSE;
    while let Err(error) = hydrator.bring_all(true, || ()).await {
        if hydrator.is_stopped() {
            return;
        }
        tracing::warn!(%error, "content could not be brought in the background");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PREFETCH_PAUSE_MAX);
    }
    tracing::info!("everything is on the disk");
}

/// Everybody may enter where others could before: where the directory is not ours, or its modes and
/// those on the way to it let them. Only root can, or who `/etc/fuse.conf` allows to; and where nobody
/// could, the kernel need not ask for modes at each step.
pub(super) fn allow_other(settings: &MountSettings, locks: &Locks) -> Result<bool> {
    let metadata = locks.backing().metadata().map_err(|e| Error::io("cannot look at the backing", e))?;
    let own = metadata.uid() == rustix::process::geteuid().as_raw();
    Ok(match settings.access {
        Access::All => true,
        Access::Owner => false,
        Access::Auto => {
            let open = metadata.permissions().mode() & FOR_OTHERS != 0;
            rustix::process::geteuid().is_root() && (!own || open && is_reachable(&settings.dir))
        }
    })
}

/// Whether others than its owners can get to a directory: each one above it lets them pass.
fn is_reachable(dir: &std::path::Path) -> bool {
    let passes = |above: &std::path::Path| {
        // One that cannot be looked at is no reason to lock people out.
        std::fs::metadata(above).map_or(true, |m| m.permissions().mode() & 0o011 != 0)
    };
    dir.ancestors().skip(1).all(passes)
}

/// Whether the kernel has SELinux: then, and only then, it knows the file system of that.
fn knows_labels() -> bool {
    let known = std::fs::read_to_string("/proc/filesystems");
    known.is_ok_and(|known| known.lines().any(|line| line.ends_with("selinuxfs")))
}

/// The helper of the cut: this program again, without the FUSE device.
fn start_barrier(settings: &Arc<MountSettings>, volume: &Arc<Volume>) -> StartBarrier {
    let (settings, volume) = (settings.clone(), Arc::downgrade(volume));
    Box::new(move || {
        let volume = volume.upgrade()?;
        let start = || {
            let mut command = std::process::Command::new("/proc/self/exe");
            command.arg("barrier");
            Barrier::start(command, &settings.dir)
        };
        let started = start();
        if let Ok(barrier) = &started {
            volume.set_cut_pid(barrier.pid());
        }
        Some(started)
    })
}

/// `--fsync remote`: an fsync returns when a flush that contains it is committed.
struct RemoteFsync {
    volume: Arc<Volume>,
    flusher: Arc<Flusher>,
    runtime: Handle,
    limit: Duration,
}

impl Durable for RemoteFsync {
    fn when_durable(&self, inode: u64, done: Box<dyn FnOnce(std::io::Result<()>) + Send>) {
        // Its caller holds the inode's lock until it is answered: the cut need not hold it again.
        self.volume.holds().lock(inode);
        let (volume, flusher, limit) = (self.volume.clone(), self.flusher.clone(), self.limit);
        self.runtime.spawn(async move {
            let committed = async {
                while !matches!(flusher.request().await, Ok(Ok(_))) {
                    tokio::time::sleep(DURABLE_PAUSE).await;
                }
            };
            let result = tokio::time::timeout(limit, committed).await;
            volume.holds().unlock(inode);
            done(result.map_err(|_| std::io::Error::from(rustix::io::Errno::IO)));
        });
    }
}
