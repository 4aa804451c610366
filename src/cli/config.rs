//! `icecache config [DIR]`: every setting and where it comes from.
use super::flags::{Flags, MountScope};
use super::output::{safe, safe_os};
use super::{Context, Exit, locate};
use crate::Result;
use crate::config::{MountSettings, RemoteSettings, wire};
use crate::serve::registry::Registry;
use serde_json::{Map, Value, json};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Config {
    /// A directory, mounted or not; without it what holds for any
    dir: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags<MountScope>,
}

impl Config {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let dir = match &self.dir {
            Some(dir) => Some(locate::canonical(dir, &Registry::of(&context.environment))?),
            None => None,
        };
        let mut merged = self.flags.merge(context, dir.as_deref())?;
        // Fills in what is derived, and tells what is wrong after everything is shown.
        let checked = match &dir {
            Some(dir) => MountSettings::resolve(dir, &mut merged, &context.environment, false).map(drop),
            None if merged.get("name").is_some() => {
                RemoteSettings::resolve(&mut merged, None, &context.environment).map(drop)
            }
            None => Ok(()),
        };
        if context.output.json {
            let value = |(key, value): (&crate::config::keys::Key, Option<crate::config::Value<_>>)| {
                let value = value.map(|v: crate::config::Value<std::ffi::OsString>| {
                    json!({"value": wire::value(&v.value), "origin": v.origin.to_string()})
                });
                (key.name.to_owned(), value.unwrap_or(Value::Null))
            };
            context.output.value(&merged.rows().map(value).collect::<Map<_, _>>())?;
        } else {
            let rows: Vec<_> = merged
                .rows()
                .map(|(key, value)| match value {
                    Some(value) => {
                        [key.name.to_owned(), safe_os(&value.value), safe(&value.origin.to_string())]
                    }
                    None => [key.name.to_owned(), String::new(), "unset".to_owned()],
                })
                .collect();
            context.output.table(["KEY", "VALUE", "ORIGIN"], &rows);
        }
        checked?;
        Ok(Exit::Done)
    }
}
