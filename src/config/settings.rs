//! [`MountSettings`]: the checked value set of one mount, and [`RemoteSettings`], the part of it that
//! verbs need which work without a mount.
use super::merge::{Environment, Merged, Origin, Value};
use super::place::{self, canonical_dir, keep_apart, resolve};
use super::tables::TablesSettings;
use super::types::{
    Access, FsyncMode, Layout, MountFlags, Name, OnConflict, OnExisting, Passthrough, Restore, Scan,
    Transport, Xattr,
};
use super::{Choice, ConfigError, text, wire};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// How an S3 store is reached. Credentials are no part of this: the SDK reads them by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct S3Settings {
    /// URL of an S3-compatible store; `None`: AWS.
    pub endpoint: Option<String>,
    /// Region; `None`: as the AWS configuration says.
    pub region: Option<String>,
    /// Whether the bucket stands in the path of the URL; `None`: yes if an endpoint is given.
    pub path_style: Option<bool>,
    /// Profile of the AWS configuration files.
    pub profile: Option<String>,
}

/// A remote and a name in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteSettings {
    /// `s3://bucket/prefix` or `file:///path`.
    pub remote: String,
    /// The name of the history.
    pub name: Name,
    /// How versions lie in the remote.
    pub layout: Layout,
    /// S3 only.
    pub s3: S3Settings,
    /// Accept a store without conditional writes.
    pub allow_unsafe_no_cas: bool,
}

/// Everything one mount is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSettings {
    /// The mount directory, canonical.
    #[serde(with = "wire::path")]
    pub dir: PathBuf,
    /// A separate place for the files; `None`: underneath the mount.
    #[serde(with = "wire::optional_path")]
    pub backing: Option<PathBuf>,
    /// `s3://bucket/prefix` or `file:///path`.
    pub remote: String,
    /// The name of the history in the remote.
    pub name: Name,
    /// Journal, log, socket, spool. Outside of `dir` and `backing`.
    #[serde(with = "wire::path")]
    pub state_dir: PathBuf,
    /// S3 only.
    pub s3: S3Settings,
    /// How versions lie in the remote.
    pub layout: Layout,
    /// Local files and a remote version.
    pub on_existing: OnExisting,
    /// Another writer moved the name.
    pub on_conflict: OnConflict,
    /// When to compare the backing with the journal.
    pub scan: Scan,
    /// When the content of a version comes.
    pub restore: Restore,
    /// With [`Restore::Lazy`]: bring only what is touched.
    pub no_prefetch: bool,
    /// Bytes a second that the background of such a restore brings at most.
    pub prefetch_rate: Option<NonZeroU64>,
    /// How many layers a version may have.
    pub chain: u32,
    /// How much the merge of all its layers may write for each byte that changed.
    #[serde(default)]
    pub amplification: u32,
    /// How many of the newest versions are kept.
    pub keep: u32,
    /// Versions that are younger are kept as well.
    pub keep_for: Option<Duration>,
    /// How long layers that no kept version needs stay in the remote; `None`: for ever.
    #[serde(default)]
    pub delete_after: Option<Duration>,
    /// Flush this long after the last change.
    pub debounce: Duration,
    /// Flush at least this often under constant writing; not shorter than `debounce`.
    pub max_delay: Duration,
    /// The longest a cut may hold writers.
    pub cut_deadline: Duration,
    /// How long unmount waits for the final flush.
    pub unmount_timeout: Duration,
    /// zstd level, 1 to 19.
    pub level: u32,
    /// Compress small layers with a dictionary.
    #[serde(default)]
    pub dictionary: bool,
    /// When fsync returns.
    pub fsync: FsyncMode,
    /// With [`FsyncMode::Remote`]: EIO after this long.
    pub fsync_timeout: Duration,
    /// Who may enter.
    pub access: Access,
    /// Whether extended attributes are served.
    pub xattr: Xattr,
    /// Whether the kernel serves file data.
    pub passthrough: Passthrough,
    /// How requests reach the daemon.
    pub transport: Transport,
    /// Threads that answer the kernel by the device, 1 to 64.
    pub fuse_threads: u32,
    /// Where metrics are served, as `host:port`.
    #[serde(default)]
    pub metrics: Option<String>,
    /// For the kernel's mount call.
    pub mount_flags: MountFlags,
    /// Accept a store without conditional writes.
    pub allow_unsafe_no_cas: bool,
    /// Stay in the foreground.
    pub foreground: bool,
    /// The process that the mount is for, the parent of its daemon: it ends with that.
    #[serde(default)]
    pub owner: Option<u32>,
    /// Show this version, and change nothing; `None`: the newest one, to be written to.
    #[serde(default)]
    pub shows: Option<Choice>,
    /// Show Iceberg tables, beside the directory or alone.
    #[serde(default)]
    pub tables: Option<TablesSettings>,
}

