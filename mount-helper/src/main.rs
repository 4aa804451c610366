//! `mount.icecache SOURCE DIR [-sfnv] [-o OPTIONS]`: what mount(8) runs for `mount -t icecache` and for a
//! line of /etc/fstab. It turns the words of mount(8) into those of `icecache mount` and becomes it.
mod options;

use options::{Call, parse};
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Exit codes of mount(8).
const WRONG_USE: u8 = 1;
const SYSTEM_ERROR: u8 = 2;

/// Where `icecache` is looked for besides the helper's own directory: mount(8) may clear PATH.
const PLACES: &[&str] = &["/usr/local/bin", "/usr/bin", "/usr/local/sbin", "/usr/sbin", "/bin", "/sbin"];

fn main() -> ExitCode {
    match run(std::env::args_os().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, message)) => {
            talk(&message);
            code.into()
        }
    }
}

/// Returns only if nothing was to be started or it could not be.
fn run(args: impl Iterator<Item = OsString>) -> Result<(), (u8, String)> {
    let Call { arguments, verbose, fake } = parse(args).map_err(|message| (WRONG_USE, message))?;
    let program = find(std::env::current_exe().ok(), std::env::var_os("PATH"))
        .ok_or_else(|| (SYSTEM_ERROR, "cannot find the program: icecache".to_owned()))?;
    if verbose {
        talk(&format!("{} {}", program.display(), shown(&arguments)));
    }
    if fake {
        return Ok(());
    }
    let failed = Command::new(&program).args(&arguments).exec();
    Err((SYSTEM_ERROR, format!("cannot start {}: {failed}", program.display())))
}

/// Beside the helper, in the usual places, in PATH.
fn find(own: Option<PathBuf>, path: Option<OsString>) -> Option<PathBuf> {
    let beside = own.and_then(|own| Some(own.parent()?.to_owned()));
    let path: Vec<PathBuf> = path.map(|p| std::env::split_paths(&p).collect()).unwrap_or_default();
    beside
        .into_iter()
        .chain(PLACES.iter().map(PathBuf::from))
        .chain(path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join("icecache"))
        .find(|program| program.is_file())
}

/// Arguments on one line, escaped: no name reaches the terminal raw.
fn shown(arguments: &[OsString]) -> String {
    arguments.iter().map(|a| format!("{a:?}")).collect::<Vec<_>>().join(" ")
}

fn talk(message: &str) {
    // Nobody can be told that stderr failed.
    let _ = writeln!(std::io::stderr(), "mount.icecache: {message}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_beside_the_helper_comes_first() {
        let dir = std::env::temp_dir().join(format!("mount-icecache-{}", std::process::id()));
        assert!(std::fs::create_dir_all(&dir).is_ok());
        assert!(std::fs::write(dir.join("icecache"), b"").is_ok());
        assert_eq!(find(Some(dir.join("mount.icecache")), None), Some(dir.join("icecache")));
        let by_path = find(Some("/nonexistent/mount.icecache".into()), Some(dir.clone().into()));
        assert!(by_path.is_some_and(|found| found.ends_with("icecache")));
        // A relative entry of PATH would depend on where mount(8) was called.
        let relative = find(None, Some("relative".into()));
        assert!(relative.is_none_or(|found| found.is_absolute()));
        assert!(std::fs::remove_dir_all(&dir).is_ok());
    }
}
