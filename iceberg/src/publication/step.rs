//! [`Step`]: one file that publishing has written.

/// What one step of publishing writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StepKind {
    /// A file of position deletes, or a Puffin file of deletion vectors.
    Deletes,
    /// A manifest.
    Manifest,
    /// A manifest list.
    ManifestList,
    /// `v<N>.metadata.json`: from now on there is the new version.
    Metadata,
    /// `version-hint.text`: from now on it is the current one.
    Hint,
}

/// One file that publishing has written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What it is.
    pub kind: StepKind,
    /// Its path below the folder of the table.
    pub path: String,
    /// Its exact size, in bytes.
    pub size: u64,
}
