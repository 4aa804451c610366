//! [`Function`]: an AWS Lambda function whose runtime is the command.
use crate::Result;
use crate::cli::Context;
use crate::cli::kept::Kept;
use crate::lambda::{self, Keeper, Proxy, environment};
use crate::runtime::{self, Threads};
use crate::serve::run::Grace;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

/// Threads of the runtime: it hands on what one invocation at a time says.
const RUNTIME_THREADS: Threads = Threads::Few(1);
/// Connections of a runtime that has ended are over by then.
const END_MAX: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(super) struct Function(lambda::Function);

/// The sandbox has two seconds to end, and kills a runtime that has not ended when a third of that is over. What is left when
/// the command is gone is for saving, as long as it lasts.
const GRACE: Grace = Grace { whole: Duration::from_millis(1500), command: Duration::from_millis(250) };

impl Function {
    /// The time from SIGTERM to the end where we are part of a function; `None` elsewhere.
    pub(super) fn grace(context: &Context) -> Option<Grace> {
        context.environment.get(environment::API).map(|_| GRACE)
    }

    /// `None` outside of one. In one, what there is to tell goes to its log.
    pub(super) fn of(context: &Context) -> Result<Option<Self>> {
        let function = lambda::Function::of(&context.environment)?;
        if function.is_some() {
            crate::cli::log_to_stderr("warn");
        }
        Ok(function.map(Self))
    }

    /// The directory is ours: an extension that keeps it gives way. If none can be asked, the lock decides.
    pub(super) fn claim(dir: &Path) {
        if let Err(error) = lambda::claim::claim(dir) {
            tracing::warn!(%error, "no extension could be asked for the directory");
        }
    }

    /// The command will talk to us in place of the Runtime API.
    pub(super) fn stand_before(self, command: &mut Command, kept: &Arc<Kept>) -> Result<Proxied> {
        let runtime = runtime::start("proxy", RUNTIME_THREADS)?;
        let keeper = Arc::new(Keeper::new(kept.clone(), self.0.when));
        // What could not be read is tried again before anybody works on it.
        let function = lambda::Function { resumes: self.0.resumes || kept.is_unread(), ..self.0 };
        let proxy = runtime.block_on(Proxy::start(&function, keeper))?;
        command.env(environment::API, proxy.address());
        Ok(Proxied { runtime, proxy })
    }
}

/// What stands there.
#[derive(Debug)]
pub(super) struct Proxied {
    runtime: Runtime,
    proxy: Proxy,
}

impl Proxied {
    /// Waits for saves that are under way, and goes.
    pub(super) fn finish(self) {
        self.runtime.block_on(self.proxy.finish());
        self.runtime.shutdown_timeout(END_MAX);
    }
}
