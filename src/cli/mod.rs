//! The command line: one file per verb. Data goes to stdout, talk to stderr; `--json` turns both into
//! JSON. Only `output` prints.
mod advice;
mod archive;
mod barrier;
mod cache;
mod completions;
mod config;
mod daemon;
mod doctor;
mod exec;
mod exit;
mod export;
#[cfg(feature = "lambda")]
mod extension;
mod flags;
mod flush;
mod fork;
mod hydrate;
mod import;
mod kept;
mod locate;
mod log;
mod mount;
mod offline;
mod output;
mod progress;
mod prune;
mod restore;
#[cfg(feature = "http")]
mod serve;
mod stats;
mod status;
mod tables;
mod tag;
mod unfinished;
mod unmount;
mod verify;
mod version;

pub use exit::Exit;
pub use output::{Output, safe, safe_bytes};

use crate::config::Environment;
use advice::About;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// A directory that survives its machine: local-disk speed, object-store durability, one FUSE mount.
#[derive(Debug, Parser)]
// The version of the program is asked for before the verb alone: behind it a version is one of a directory.
#[command(name = "icecache", version, max_term_width = 100)]
struct Cli {
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Mount a directory; returns when it is usable
    Mount(Box<mount::Mount>),
    /// Restore a directory, run a command on it, save it at its end
    Exec(Box<exec::Exec>),
    /// Keep the directory of an AWS Lambda function, as its extension
    #[cfg(feature = "lambda")]
    Extension(Box<extension::Extension>),
    /// Find out what works on this machine
    Doctor(doctor::Doctor),
    /// Save what changed now
    Flush(flush::Flush),
    /// How a mount stands
    Status(status::Status),
    /// Counters of a mount since its start
    Stats(stats::Stats),
    /// The versions of a directory, newest first
    Log(log::Log),
    /// Write a version into a directory
    Restore(restore::Restore),
    /// Find out whether a version could be restored
    Verify(verify::Verify),
    /// Give a version a name
    Tag(tag::Tag),
    /// Give a version to a new name, which then has a history of its own; copies nothing
    Fork(fork::Fork),
    /// Delete what no version needs
    Prune(prune::Prune),
    /// Write the newest version into an archive
    Export(export::Export),
    /// Bring what is only in the remote so far
    Hydrate(hydrate::Hydrate),
    /// Make an archive the newest version of a name
    Import(import::Import),
    /// Look after a cache directory
    Cache(Box<cache::CacheVerb>),
    /// Look after the Iceberg tables that a mount shows
    #[cfg(feature = "tables")]
    Tables(tables::TablesVerb),
    /// Serve a cache over HTTP, perhaps as a proxy of a bucket
    #[cfg(feature = "http")]
    Serve(Box<serve::Serve>),
    /// Save everything, then unmount
    Unmount(unmount::Unmount),
    /// Show every setting and where it comes from
    Config(Box<config::Config>),
    /// Print a completion script for a shell
    Completions(completions::Completions),
    #[command(hide = true)]
    Daemon(daemon::Daemon),
    #[command(hide = true)]
    Barrier(barrier::Barrier),
    #[command(hide = true)]
    TryNamespace(doctor::TryNamespace),
}

impl Verb {
    fn about(&self) -> About {
        match self {
            Self::Cache(_) => About::Cache,
            #[cfg(feature = "http")]
            Self::Serve(_) => About::Cache,
            #[cfg(feature = "tables")]
            Self::Tables(_) => About::Tables,
            _ => About::Directory,
        }
    }
}

/// What every verb gets.
#[derive(Debug)]
struct Context {
    output: Output,
    environment: Environment,
}

/// What everybody must hear whose versions no longer go where they were sent.
fn forked(fork: &str) -> String {
    format!("another writer moved the name; versions of this directory go to the fork {}", safe(fork))
}

/// The command line. A function calls us in other ways than people do.
fn words() -> Vec<std::ffi::OsString> {
    let words: Vec<_> = std::env::args_os().collect();
    #[cfg(feature = "lambda")]
    return crate::lambda::environment::as_verb(words, &Environment::of_process());
    #[cfg(not(feature = "lambda"))]
    words
}

/// The command line as clap knows it. A variable that is empty counts as unset there, too: a template that has no value
/// for one sets it so.
fn command() -> clap::Command {
    without_empty(<Cli as clap::CommandFactory>::command())
}

fn without_empty(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| {
        let empty =
            arg.get_env().is_some_and(|name| std::env::var_os(name).is_some_and(|value| value.is_empty()));
        if empty { arg.env(clap::builder::Resettable::Reset) } else { arg }
    });
    command.mut_subcommands(without_empty)
}

