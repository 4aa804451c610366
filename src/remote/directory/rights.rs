//! [`Rights`]: who may read and write what a directory store makes.
use std::fs::{DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// The owner everything, the group what it may do with the top directory, others nothing. A daemon has no
/// umask, and that of a shell is a matter of its user: what is made has these rights with any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rights {
    group: u32,
}

impl Rights {
    /// The owner's alone.
    pub(super) const OWNER: Self = Self { group: 0 };

    /// Of what is made beneath this directory.
    pub(super) fn beneath(root: &Metadata) -> Self {
        Self { group: root.mode() & 0o070 }
    }

    /// Makes a directory.
    pub(super) fn make_directory(self, path: &Path) -> io::Result<()> {
        let mode = 0o700 | self.group;
        DirBuilder::new().mode(mode).create(path)?;
        let made = std::fs::metadata(path)?.mode();
        if made & 0o777 != mode {
            // What is inherited, as the group of a set-group-id directory is, stays.
            std::fs::set_permissions(path, Permissions::from_mode(made & 0o7000 | mode))?;
        }
        Ok(())
    }

    /// Makes a file.
    pub(super) fn make_file(self, path: &Path, options: &mut OpenOptions) -> io::Result<File> {
        let mode = 0o600 | self.group & 0o060;
        let file = options.mode(mode).open(path)?;
        if file.metadata()?.mode() & 0o777 != mode {
            file.set_permissions(Permissions::from_mode(mode))?;
        }
        Ok(file)
    }
}
