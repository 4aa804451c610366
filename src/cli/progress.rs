//! What a person sees while a mount starts or a restore runs: a bar on a terminal, else one line per
//! phase.
use super::{Output, safe};
use crate::serve::startup::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;

/// Shows progress. The bar is cleared when this is dropped.
#[derive(Debug)]
pub struct View<'a> {
    output: &'a Output,
    bar: Option<ProgressBar>,
    phase: String,
}

impl<'a> View<'a> {
    /// A view on stderr; with `--json` it stays silent.
    pub fn new(output: &'a Output) -> Self {
        let bar = (!output.json && std::io::stderr().is_terminal()).then(ProgressBar::no_length);
        Self { output, bar, phase: String::new() }
    }

    /// Shows how far it is.
    pub fn show(&mut self, progress: &Progress) {
        let started = self.phase != progress.phase;
        if started {
            self.phase.clone_from(&progress.phase);
        }
        let phase = safe(&progress.phase);
        match &self.bar {
            Some(bar) => {
                if started {
                    bar.set_style(style(progress.bytes_total > 0));
                    bar.set_prefix(phase);
                }
                if progress.bytes_total > 0 {
                    bar.set_length(progress.bytes_total);
                }
                bar.set_position(progress.bytes);
                bar.set_message(format!("{} entries", progress.entries));
            }
            None if started => self.output.say(&phase),
            None => {}
        }
    }

    /// Says something without tearing the bar.
    pub fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.output.say(text)),
            None => self.output.say(text),
        }
    }
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style(with_total: bool) -> ProgressStyle {
    let template = if with_total {
        "{prefix} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {msg}"
    } else {
        "{prefix} {spinner} {bytes} {msg}"
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