/// Reads typed values out of merged text.
pub(super) struct Reader<'a>(&'a Merged);

impl Reader<'_> {
    pub(super) fn origin(&self, key: &str) -> Option<&Origin> {
        self.0.get(key).map(|value| &value.origin)
    }

    pub(super) fn parse<T>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(Value { value, origin }) = self.0.get(key) else { return Ok(None) };
        let error = |message| ConfigError::Value { key, origin: origin.clone(), message };
        let text = value.to_str().ok_or_else(|| error("expected UTF-8".to_owned()))?;
        parse(text).map(Some).map_err(error)
    }

    /// A key whose default stands in the table.
    pub(super) fn always<T>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        self.parse(key, parse)?
            .ok_or_else(|| ConfigError::Missing { message: format!("setting has no value: {key}") })
    }

    fn word<T: FromStr<Err = String>>(&self, key: &'static str) -> Result<T, ConfigError> {
        self.always(key, T::from_str)
    }

    pub(super) fn text(&self, key: &'static str) -> Result<Option<String>, ConfigError> {
        self.parse(key, |text| Ok(text.to_owned()))
    }

    fn path(&self, key: &'static str) -> Result<Option<PathBuf>, ConfigError> {
        let Some(Value { value, origin }) = self.0.get(key) else { return Ok(None) };
        let path = Path::new(value);
        let failed = |message| ConfigError::Value { key, origin: origin.clone(), message };
        // Relative to the working directory makes sense only for what was typed there.
        if !path.is_absolute() && !matches!(origin, Origin::Flag(_)) {
            return Err(failed(format!("expected an absolute path: {}", path.display())));
        }
        resolve(path).map(Some).map_err(|e| failed(format!("cannot resolve path: {}: {e}", path.display())))
    }
}

/// The form of a remote URL; the store itself is opened elsewhere.
fn remote_url(url: &str) -> Result<String, String> {
    if let Some(path) = url.strip_prefix("file://") {
        return if path.starts_with('/') {
            Ok(url.to_owned())
        } else {
            Err(format!("expected file:///ABSOLUTE/PATH: {url}"))
        };
    }
    match url.strip_prefix("s3://") {
        Some(rest) if rest.split('/').next().is_some_and(|bucket| !bucket.is_empty()) => {
            if rest.contains('@') || rest.contains('?') {
                return Err("credentials and queries do not belong into the URL".to_owned());
            }
            Ok(url.trim_end_matches('/').to_owned())
        }
        _ => Err(format!("expected s3://BUCKET/PREFIX or file:///PATH: {url}")),
    }
}

fn endpoint(url: &str) -> Result<String, String> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    match rest {
        Some(rest) if rest.contains('@') => Err("credentials do not belong into the URL".to_owned()),
        Some(rest) if !rest.is_empty() => Ok(url.to_owned()),
        _ => Err(format!("expected http:// or https:// and a host: {url}")),
    }
}

/// The form of an address to listen at; whether there is such a host is found out when it is used.
fn address(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(text.to_owned()),
        _ => Err(format!("expected HOST:PORT: {text}")),
    }
}

/// The directory of a `file://` URL.
pub fn file_remote(url: &str) -> Option<PathBuf> {
    url.strip_prefix("file://").map(PathBuf::from)
}

