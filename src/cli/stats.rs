//! `icecache stats [DIR]`.
use super::locate;
use super::output::{safe, safe_path};
use super::{Context, Exit};
use crate::Result;
use crate::config::wire;
use crate::serve::registry::Registry;
use serde_json::Value;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Stats {
    /// The mounted directory; without it all mounts are shown
    dir: Option<PathBuf>,
}

impl Stats {
    pub fn run(self, context: &Context) -> Result<Exit> {
        if let Some(dir) = &self.dir {
            let (_, mut client) = locate::daemon(dir, context)?;
            show(&client.stats()?, context)?;
            return Ok(Exit::Done);
        }
        let mut all = Vec::new();
        for (entry, mut client) in Registry::of(&context.environment).list() {
            let mut stats = match client.stats() {
                Ok(stats) => stats,
                // One that hangs does not hide the others.
                Err(e) => {
                    context.output.warn(&format!("{}: {}", safe_path(&entry.dir), safe(&e.to_string())));
                    continue;
                }
            };
            if let Value::Object(map) = &mut stats {
                let dir = if context.output.json {
                    wire::value(entry.dir.as_os_str())
                } else {
                    safe_path(&entry.dir).into()
                };
                map.insert("dir".to_owned(), dir);
            }
            all.push(stats);
        }
        if context.output.json {
            context.output.value(&all)?;
        } else {
            if all.is_empty() {
                context.output.say("nothing is mounted");
            }
            for stats in &all {
                show(stats, context)?;
            }
        }
        Ok(Exit::Done)
    }
}

fn show(stats: &Value, context: &Context) -> Result<()> {
    if context.output.json {
        return context.output.value(stats);
    }
    let mut rows = Vec::new();
    flatten("", stats, &mut rows);
    context.output.table(["", ""], &rows);
    Ok(())
}

/// Nested counters as dotted names.
fn flatten(prefix: &str, value: &Value, rows: &mut Vec<[String; 2]>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let name = if prefix.is_empty() { safe(key) } else { format!("{prefix}.{}", safe(key)) };
                flatten(&name, value, rows);
            }
        }
        Value::String(text) => rows.push([prefix.to_owned(), safe(text)]),
        other => rows.push([prefix.to_owned(), other.to_string()]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_counters_become_dotted_names() {
        let mut rows = Vec::new();
        flatten("", &serde_json::json!({"ops": {"create": 3}, "note": "a\u{1b}"}), &mut rows);
        rows.sort();
        assert_eq!(
            rows,
            [["note".to_owned(), "a\\x1b".to_owned()], ["ops.create".to_owned(), "3".to_owned()]]
        );
    }
}