/// Has what the library tells written to stderr, from this level on unless `ICECACHE_LOG` says otherwise. A line that
/// cannot be written, for the disk of the log is full, is lost: to tell of that on stderr would end the thread.
fn log_to_stderr(default: &str) {
    let asked = std::env::var_os("ICECACHE_LOG").is_some_and(|asked| !asked.is_empty());
    let read = tracing_subscriber::EnvFilter::try_from_env("ICECACHE_LOG");
    let misread = read.as_ref().err().filter(|_| asked).map(ToString::to_string);
    let filter = read.unwrap_or_else(|_| default.into());
    // Fails only if the program that embeds us has set one: then that one is meant.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .try_init();
    if let Some(misread) = misread {
        tracing::warn!("ICECACHE_LOG is left aside, it should read like info or icecache=debug: {misread}");
    }
}

/// Whether it is `exec`, none of whose own codes may look like one of its command.
fn is_exec(words: &[std::ffi::OsString]) -> bool {
    let verb = words.iter().skip(1).find(|word| !word.as_encoded_bytes().starts_with(b"-"));
    verb.is_some_and(|verb| verb == "exec")
}

/// Parses, runs, reports.
pub fn main() -> ExitCode {
    let words = words();
    let parsed = command().try_get_matches_from(&words);
    let cli = match parsed.and_then(|matches| <Cli as clap::FromArgMatches>::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(e) => {
            // What cannot be parsed can still be asked how it wants its answer.
            let typed = std::env::args_os().skip(1).take_while(|word| word != "--");
            return match output::usage(&e, typed.into_iter().any(|word| word == "--json")) {
                Exit::Usage if is_exec(&words) => Exit::ExecFailed,
                exit => exit,
            }
            .into();
        }
    };
    let output = Output::of_process(cli.json).about(cli.verb.about());
    let context = Context { output, environment: Environment::of_process() };
    let done = run(cli.verb, &context);
    match done.and_then(|exit| context.output.finish().map(|()| exit)) {
        Ok(exit) => exit,
        Err(e) => {
            context.output.error(&e);
            Exit::of(&e)
        }
    }
    .into()
}

fn run(verb: Verb, context: &Context) -> crate::Result<Exit> {
    match verb {
        Verb::Mount(verb) => verb.run(context),
        Verb::Exec(verb) => verb.run(context),
        #[cfg(feature = "lambda")]
        Verb::Extension(verb) => verb.run(context),
        Verb::Doctor(verb) => verb.run(context),
        Verb::Flush(verb) => verb.run(context),
        Verb::Status(verb) => verb.run(context),
        Verb::Stats(verb) => verb.run(context),
        Verb::Log(verb) => verb.run(context),
        Verb::Restore(verb) => verb.run(context),
        Verb::Verify(verb) => verb.run(context),
        Verb::Tag(verb) => verb.run(context),
        Verb::Fork(verb) => verb.run(context),
        Verb::Prune(verb) => verb.run(context),
        Verb::Export(verb) => verb.run(context),
        Verb::Hydrate(verb) => verb.run(context),
        Verb::Import(verb) => verb.run(context),
        Verb::Cache(verb) => verb.run(context),
        #[cfg(feature = "tables")]
        Verb::Tables(verb) => verb.run(context),
        #[cfg(feature = "http")]
        Verb::Serve(verb) => verb.run(context),
        Verb::Unmount(verb) => verb.run(context),
        Verb::Config(verb) => verb.run(context),
        Verb::Completions(verb) => verb.run(context),
        Verb::Daemon(verb) => verb.run(context),
        Verb::Barrier(verb) => verb.run(context),
        Verb::TryNamespace(verb) => verb.run(context),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Behind a verb it would take `--version 3` for a question about the program, do nothing, and end with zero.
    #[test]
    fn only_before_the_verb_the_version_is_that_of_the_program() {
        fn check(command: &clap::Command) {
            for arg in command.get_arguments() {
                let is_version = arg.get_long() == Some("version") || arg.get_short() == Some('V');
                assert!(!is_version || arg.get_action().takes_values(), "{}", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        let mut all = Cli::command();
        all.build();
        all.get_subcommands().for_each(check);
        for asked in ["--version", "-V"] {
            let said = Cli::command().try_get_matches_from(["icecache", asked]).map_err(|e| e.kind());
            assert_eq!(said.err(), Some(clap::error::ErrorKind::DisplayVersion), "{asked}");
        }
        for verb in [&["restore", "--to", "d"][..], &["verify"], &["tag", "t"]] {
            let words = |more: &[&'static str]| [&["icecache"], verb, more].concat();
            let parse = |more: &[&'static str]| Cli::command().try_get_matches_from(words(more));
            assert!(parse(&["--version", "3"]).is_ok() && parse(&["3"]).is_ok(), "{verb:?}");
            assert!(parse(&["3", "--version", "3"]).is_err(), "{verb:?}");
        }
    }
}
