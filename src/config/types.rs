//! The values a setting can have.
use super::words;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

words! {
    /// How versions lie in the remote.
    pub Layout {
        /// One layer per flush and a HEAD that lists them.
        Layered = "layered",
        /// The same, and no object but HEAD is ever deleted or replaced.
        Log = "log",
        /// One complete archive, `<prefix>/<name>.zst`, written anew by each flush.
        Single = "single",
    }
}
words! {
    /// What happens when directory and remote both have content and no journal knows why.
    pub OnExisting {
        /// Show the union; the remote wins, the local file of the same path is kept aside.
        Merge = "merge",
        /// The local content becomes the next version.
        Local = "local",
        /// Refuse to mount.
        Fail = "fail",
    }
}
words! {
    /// What a flush does when another writer moved HEAD.
    pub OnConflict {
        /// Commit to a fork named after host and time.
        Fork = "fork",
        /// Put what changed here on top of what the other one changed; of a path that both changed this is newer, and
        /// the other's version gets a tag.
        Merge = "merge",
        /// Keep everything unsaved and report it.
        Fail = "fail",
        /// The same; and a mount takes no changes any more.
        ReadOnly = "read-only",
    }
}
words! {
    /// When fsync returns.
    pub FsyncMode {
        /// When the backing's own fsync did.
        Local = "local",
        /// When a flush that contains the data is committed.
        Remote = "remote",
    }
}
words! {
    /// Who may enter the mount.
    pub Access {
        /// For root: all, where others could enter before. Else the owner.
        Auto = "auto",
        /// The user who mounted.
        Owner = "owner",
        /// Everybody, subject to permissions.
        All = "all",
    }
}
words! {
    /// Whether extended attributes are served.
    pub Xattr {
        /// As the backing has them.
        On = "on",
        /// Refused; saves requests.
        Off = "off",
    }
}
words! {
    /// Whether the kernel serves file data by itself.
    pub Passthrough {
        /// Where kernel and privileges allow.
        Auto = "auto",
        /// Never.
        Off = "off",
    }
}
words! {
    /// How requests travel between kernel and daemon.
    pub Transport {
        /// By io_uring where the kernel offers it.
        Auto = "auto",
        /// By the device alone.
        Device = "device",
    }
}
words! {
    /// When the content of a version comes to an empty directory.
    pub Restore {
        /// When it is touched, and in the background.
        Lazy = "lazy",
        /// Before the mount is usable.
        Eager = "eager",
    }
}
words! {
    /// When the backing is compared with the clean records.
    pub Scan {
        /// After an unclean stop.
        Auto = "auto",
        /// At every start.
        Always = "always",
    }
}

/// Flags for the kernel's mount call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MountFlags {
    /// Ignore set-user-id bits.
    pub nosuid: bool,
    /// Ignore device nodes.
    pub nodev: bool,
    /// Execute nothing.
    pub noexec: bool,
    /// Do not move access times.
    pub noatime: bool,
}

impl FromStr for MountFlags {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut flags = Self::default();
        for word in text.split(',').map(str::trim).filter(|w| !w.is_empty()) {
            match word {
                "nosuid" => flags.nosuid = true,
                "nodev" => flags.nodev = true,
                "noexec" => flags.noexec = true,
                "noatime" => flags.noatime = true,
                _ => return Err(format!("expected a list of nosuid, nodev, noexec, noatime: {word}")),
            }
        }
        Ok(flags)
    }
}

/// The longest [`Name`], in bytes.
pub const NAME_MAX_BYTES: usize = 128;

/// The name of a directory's history in a remote: 1 to 128 of `A-Za-z0-9._-`, no leading dot, not
/// `layers` (there a remote keeps the layers of all names). Safe
/// as a part of an object key, as a file name and on a terminal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "layers" {
            return Err("that name is where all layers are kept, choose another: layers".to_owned());
        }
        let valid = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if text.is_empty() || text.len() > NAME_MAX_BYTES || text.starts_with('.') || !text.bytes().all(valid)
        {
            return Err(format!("expected 1 to 128 of A-Z a-z 0-9 . _ - without a leading dot: {text:?}"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_everywhere() {
        for good in ["tmp", "a", "home-alice.work_2", &"x".repeat(128)] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".hidden", "a/b", "a b", "layers", "ä", "a\n", &"x".repeat(129)] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
        assert!(serde_json::from_str::<Name>("\"../x\"").is_err());
    }

    #[test]
    fn words_read_back_what_they_print() {
        for word in Layout::WORDS {
            assert_eq!(word.parse::<Layout>().map(Layout::as_str), Ok(*word));
        }
        assert_eq!("flat".parse::<Layout>(), Err("expected one of layered, log, single: flat".to_owned()));
        assert_eq!(
            "nodev, nosuid".parse(),
            Ok(MountFlags { nodev: true, nosuid: true, ..MountFlags::default() })
        );
        assert!("rw".parse::<MountFlags>().is_err());
    }
}
