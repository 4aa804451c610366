//! Why there is no cut.
use crate::path::RelPath;
use crate::state::live::Writer;
use crate::state::plan::PlanError;
use std::io;

/// Why there is no cut. Nothing is lost: the marks are back in the dirty set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CutError {
    /// The tree could not be looked at.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A file that is being written could not be copied.
    #[error("cannot copy a file that is being written: {path}")]
    Copy {
        /// The file.
        path: RelPath,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Operations under way did not end in time.
    #[error("operations under way did not end within the deadline")]
    Busy,
    /// A directory was moved with content that is not here: it has to be brought first.
    #[error("a directory was moved before all of its content was here")]
    Moved,
    /// The helper died or did not answer; another one has to be started.
    #[error("the helper of the cut was lost")]
    HelperLost,
}

impl From<CutError> for crate::Error {
    fn from(e: CutError) -> Self {
        match e {
            CutError::Plan(e) => e.into(),
            CutError::Copy { path, source } => {
                Self::io(format!("cannot copy a file that is being written: {path}"), source)
            }
            CutError::Busy | CutError::HelperLost | CutError::Moved => {
                Self::new(crate::ErrorKind::Busy, e.to_string())
            }
        }
    }
}

impl CutError {
    pub(super) fn copy(writer: &Writer, source: io::Error) -> Self {
        Self::Copy { path: writer.path.clone(), source }
    }
}