impl S3Settings {
    /// Checks the merged text, where a remote is given another way.
    pub fn resolve(merged: &Merged) -> Result<Self, ConfigError> {
        Self::read(&Reader(merged))
    }

    fn read(reader: &Reader<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            endpoint: reader.parse("s3-endpoint", endpoint)?,
            region: reader.text("s3-region")?,
            path_style: reader.parse("s3-path-style", text::switch)?,
            profile: reader.text("s3-profile")?,
        })
    }
}

impl RemoteSettings {
    /// Checks the merged text. A remote that nobody gave is derived from the user; a name is derived
    /// from `dir`, and required where there is none.
    pub fn resolve(
        merged: &mut Merged,
        dir: Option<&Path>,
        environment: &Environment,
    ) -> Result<Self, ConfigError> {
        if merged.get("remote").is_none() {
            let mut url = OsString::from("file://");
            url.push(place::default_remote(environment)?);
            merged.derive("remote", url);
        }
        match dir {
            Some(dir) => merged.derive("name", place::derived_name(dir)?.as_str()),
            None if merged.get("name").is_none() => {
                return Err(ConfigError::Missing { message: "no name is given: use --name".to_owned() });
            }
            None => {}
        }
        let reader = Reader(merged);
        Ok(Self {
            remote: reader.always("remote", remote_url)?,
            name: reader.word("name")?,
            layout: reader.word("layout")?,
            s3: S3Settings::read(&reader)?,
            allow_unsafe_no_cas: reader.always("unsafe-no-cas", text::switch)?,
        })
    }
}

impl MountSettings {
    /// Checks the merged text for a mount on `dir` (which must exist, or be a dead mount). What was
    /// derived is written back into `merged`, so that it can be shown.
    pub fn resolve(
        dir: &Path,
        merged: &mut Merged,
        environment: &Environment,
        foreground: bool,
    ) -> Result<Self, ConfigError> {
        let dir = canonical_dir(dir).map_err(|e| ConfigError::Conflict {
            message: format!("cannot use mount directory: {}: {e}", dir.display()),
        })?;
        let RemoteSettings { remote, name, layout, s3, allow_unsafe_no_cas } =
            RemoteSettings::resolve(merged, Some(&dir), environment)?;
        if merged.get("state-dir").is_none() {
            merged.derive("state-dir", place::default_state_dir(&dir, environment)?);
        }
        let reader = Reader(merged);
        let state_dir = reader.path("state-dir")?.ok_or_else(|| ConfigError::Missing {
            message: "no state directory is known: use --state-dir".to_owned(),
        })?;
        let settings = Self {
            backing: reader.path("backing")?,
            remote,
            name,
            state_dir,
            s3,
            layout,
            on_existing: reader.word("on-existing")?,
            on_conflict: reader.word("on-conflict")?,
            scan: reader.word("scan")?,
            restore: reader.word("restore")?,
            no_prefetch: reader.always("no-prefetch", text::switch)?,
            prefetch_rate: reader.always("prefetch-rate", text::rate)?,
            chain: reader.always("chain", |t| text::number(t, 4..=1024))?,
            amplification: reader.always("amplification", |t| text::number(t, 0..=1000))?,
            keep: reader.always("keep", |t| text::number(t, 1..=10_000))?,
            keep_for: reader.always("keep-for", text::age)?,
            delete_after: reader.always("delete-after", |t| text::age_or("never", t))?,
            debounce: reader.always("debounce", text::duration)?,
            max_delay: reader.always("max-delay", text::duration)?,
            cut_deadline: reader.always("cut-deadline", text::duration)?,
            unmount_timeout: reader.always("unmount-timeout", text::duration)?,
            level: reader.always("level", |t| text::number(t, 1..=19))?,
            dictionary: reader.always("dictionary", text::switch)?,
            fsync: reader.word("fsync")?,
            fsync_timeout: reader.always("fsync-timeout", text::duration)?,
            access: reader.word("access")?,
            xattr: reader.word("xattr")?,
            passthrough: reader.word("passthrough")?,
            transport: reader.word("transport")?,
            fuse_threads: reader.always("fuse-threads", |t| text::number(t, 1..=64))?,
            metrics: reader.parse("metrics", address)?,
            mount_flags: reader.word("mount-flags")?,
            allow_unsafe_no_cas,
            foreground,
            owner: None,
            shows: None,
            tables: TablesSettings::read(&reader, environment)?,
            dir,
        };
        settings.check()?;
        Ok(settings)
    }

