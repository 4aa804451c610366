//! `icecache extension`: keeps the directory of an AWS Lambda function, as a process beside its runtime.
use super::flags::{Flags, MountScope};
use super::kept::{self, Kept, Start, Unreadable};
use super::output::safe;
use super::{Context, Exit, mount};
use crate::config::MountSettings;
use crate::lambda::environment::{Function, is_wrapped};
use crate::lambda::extension::Shutdown;
use crate::lambda::{Expected, Keeper, Offer, extension};
use crate::runtime::{self, Threads};
use crate::serve::directory::Stray;
use crate::serve::run::probe::Way;
use crate::{Error, ErrorKind, Result};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

#[derive(Debug, clap::Args)]
pub struct Extension {
    /// The directory [default: $ICECACHE_DIR, else /tmp]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// What to do with files that are there and that the version does not have
    #[arg(long, env = "ICECACHE_STRAY", value_name = "keep|delete", default_value = "keep")]
    stray: Stray,
    /// If the remote cannot be read at the start: go on without its state and save nothing over it, or fail
    #[arg(long, env = "ICECACHE_UNREADABLE", value_name = "run|fail", default_value = "run")]
    unreadable: Unreadable,
    #[command(flatten)]
    flags: Flags<MountScope>,
}

impl Extension {
    pub fn run(self, context: &Context) -> Result<Exit> {
        super::log_to_stderr("warn");
        let function = Function::of(&context.environment)?.ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "this is no function: AWS_LAMBDA_RUNTIME_API is not set")
        })?;
        let runtime = runtime::start("extension", Threads::Caller)?;
        // An `exec` keeps it. That an extension is there gives that time at the end.
        let wait = || -> Result<Exit> {
            let ended = runtime.block_on(async {
                extension::Extension::register(&function.api, true).await?.wait().await
            })?;
            Ok(self::ended(&ended, context))
        };
        let settings =
            kept::settings(self.dir.as_deref(), &self.flags, &mut |orphan| Ok(orphan.wait()), context);
        if is_wrapped(&context.environment) {
            let dir = match settings {
                Ok((settings, _)) => settings.dir,
                // The wrapper's own start fails by it.
                Err(error) => {
                    context.output.error(&error);
                    return wait();
                }
            };
            let ended = runtime.block_on(async {
                let expected = Expected::at(&dir);
                let has_come = expected.has_come();
                tokio::spawn(expected.hear());
                extension::Extension::register(&function.api, true).await?.stand_by(has_come).await
            })?;
            return Ok(self::ended(&ended, context));
        }
        let (settings, merged) = settings?;
        let Some(offer) = Offer::make(&settings.dir) else { return wait() };
        if function.resumes {
            context.output.warn(
                "SnapStart: a sandbox that is resumed begins with the directory of its snapshot, and an extension cannot hold \
                 its runtime back until there is the newest version (AWS_LAMBDA_EXEC_WRAPPER=/opt/icecache does)",
            );
        }
        mount::announce(&settings, mount::is_default(&merged, "remote"), context);
        let keeper = Arc::new(Keeper::new(Arc::new(self.kept(&settings, context)?), function.when));
        let ended = runtime.block_on(async {
            let gives_way = keeper.clone();
            tokio::spawn(async move { offer.give_way(&gives_way).await });
            let extension = extension::Extension::register(&function.api, false).await?;
            let ended = extension.run(&keeper).await;
            if let Err(error) = &ended {
                extension.fail(error).await;
            }
            ended
        })?;
        runtime.shutdown_background(); // a save that was given up may still hang
        Ok(self::ended(&ended, context))
    }

    /// The directory, restored.
    fn kept(&self, settings: &MountSettings, context: &Context) -> Result<Kept> {
        let (stray, json) = (self.stray, context.output.json);
        let answer = Instant::now() + kept::ANSWER_MAX;
        let start = Start {
            settings: settings.clone(),
            way: Way::Directory,
            stray,
            json,
            answer: Some(answer),
            daemon: Arc::default(),
        };
        match start.start() {
            Err(e) => match kept::unreadable(settings, e, Some(answer), json) {
                (true, e) if self.unreadable == Unreadable::Run => {
                    context.output.error(&e);
                    context.output.warn(kept::UNREADABLE);
                    Kept::unread(settings, stray, json)
                }
                (_, e) => Err(e),
            },
            started => started,
        }
    }
}

fn ended(end: &Shutdown, context: &Context) -> Exit {
    context.output.say(&format!("the sandbox ends: {}", safe(&end.reason)));
    Exit::Done
}
