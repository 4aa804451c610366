//! The only place that prints: stdout is data, stderr is talk, names are made safe.
use super::advice::{About, advice};
use super::exit::Exit;
use crate::serve::startup::kind_word;
use crate::sync::Mutex;
use crate::{Error, Result};
use serde::Serialize;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// How to print. Owner of the lock around stdout's fate.
#[derive(Debug)]
pub struct Output {
    /// JSON instead of tables and sentences.
    pub json: bool,
    /// What advice is about.
    about: About,
    /// Colours on stderr.
    color: bool,
    /// The first failure of stdout; a closed pipe is none.
    failed: Mutex<Option<io::Error>>,
}

impl Output {
    /// Looks at the terminal and `NO_COLOR`.
    pub fn of_process(json: bool) -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let color = !json && !no_color && io::stderr().is_terminal();
        Self { json, about: About::default(), color, failed: Mutex::new(None) }
    }

    /// The same for a command that is about this.
    #[must_use]
    pub fn about(self, about: About) -> Self {
        Self { about, ..self }
    }

    /// Prints one line of data.
    pub fn line(&self, text: &str) {
        let mut text = text.to_owned();
        text.push('\n');
        self.data(text.as_bytes());
    }

    /// Prints a value as JSON, one line.
    pub fn value(&self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(value)
            .map_err(|e| Error::new(crate::ErrorKind::Io, "cannot encode output").with_source(e))?;
        self.line(&text);
        Ok(())
    }

    /// Prints bytes of data as they are (completion scripts).
    pub fn data(&self, bytes: &[u8]) {
        let mut stdout = io::stdout().lock();
        if let Err(e) = stdout.write_all(bytes) {
            self.failed.lock().get_or_insert(e);
        }
    }

    /// Prints columns; a head is printed only if there are rows.
    pub fn table<const N: usize>(&self, head: [&str; N], rows: &[[String; N]]) {
        if rows.is_empty() {
            return;
        }
        let head = head.map(str::to_owned);
        let width = |column: usize| {
            rows.iter().chain([&head]).map(|row| row[column].chars().count()).max().unwrap_or_default()
        };
        let widths: [usize; N] = std::array::from_fn(width);
        let mut text = String::new();
        for row in [&head].into_iter().filter(|h| h.iter().any(|c| !c.is_empty())).chain(rows) {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(widths) {
                let _ = write!(line, "{cell:width$}  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        self.data(text.as_bytes());
    }

    /// Tells a person something. With `--json` nothing.
    pub fn say(&self, text: &str) {
        if !self.json {
            talk(&format!("icecache: {text}\n"));
        }
    }

    /// Tells a person something that must be seen, also with `--json`.
    pub fn warn(&self, text: &str) {
        if self.json {
            talk(&format!("{}\n", serde_json::json!({ "warning": text })));
        } else {
            talk(&format!("icecache: {}: {text}\n", self.paint("33", "warning")));
        }
    }

    /// Tells of an error and what to do about it.
    pub fn error(&self, error: &Error) {
        let message = error.to_string();
        // A path that was mistyped is no question of mounts and versions.
        let of_a_path = error.kind() == crate::ErrorKind::NotFound
            && std::error::Error::source(error).is_some_and(|cause| cause.is::<io::Error>());
        let advice = advice(error, self.about).filter(|_| !of_a_path);
        if self.json {
            return talk_of_error(error.kind(), &message, advice);
        }
        let mut text = format!("icecache: {}: {}\n", self.paint("31", "error"), safe(&message));
        if let Some(advice) = advice {
            let _ = writeln!(text, "  hint: {advice}");
        }
        talk(&text);
    }

    /// Lets whoever reads stdout have what was printed so far.
    pub fn flush(&self) -> Result<()> {
        io::stdout().flush().map_err(|e| Error::io("cannot write to stdout", e))
    }

    /// What became of stdout. Whoever reads only the beginning (`| head`) closes it: fine.
    pub fn finish(&self) -> Result<()> {
        let flushed = io::stdout().flush();
        match self.failed.lock().take().map_or(flushed, Err) {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Error::io("cannot write to stdout", e)),
            _ => Ok(()),
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// An error for a program.
fn talk_of_error(kind: crate::ErrorKind, message: &str, advice: Option<&str>) {
    let error = serde_json::json!({"kind": kind_word(kind), "message": message, "advice": advice});
    talk(&format!("{}\n", serde_json::json!({ "error": error })));
}

/// Nobody can be told that stderr failed.
fn talk(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Prints what the parser says: help to stdout, errors to stderr with everything typed made safe.
pub fn usage(error: &clap::Error, json: bool) -> Exit {
    if error.use_stderr() {
        let text = error.render().to_string();
        if json {
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            let (message, advice) = text.split_once("\n\n").unwrap_or((text, ""));
            let (message, advice) = (message.trim(), Some(advice.trim()).filter(|a| !a.is_empty()));
            talk_of_error(crate::ErrorKind::Invalid, message, advice);
            return Exit::Usage;
        }
        talk(&text.split('\n').map(safe).collect::<Vec<_>>().join("\n"));
        return Exit::Usage;
    }
    let _ = error.print();
    Exit::Done
}

/// Text without control characters, escapes of the terminal, or characters that reorder a line:
/// these become `\x1b` or `\u{202e}`. Everything else stays as it is.
pub fn safe(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_ascii_control() => {
                let _ = write!(safe, "\\x{:02x}", u32::from(c));
            }
            c if c.is_control() || reorders(c) => {
                let _ = write!(safe, "\\u{{{:x}}}", u32::from(c));
            }
            c => safe.push(c),
        }
    }
    safe
}

/// Bidirectional controls, line and paragraph separators, the byte order mark.
fn reorders(c: char) -> bool {
    matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// The same for any bytes: those that are no UTF-8 become `\xff`.
pub fn safe_bytes(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(&safe(chunk.valid()));
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// The same for a path.
pub fn safe_path(path: &Path) -> String {
    safe_os(path.as_os_str())
}

/// The same for text of the system.
pub fn safe_os(text: &OsStr) -> String {
    safe_bytes(text.as_bytes())
}

/// Bytes for people.
pub fn bytes(count: u64) -> String {
    bytesize::ByteSize(count).to_string()
}

/// A point in time for people: UTC, to the second.
pub fn time(at: jiff::Timestamp) -> String {
    jiff::Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_play_with_the_terminal() {
        assert_eq!(safe("a\x1b[31m\r\n\u{9b}"), "a\\x1b[31m\\x0d\\x0a\\u{9b}");
        assert_eq!(safe("é 日本 \u{202e}gpj"), "é 日本 \\u{202e}gpj");
        assert_eq!(safe_bytes(b"\xc3\xa9\xff\xfe-\x07"), "é\\xff\\xfe-\\x07");
        assert_eq!(safe("plain name.txt"), "plain name.txt");
    }

    #[test]
    fn times_are_utc() {
        let at = jiff::Timestamp::new(1_700_000_000, 5).expect("in range");
        assert_eq!(time(at), "2023-11-14T22:13:20Z");
    }
}
