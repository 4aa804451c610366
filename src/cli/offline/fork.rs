//! A version of one name as the first of another.
use super::import::require_conditions;
use super::{Choice, Opened};
use crate::config::{Layout, Name, RemoteSettings};
use crate::remote::{Condition, RemoteError};
use crate::state::choice::choose;
use crate::state::head::{Head, VersionId, head_key, read_head};
use crate::{Error, ErrorKind, Result};
use bytes::Bytes;
use serde::Serialize;

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Forked {
    /// The new name.
    pub name: String,
    /// The name it comes from.
    pub from: String,
    /// The version that both have.
    pub version: VersionId,
    /// How many layers they share.
    pub layers: usize,
}

/// Gives a version of `remote`'s name to `new`, which must have none. Layers are shared: whoever deletes one
/// reads what every name in the remote needs, so neither name can take them from the other.
pub fn fork(remote: &RemoteSettings, new: &Name, choice: &Choice) -> Result<Forked> {
    if remote.layout == Layout::Single {
        let message = "layout single has no layers that names could share: copy the archive, or import it";
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    let opened = Opened::new(remote)?;
    let head = choose(opened.expect_head(remote)?, choice)?;
    let mut fork = head.fork(new.as_str());
    fork.unneeded.clear(); // those are for the name to delete that has let them go
    let taken =
        || Error::new(ErrorKind::Conflict, format!("name has versions already, choose another: {new}"));
    let there = opened.runtime.block_on(read_head(&*opened.store, new.as_str()))?;
    if there.is_some() {
        return Err(taken());
    }
    require_conditions(&opened, remote)?;
    let bytes = Bytes::from(fork.to_bytes()?);
    let key = head_key(new.as_str());
    let put = opened.store.put(&key, bytes, Condition::IfAbsent);
    opened.runtime.block_on(put).map_err(|e| match e {
        RemoteError::Precondition { .. } => taken(),
        e => e.into(),
    })?;
    require_layers(&opened, remote, &fork)?;
    Ok(Forked {
        name: new.to_string(),
        from: remote.name.to_string(),
        version: fork.version,
        layers: fork.all_layers().count(),
    })
}

/// Whoever deletes layers reads all names first, perhaps before this one was there. What the origin still
/// lists nobody deletes; the rest is looked at.
fn require_layers(opened: &Opened, remote: &RemoteSettings, fork: &Head) -> Result<()> {
    let origin = opened.head(remote)?.ok_or_else(|| opened.unknown(remote))?;
    let listed = |key: &str| origin.layer(key).is_some();
    for (_, layer) in fork.all_layers().filter(|(_, layer)| !listed(&layer.key)) {
        opened.runtime.block_on(opened.store.head(&layer.key)).map_err(|e| match e {
            RemoteError::NotFound { key } => Error::new(
                ErrorKind::Conflict,
                format!(
                    "layers of this version were deleted meanwhile, so that {} cannot be restored; fork a newer \
                     version under another name: {key}",
                    fork.name
                ),
            ),
            e => e.into(),
        })?;
    }
    Ok(())
}
