//! [`Distrust`]: files whose bytes could not be read although they could be opened.
use crate::layer::content::Content;
use crate::path::RelPath;
use crate::sync::Mutex;
use std::collections::HashSet;
use std::io;

/// Bytes that are read at once to see whether they can be.
const READ: usize = 1 << 20;

/// Whom to believe only after a look. A layer is sent while it is packed, so a file that breaks off in the
/// middle spoils all of it: whoever did so once is read to its end first from then on. Owner of its lock.
#[derive(Debug, Default)]
pub(super) struct Distrust {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    files: HashSet<RelPath>,
    everybody: bool,
}

impl Distrust {
    /// From now on this file, and with `everybody` every other.
    pub(super) fn add(&self, path: RelPath, everybody: bool) {
        let mut state = self.state.lock();
        state.files.insert(path);
        state.everybody |= everybody;
    }

    /// Only those which are known to be bad.
    pub(super) fn relax(&self) {
        self.state.lock().everybody = false;
    }

    /// The content if it can be believed: fails where reading it would.
    pub(super) fn check(&self, path: &RelPath, content: Box<dyn Content>) -> io::Result<Box<dyn Content>> {
        let wanted = {
            let state = self.state.lock();
            state.everybody || state.files.contains(path)
        };
        if !wanted {
            return Ok(content);
        }
        let checked = read_to_end(&*content);
        let mut state = self.state.lock();
        if checked.is_ok() {
            state.files.remove(path)
        } else {
            state.files.insert(path.clone())
        };
        drop(state);
        checked.map(|()| content)
    }
}

fn read_to_end(content: &dyn Content) -> io::Result<()> {
    let (mut buffer, mut at) = (vec![0; READ], 0);
    let length = content.length()?;
    while let Some(data) = content.data_after(at)?.filter(|data| data.start < length) {
        let end = data.end.min(length);
        at = data.start;
        while at < end {
            let want = (end - at).min(READ as u64) as usize;
            match content.read_at(&mut buffer[..want], at) {
                Ok(0) => return Ok(()),
                Ok(n) => at += n as u64,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
}
