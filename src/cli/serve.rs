//! `icecache serve --http ADDRESS`.
use super::cache::{CacheArgs, origin_settings};
use super::flags::{Flags, S3Scope};
use super::{Context, Exit};
use crate::config::text;
use crate::runtime::{self, Threads};
use crate::serve::http::{Limits, Token};
use crate::serve::proxy::{Addresses, ProxySettings, run};
use crate::{Error, ErrorKind, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::watch;

/// The variable that names a Redis.
const REDIS: &str = "ICECACHE_REDIS";

/// Longer than this is no token.
const TOKEN_BYTES_MAX: u64 = 4096;

#[derive(Debug, clap::Args)]
pub struct Serve {
    /// Serve files at this address, as HOST:PORT
    #[arg(long, value_name = "ADDRESS")]
    http: String,
    /// Serve metrics for Prometheus at this address
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<String>,
    /// Read what is missing from this remote, such as s3://bucket/prefix
    #[arg(long, value_name = "URL")]
    origin: Option<String>,
    /// Ask this Redis before the origin, as redis[s]://HOST:PORT; a password is best in a file
    /// (?password-file=PATH, see docs/CACHE.md) [env: ICECACHE_REDIS]
    #[arg(long, value_name = "URL", requires = "origin")]
    redis: Option<String>,
    /// Ask the origin again after this time whether an object is still the same [default: 10s]
    #[arg(long, value_name = "TIME", default_value = "10s", hide_default_value = true, value_parser = text::duration)]
    fresh: Duration,
    /// Let whoever shows the token in this file write and delete
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Cut off clients that take nothing for this time [default: 60s]
    #[arg(long, value_name = "TIME", default_value = "60s", hide_default_value = true, value_parser = text::duration)]
    patience: Duration,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    s3: Flags<S3Scope>,
}

/// How long threads that wait for a disk may take to end with the server.
const ENDING: Duration = Duration::from_secs(2);

impl Serve {
    pub fn run(self, context: &Context) -> Result<Exit> {
        super::log_to_stderr("warn");
        let origin = match &self.origin {
            Some(url) => Some(origin_settings(url, &self.s3, context)?),
            None => None,
        };
        let redis = match self.redis {
            Some(url) => Some(url),
            // The variable is of whoever has an origin: others of its machine may need it.
            None if origin.is_some() => redis_of(context)?,
            None => None,
        };
        let settings = ProxySettings {
            cache: self.cache.config(context)?,
            http: self.http,
            metrics: self.metrics,
            origin,
            redis,
            fresh: self.fresh,
            token: self.token_file.as_deref().map(token).transpose()?,
            limits: Limits { patience: self.patience, ..Limits::default() },
        };
        let (stop, stopped) = watch::channel(false);
        // From the start: a signal that comes before all stands ends it in good order as well.
        let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])
            .map_err(|e| Error::io("cannot catch signals", e))?;
        let handle = signals.handle();
        let waiting = std::thread::spawn(move || {
            if signals.forever().next().is_some() {
                stop.send_replace(true);
            }
        });
        let runtime = runtime::start("serve", Threads::Processors)?;
        let served = runtime.block_on(run(settings, stopped, |addresses| ready(addresses, context)));
        // What still waits for a disk, or an origin on one, is waited for by nobody.
        runtime.shutdown_timeout(ENDING);
        handle.close();
        let _ended = waiting.join();
        served.map(|()| Exit::Done)
    }
}

fn ready(addresses: Addresses, context: &Context) -> Result<()> {
    if context.output.json {
        context.output.value(&addresses)?;
        return context.output.flush();
    }
    context.output.say(&format!("files are at http://{}/files/", addresses.http));
    if let Some(metrics) = addresses.metrics {
        context.output.say(&format!("metrics are at http://{metrics}/metrics"));
    }
    Ok(())
}

/// The Redis that the environment names.
fn redis_of(context: &Context) -> Result<Option<String>> {
    let Some(url) = context.environment.get(REDIS) else { return Ok(None) };
    let url = url.to_str().ok_or_else(|| Error::new(ErrorKind::Invalid, format!("{REDIS} is not UTF-8")))?;
    Ok(Some(url.to_owned()))
}

/// A token from a file, without the line's end.
fn token(path: &Path) -> Result<Token> {
    use std::io::Read;
    let failed = |e| Error::io(format!("cannot read token: {}", path.display()), e);
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(TOKEN_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(failed)?;
    if text.len() as u64 > TOKEN_BYTES_MAX {
        let message = format!("longer than {TOKEN_BYTES_MAX} bytes, which is no token: {}", path.display());
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    match text.trim() {
        "" => Err(Error::new(ErrorKind::Invalid, format!("there is no token in {}", path.display()))),
        token => Ok(Token::new(token)),
    }
}
