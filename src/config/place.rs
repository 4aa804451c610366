//! Where things go when nobody says: names and state directories derived from the directory, and the
//! rule that nothing of the daemon's lies beneath its own mount.
use super::merge::Environment;
use super::types::{NAME_MAX_BYTES, Name};
use super::{ConfigError, Origin};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// The control socket's name in the state directory.
pub const SOCKET_NAME: &str = "control.sock";

/// The folder in a state directory for a mount that shows a version.
pub const VERSION_DIR: &str = "version";
/// Where a mount of tables has its state, within that of the directory.
pub const TABLES_DIR: &str = "tables";

/// The state directory of a session that keeps no state: nothing can be made there.
pub const NO_STATE: &str = "/dev/null/icecache";

/// How much of a derived name stays readable, in bytes; the rest is a hash.
const READABLE_MAX_BYTES: usize = 80;

/// The canonical path of a mount directory, also when a dead daemon's mount lies over it: then only
/// its parent can be resolved.
pub fn canonical_dir(dir: &Path) -> io::Result<PathBuf> {
    match std::fs::canonicalize(dir) {
        Ok(path) => Ok(path),
        Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) => {
            let absolute = std::path::absolute(dir)?;
            match (absolute.parent(), absolute.file_name()) {
                (Some(parent), Some(name)) => Ok(std::fs::canonicalize(parent)?.join(name)),
                _ => Err(e),
            }
        }
        Err(e) => Err(e),
    }
}

