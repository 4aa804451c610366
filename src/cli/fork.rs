//! `icecache fork NAME NEW [--version VERSION]`: another name for a version, which then has a history of its own.
use super::flags::{Flags, RemoteScope};
use super::offline::{self, Choice};
use super::output::safe;
use super::{Context, Exit};
use crate::config::{Name, RemoteSettings};
use crate::{Error, ErrorKind, Result};

#[derive(Debug, clap::Args)]
pub struct Fork {
    /// The name that has versions
    name: String,
    /// The name that gets one; it must have none
    new: String,
    /// Begin with this version or tag, as 'icecache log' prints it; without it the newest
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    #[command(flatten)]
    flags: Flags<RemoteScope>,
}

impl Fork {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let (name, new) = (parsed(&self.name)?, parsed(&self.new)?);
        let mut merged = self.flags.merge(context, None)?;
        merged.derive("name", name.as_str());
        let remote = RemoteSettings::resolve(&mut merged, None, &context.environment)?;
        let remote = RemoteSettings { name, ..remote };
        let forked = offline::fork(&remote, &new, &Choice::of(self.version))?;
        if context.output.json {
            context.output.value(&forked)?;
        } else {
            context.output.line(&forked.version.to_string());
        }
        let (name, new) = (safe(&forked.from), safe(&forked.name));
        context.output.say(&format!(
            "{new} begins with version {} of {name}: the same {} layers, nothing was copied",
            forked.version, forked.layers
        ));
        Ok(Exit::Done)
    }
}

fn parsed(name: &str) -> Result<Name> {
    name.parse().map_err(|e| Error::new(ErrorKind::Invalid, e))
}
