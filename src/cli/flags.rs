//! The settings as flags: made from the table of keys, so that flag, variable and file agree.
use super::Context;
use crate::Result;
use crate::config::keys::{KEYS, Key};
use crate::config::{ConfigFile, Merged, RemoteSettings};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// The keys that say where a remote is.
const REMOTE_KEYS: &[&str] =
    &["remote", "name", "layout", "s3-endpoint", "s3-region", "s3-path-style", "s3-profile", "unsafe-no-cas"];

/// The keys that are switches: as a flag they need no value.
const SWITCHES: &[&str] = &["s3-path-style", "unsafe-no-cas", "no-prefetch", "dictionary", "tables-only"];

/// Which keys a verb takes.
pub trait Scope: Send + Sync + 'static {
    /// Whether this one.
    fn has(key: &Key) -> bool;
}

/// All keys.
#[derive(Debug, Clone)]
pub struct MountScope;

impl Scope for MountScope {
    fn has(_: &Key) -> bool {
        true
    }
}

/// The keys that say where a remote is.
#[derive(Debug, Clone)]
pub struct RemoteScope;

impl Scope for RemoteScope {
    fn has(key: &Key) -> bool {
        REMOTE_KEYS.contains(&key.name)
    }
}

/// The keys that say how to reach an S3 store.
#[derive(Debug, Clone)]
pub struct S3Scope;

impl Scope for S3Scope {
    fn has(key: &Key) -> bool {
        key.name.starts_with("s3-")
    }
}

/// The settings given as flags.
#[derive(Debug, Clone)]
pub struct Flags<S> {
    config: Option<PathBuf>,
    values: Vec<(&'static str, OsString)>,
    scope: std::marker::PhantomData<S>,
}

impl<S> Flags<S> {
    /// Merges with environment, file and defaults.
    pub fn merge(&self, context: &Context, dir: Option<&Path>) -> Result<Merged> {
        let file = ConfigFile::load(self.config.as_deref(), &context.environment)?;
        Ok(Merged::new(self.values.clone(), &context.environment, &file, dir)?)
    }

    /// The remote for a verb that works without a mount.
    pub fn remote(&self, context: &Context) -> Result<RemoteSettings> {
        let mut merged = self.merge(context, None)?;
        Ok(RemoteSettings::resolve(&mut merged, None, &context.environment)?)
    }
}

impl<S: Scope> FromArgMatches for Flags<S> {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let given = |key: &Key| {
            let values: Vec<&OsStr> =
                matches.get_many::<OsString>(key.name)?.map(OsString::as_os_str).collect();
            Some((key.name, values.join(OsStr::new("\n"))))
        };
        Ok(Self {
            config: matches.get_one::<PathBuf>("config").cloned(),
            values: KEYS.iter().filter(|k| S::has(k)).filter_map(given).collect(),
            scope: std::marker::PhantomData,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> std::result::Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<S: Scope> Args for Flags<S> {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("Configuration file");
        KEYS.iter().filter(|k| S::has(k)).map(arg).fold(command.arg(config), Command::arg)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// Whether a key is about the tables that a mount shows.
fn is_of_tables(key: &Key) -> bool {
    key.name.starts_with("tables-")
        || matches!(key.name, "catalog" | "table" | "catalog-option" | "keep-snapshots")
}

fn arg(key: &'static Key) -> Arg {
    let help = match key.default {
        Some(default) if !default.is_empty() => format!("{} [default: {default}]", key.help),
        _ => key.help.to_owned(),
    };
    let arg = Arg::new(key.name)
        .long(key.name)
        .value_parser(clap::value_parser!(OsString))
        .help(help)
        .help_heading(if is_of_tables(key) { "Iceberg tables" } else { "Settings" })
        .action(if key.list { ArgAction::Append } else { ArgAction::Set });
    if SWITCHES.contains(&key.name) {
        return arg.num_args(0..=1).require_equals(true).default_missing_value("on").value_name("on|off");
    }
    arg.value_name(match key.name {
        "remote" | "s3-endpoint" | "tables-redis" => "URL",
        "catalog" => "NAME=KIND:…",
        "table" => "NAME=LOCATION",
        "catalog-option" => "NAME.KEY=VALUE",
        "tables-cache" | "tables-block" => "SIZE",
        "tables-hints-token" => "env:…|file:…",
        "keep-snapshots" => "NUMBER|AGE|SIZE",
        "metrics" | "tables-hints" => "ADDRESS",
        name if name.starts_with("tables-") => "TIME",
        "state-dir" | "backing" => "PATH",
        name if name.contains("timeout") || name.contains("deadline") => "TIME",
        "debounce" | "max-delay" => "TIME",
        _ => "VALUE",
    })
}