/// A path that need not exist: symlinks of the part that does are resolved, `..` is taken out.
pub fn resolve(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    let mut clean = PathBuf::new();
    for component in absolute.components() {
        match component {
            Component::ParentDir => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    let mut missing = Vec::new();
    let mut there: &Path = &clean;
    loop {
        match std::fs::canonicalize(there) {
            Ok(real) => return Ok(missing.iter().rev().fold(real, |path: PathBuf, name| path.join(name))),
            Err(_) => match (there.parent(), there.file_name()) {
                (Some(parent), Some(name)) => {
                    missing.push(name.to_owned());
                    there = parent;
                }
                _ => return Ok(clean.clone()),
            },
        }
    }
}

/// The hash that stands for a directory in file names: 16 hexadecimal digits.
pub fn dir_hash(dir: &Path) -> String {
    let hex = blake3::hash(dir.as_os_str().as_bytes()).to_hex();
    hex.as_str()[..16].to_owned()
}

/// Readable text for a directory, and whether another directory could get the same.
fn readable(dir: &Path) -> (String, bool) {
    let mut text = String::new();
    let mut ambiguous = false;
    for component in dir.components() {
        let Component::Normal(name) = component else { continue };
        if !text.is_empty() {
            text.push('-');
        }
        for byte in name.as_bytes() {
            // A dash of the name looks like a separator: readable, but no longer unique.
            ambiguous |= !(byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_'));
            text.push(match byte {
                b if b.is_ascii_alphanumeric() || b"._-".contains(b) => char::from(*b),
                _ => '_',
            });
        }
    }
    ambiguous |= text == "layers"; // reserved; with a hash it is usable
    if text.is_empty() || text.starts_with('.') {
        text.insert_str(0, if text.is_empty() { "root" } else { "_" });
        ambiguous = true;
    }
    if text.len() > READABLE_MAX_BYTES {
        text.truncate(READABLE_MAX_BYTES); // ASCII only
        ambiguous = true;
    }
    (text, ambiguous)
}

/// The name of a directory nobody named: `/tmp` is `tmp`, `/home/alice/work` is `home-alice-work`.
/// Stable, and different for different directories.
pub fn derived_name(dir: &Path) -> Result<Name, ConfigError> {
    let (mut text, ambiguous) = readable(dir);
    if ambiguous {
        text = format!("{text}-{}", &dir_hash(dir)[..8]);
    }
    debug_assert!(text.len() <= NAME_MAX_BYTES);
    text.parse().map_err(|message| ConfigError::Value { key: "name", origin: Origin::Default, message })
}

/// The state directory of a mount when nobody says.
pub fn default_state_dir(dir: &Path, environment: &Environment) -> Result<PathBuf, ConfigError> {
    let leaf = format!("{}-{}", readable(dir).0, dir_hash(dir));
    Ok(state_home(environment)?.join(leaf))
}

/// Where state directories lie.
pub fn state_home(environment: &Environment) -> Result<PathBuf, ConfigError> {
    if environment.root {
        return Ok("/var/lib/icecache/state".into());
    }
    home(environment, "XDG_STATE_HOME", ".local/state", "--state-dir").map(|home| home.join("icecache"))
}

/// The remote of a user who named none.
pub fn default_remote(environment: &Environment) -> Result<PathBuf, ConfigError> {
    if environment.root {
        return Ok("/var/lib/icecache/remote".into());
    }
    home(environment, "XDG_DATA_HOME", ".local/share", "--remote").map(|home| home.join("icecache/remote"))
}

/// The cache of a user who named none.
pub fn default_cache(environment: &Environment) -> Result<PathBuf, ConfigError> {
    if environment.root {
        return Ok("/var/cache/icecache".into());
    }
    home(environment, "XDG_CACHE_HOME", ".cache", "--cache").map(|home| home.join("icecache/cache"))
}

fn home(environment: &Environment, variable: &str, below: &str, flag: &str) -> Result<PathBuf, ConfigError> {
    environment.path(variable).or_else(|| environment.path("HOME").map(|home| home.join(below))).ok_or_else(
        || ConfigError::Missing { message: format!("no home directory is known: set HOME or give {flag}") },
    )
}

/// Whether one path is the other or lies inside it, either way round.
pub fn overlap(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// Refuses a place of the daemon's that shares a tree with what is mounted (`dir`, or its separate
/// backing): reaching it would go through the mount that waits for us, or save itself.
pub fn keep_apart(what: &str, place: &Path, role: &str, dir: &Path, flag: &str) -> Result<(), ConfigError> {
    if !overlap(place, dir) {
        return Ok(());
    }
    let relation = if place.starts_with(dir) { "lies inside" } else { "contains" };
    Err(ConfigError::Conflict {
        message: format!(
            "{what} {relation} the {role}, choose another place with {flag}: {} and {}",
            place.display(),
            dir.display()
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(dir: &str) -> String {
        derived_name(Path::new(dir)).expect("derivable").to_string()
    }

    #[test]
    fn derived_names_are_readable_valid_and_unique() {
        assert_eq!(name("/tmp"), "tmp");
        assert!(name("/layers").starts_with("layers-"));
        assert_eq!(name("/home/alice/work"), "home-alice-work");
        let odd = ["/", "/root", "/a/b", "/a-b", "/a_b", "/a b", "/.cache", "/_.cache", "/ä", "/a\nb"];
        let names: std::collections::HashSet<String> = odd.iter().map(|d| name(d)).collect();
        assert_eq!(names.len(), odd.len(), "{names:?}");
        assert!(name(&format!("/{}", "x/".repeat(300))).len() <= NAME_MAX_BYTES);
    }

    #[test]
    fn places_follow_the_user() {
        let user = Environment::of(false, [("HOME", "/home/a"), ("XDG_DATA_HOME", "relative")]);
        assert_eq!(default_remote(&user).expect("home"), Path::new("/home/a/.local/share/icecache/remote"));
        let state = default_state_dir(Path::new("/tmp"), &user).expect("home");
        assert!(state.to_string_lossy().starts_with("/home/a/.local/state/icecache/tmp-"), "{state:?}");
        let root = Environment::of(true, [("HOME", "/root")]);
        assert_eq!(default_remote(&root).expect("root"), Path::new("/var/lib/icecache/remote"));
        assert!(default_remote(&Environment::of(false, [])).is_err());
    }

    #[test]
    fn resolving_follows_links_and_keeps_what_is_missing() {
        let temp = tempfile::tempdir().expect("temp");
        let base = std::fs::canonicalize(temp.path()).expect("there");
        std::fs::create_dir(base.join("real")).expect("mkdir");
        std::os::unix::fs::symlink("real", base.join("link")).expect("symlink");
        assert_eq!(resolve(&base.join("link/new/file")).expect("resolved"), base.join("real/new/file"));
        assert_eq!(resolve(&base.join("gone/../link")).expect("resolved"), base.join("real"));
        assert!(
            keep_apart("state", &base.join("real/x"), "mount", &base.join("real"), "--state-dir").is_err()
        );
        assert!(keep_apart("state", &base, "mount", &base.join("real"), "--state-dir").is_err());
        assert!(keep_apart("state", &base.join("realm"), "mount", &base.join("real"), "--state-dir").is_ok());
    }
}