    /// Whether there is a state directory.
    pub fn keeps_state(&self) -> bool {
        self.state_dir != Path::new(place::NO_STATE)
    }

    /// The same mount, showing a version and changing nothing. Its state, content included, is a folder of
    /// its own in the state directory, so that the directory's own state and files stay as they are.
    /// Only what is touched is brought, unless `prefetch`.
    #[must_use]
    pub fn showing(mut self, version: Choice, prefetch: bool) -> Self {
        self.state_dir.push(place::VERSION_DIR);
        self.backing = Some(self.state_dir.join("content"));
        self.no_prefetch = !prefetch;
        self.shows = Some(version);
        self.tables = None;
        self
    }

    /// The same mount, showing tables alone. Its state is a folder of its own in the state directory: the one where a
    /// mount that shows tables beside the directory has what belongs to them.
    #[must_use]
    pub fn showing_tables_only(mut self) -> Self {
        self.state_dir.push(place::TABLES_DIR);
        self
    }

    /// Whether tables are shown, and nothing else.
    pub fn is_of_tables_only(&self) -> bool {
        self.tables.as_ref().is_some_and(|tables| tables.only)
    }

    /// Where the cache of tables and their metadata are.
    pub fn tables_dir(&self) -> PathBuf {
        if self.is_of_tables_only() { self.state_dir.clone() } else { self.state_dir.join(place::TABLES_DIR) }
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.debounce > self.max_delay {
            return Err(ConfigError::Conflict {
                message: format!(
                    "debounce is longer than max-delay: {} and {}",
                    text::show_duration(self.debounce),
                    text::show_duration(self.max_delay)
                ),
            });
        }
        if self.cut_deadline.is_zero() {
            return Err(ConfigError::Conflict {
                message: "cut-deadline must be longer than zero".to_owned(),
            });
        }
        if self.dir == Path::new("/") {
            let message = "the root directory cannot be kept, since all that is needed for that lies in it: name one below it";
            return Err(ConfigError::Conflict { message: message.to_owned() });
        }
        keep_apart("state directory", &self.state_dir, "mount directory", &self.dir, "--state-dir")?;
        let directory_remote = self.directory_remote();
        if let Some(remote) = &directory_remote {
            keep_apart("remote", remote, "mount directory", &self.dir, "--remote")?;
            keep_apart("remote", remote, "state directory", &self.state_dir, "--remote")?;
        }
        if let Some(backing) = &self.backing {
            keep_apart("backing", backing, "mount directory", &self.dir, "--backing")?;
            keep_apart("state directory", &self.state_dir, "backing", backing, "--state-dir")?;
            if let Some(remote) = &directory_remote {
                keep_apart("remote", remote, "backing", backing, "--remote")?;
            }
        }
        Ok(())
    }

    /// The directory of a `file://` remote, links resolved.
    pub fn directory_remote(&self) -> Option<PathBuf> {
        file_remote(&self.remote).map(|path| resolve(&path).unwrap_or(path))
    }

    /// The part that names the remote.
    pub fn remote_settings(&self) -> RemoteSettings {
        RemoteSettings {
            remote: self.remote.clone(),
            name: self.name.clone(),
            layout: self.layout,
            s3: self.s3.clone(),
            allow_unsafe_no_cas: self.allow_unsafe_no_cas,
        }
    }

    /// Where temporary files of the daemon and its helpers go: never the `/tmp` that may be mounted.
    pub fn temp_dir(&self) -> PathBuf {
        self.state_dir.join("tmp")
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.state_dir.join(place::SOCKET_NAME)
    }

    /// The daemon's log.
    pub fn log_file(&self) -> PathBuf {
        self.state_dir.join("daemon.log")
    }
}

#[cfg(test)]
mod tests;
