//! The history of a name.
use super::Opened;
use crate::Result;
use crate::config::{Layout, RemoteSettings};
use crate::serve::control::LogLine;
use crate::serve::history::{lines, of_archive};

/// The versions of a name, newest first.
pub fn log(remote: &RemoteSettings) -> Result<Vec<LogLine>> {
    let opened = Opened::new(remote)?;
    match remote.layout {
        Layout::Layered | Layout::Log => Ok(lines(&opened.expect_head(remote)?)),
        Layout::Single => {
            let found = of_archive(&*opened.store, remote.name.as_str(), None);
            let lines = opened.runtime.block_on(found)?;
            if lines.is_empty() { Err(opened.unknown(remote)) } else { Ok(lines) }
        }
    }
}
