//! From the words of mount(8) to the arguments of `icecache`.
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub struct Call {
    /// Arguments of `icecache`.
    pub arguments: Vec<OsString>,
    /// `-v`: say what is started.
    pub verbose: bool,
    /// `-f`: start nothing.
    pub fake: bool,
}

/// Settings that take a value: `-o key=value`, with `_` or `-`.
const SETTINGS: &[&str] = &[
    "name",
    "state-dir",
    "backing",
    "layout",
    "s3-endpoint",
    "s3-region",
    "s3-path-style",
    "s3-profile",
    "unsafe-no-cas",
    "on-existing",
    "on-conflict",
    "scan",
    "restore",
    "no-prefetch",
    "prefetch-rate",
    "amplification",
    "chain",
    "keep",
    "keep-for",
    "delete-after",
    "debounce",
    "max-delay",
    "cut-deadline",
    "unmount-timeout",
    "level",
    "dictionary",
    "fsync",
    "fsync-timeout",
    "access",
    "xattr",
    "passthrough",
    "transport",
    "fuse-threads",
    "metrics",
    "catalog",
    "table",
    "catalog-option",
    "tables-only",
    "tables-block",
    "tables-cache",
    "keep-snapshots",
    "tables-redis",
    "tables-hints",
    "tables-hints-token",
    "tables-poll",
    "tables-poll-idle",
    "tables-timeout",
    "config",
    "version",
    "at",
];

/// Settings that may stand alone and then mean `on`.
const SWITCHES: &[&str] = &["s3-path-style", "unsafe-no-cas", "no-prefetch", "dictionary", "tables-only"];

/// Short words and what they mean.
const SHORT: &[(&str, &str)] = &[
    ("endpoint", "s3-endpoint"),
    ("region", "s3-region"),
    ("path-style", "s3-path-style"),
    ("use-path-request-style", "s3-path-style"),
    ("profile", "s3-profile"),
];

/// Flags of the mount itself that the daemon passes to the kernel.
const KERNEL_FLAGS: &[&str] = &["nosuid", "nodev", "noexec", "noatime"];

/// Words of mount(8) and of init systems that ask nothing of a file system, or what is so anyway.
const IGNORED: &[&str] = &[
    "rw",
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "_netdev",
    "nofail",
    "suid",
    "dev",
    "exec",
    "atime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "diratime",
    "nodiratime",
    "async",
    "silent",
    "loud",
    "fsname",
    "subtype",
    "uhelper",
    "helper",
    "comment",
];

/// Words that would change what the mount promises; each with the reason why not.
const REFUSED: &[(&str, &str)] = &[
    ("ro", "an icecache mount is writable; with version=VERSION or at=TIME it is not"),
    ("remount", "unmount and mount again to change options"),
    ("bind", "use mount --bind"),
    ("sync", "use fsync=remote for durable writes"),
    ("dirsync", "use fsync=remote for durable writes"),
];

/// Reads `SOURCE DIR [-sfnv] [-o OPTIONS]…`, in any order.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Call, String> {
    let mut places = Vec::new();
    let mut lists = Vec::new();
    let (mut sloppy, mut verbose, mut fake) = (false, false, false);
    let mut args = args;
    let mut only_places = false;
    while let Some(arg) = args.next() {
        let letters = match arg.as_bytes() {
            b"--" if !only_places => {
                only_places = true;
                continue;
            }
            [b'-', letters @ ..] if !letters.is_empty() && !only_places => letters,
            _ => {
                places.push(arg);
                continue;
            }
        };
        let mut rest = letters;
        while let [letter, after @ ..] = rest {
            rest = after;
            match letter {
                b's' => sloppy = true,
                b'f' => fake = true,
                b'n' => {} // there is no mtab to write
                b'v' => verbose = true,
                b'o' | b't' | b'N' => {
                    let value = match rest {
                        b"" => args
                            .next()
                            .ok_or_else(|| format!("option needs a value: -{}", *letter as char))?,
                        attached => OsString::from_vec(attached.to_vec()),
                    };
                    match letter {
                        b'o' => lists.push(value),
                        b'N' => return Err("mounting into another namespace is not supported".to_owned()),
                        _ => {} // the type is ours
                    }
                    rest = b"";
                }
                _ => return Err(format!("unknown option: {arg:?}\n{USAGE}")),
            }
        }
    }
    let [source, dir]: [OsString; 2] = places.try_into().map_err(|_| USAGE.to_owned())?;
    let mut arguments: Vec<OsString> = vec!["mount".into(), flag("remote", source_url(&source)?)];
    let mut kernel_flags = Vec::new();
    let words = lists.iter().flat_map(|list| list.as_bytes().split(|b| *b == b',')).filter(|w| !w.is_empty());
    let shows = words.clone().any(|word| word.starts_with(b"version=") || word.starts_with(b"at="));
    // Whoever shows a version changes nothing anyway.
    for word in words.filter(|word| !shows || *word != b"ro") {
        translate(word, sloppy, &mut arguments, &mut kernel_flags)?;
    }
    if !kernel_flags.is_empty() {
        arguments.push(flag("mount-flags", kernel_flags.join(",")));
    }
    arguments.push("--".into());
    arguments.push(dir);
    Ok(Call { arguments, verbose, fake })
}

const USAGE: &str = "usage: mount.icecache SOURCE DIR [-sfnv] [-o OPTIONS]";

fn flag(key: &str, value: impl AsRef<OsStr>) -> OsString {
    let mut flag = OsString::from(format!("--{key}="));
    flag.push(value);
    flag
}

/// A URL as it is; an absolute path is a directory remote.
fn source_url(source: &OsStr) -> Result<OsString, String> {
    let bytes = source.as_bytes();
    if bytes.starts_with(b"s3://") || bytes.starts_with(b"file:///") {
        return Ok(source.to_owned());
    }
    if bytes.starts_with(b"/") {
        let mut url = OsString::from("file://");
        url.push(source);
        return Ok(url);
    }
    Err(format!("source must be s3://BUCKET/PREFIX or file:///PATH: {source:?}"))
}

/// One word of the option list.
fn translate(
    word: &[u8],
    sloppy: bool,
    arguments: &mut Vec<OsString>,
    kernel_flags: &mut Vec<String>,
) -> Result<(), String> {
    let mut parts = word.splitn(2, |b| *b == b'=');
    let key = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let value = parts.next().map(OsStr::from_bytes);
    if IGNORED.contains(&key.as_str()) || key.starts_with("x-") || key.starts_with("X-") {
        return Ok(());
    }
    if let Some((_, reason)) = REFUSED.iter().find(|(word, _)| *word == key) {
        return Err(format!("option is not supported ({reason}): {key}"));
    }
    if KERNEL_FLAGS.contains(&key.as_str()) {
        kernel_flags.push(key);
        return Ok(());
    }
    if key == "allow_other" {
        arguments.push(flag("access", "all"));
        return Ok(());
    }
    let dashed = key.replace('_', "-");
    let name = SHORT.iter().find(|(short, _)| *short == dashed).map_or(dashed.as_str(), |(_, long)| long);
    if !SETTINGS.contains(&name) {
        if sloppy {
            return Ok(());
        }
        return Err(format!("unknown option: {key:?}\nknown options: {}, allow_other", SETTINGS.join(", ")));
    }
    match value {
        Some(value) => arguments.push(flag(name, value)),
        None if SWITCHES.contains(&name) => arguments.push(flag(name, "on")),
        None => return Err(format!("option needs a value: {key}")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(args: &[&str]) -> Result<Call, String> {
        parse(args.iter().map(OsString::from))
    }

    fn arguments(args: &[&str]) -> Vec<String> {
        let call = call(args);
        assert!(call.is_ok(), "{call:?}");
        call.map(|c| c.arguments.iter().map(|a| a.to_string_lossy().into_owned()).collect())
            .unwrap_or_default()
    }

    #[test]
    fn a_line_of_fstab() {
        let options = "rw,noauto,name=work,region=eu-central-1,state_dir=/s,allow_other,_netdev,nofail,x-systemd.automount";
        assert_eq!(
            arguments(&["s3://b/p", "/srv/work", "-o", options]),
            [
                "mount",
                "--remote=s3://b/p",
                "--name=work",
                "--s3-region=eu-central-1",
                "--state-dir=/s",
                "--access=all",
                "--",
                "/srv/work"
            ]
        );
    }

    #[test]
    fn options_may_come_first_attached_and_twice() {
        let expected = [
            "mount",
            "--remote=file:///r",
            "--level=9",
            "--s3-path-style=on",
            "--mount-flags=nodev,nosuid",
            "--",
            "/d",
        ];
        assert_eq!(
            arguments(&["-onodev,level=9", "-no", "path_style,nosuid", "/r", "/d", "-t", "icecache"]),
            expected
        );
        assert_eq!(arguments(&["--", "/r", "-d"]).last().map(String::as_str), Some("-d"));
    }

    #[test]
    fn a_value_may_hold_an_equals_sign_but_never_becomes_a_flag() {
        let all = arguments(&["s3://b", "/d", "-o", "backing=/x=y,name=--foreground"]);
        assert!(
            all.contains(&"--backing=/x=y".to_owned()) && all.contains(&"--name=--foreground".to_owned())
        );
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        let refused = |list: &str| call(&["s3://b", "/d", "-o", list]).err().unwrap_or_default();
        assert!(refused("ro").contains("writable"));
        assert!(refused("remount").contains("unmount"));
        assert!(refused("colour=blue").contains("known options: name, state-dir"));
        assert!(refused("name").contains("needs a value"));
        assert!(call(&["s3://b", "/d", "-s", "-o", "colour=blue"]).is_ok(), "sloppy");
        assert!(call(&["s3://b"]).is_err() && call(&["b/p", "/d"]).is_err());
        assert!(call(&["s3://b", "/d", "-x"]).is_err() && call(&["s3://b", "/d", "-o"]).is_err());
    }

    #[test]
    fn a_version_is_read_only() {
        let expected = ["mount", "--remote=s3://b", "--version=release-1.0", "--", "/d"];
        assert_eq!(arguments(&["s3://b", "/d", "-o", "ro,version=release-1.0"]), expected);
        assert!(arguments(&["s3://b", "/d", "-o", "at=2h,ro"]).contains(&"--at=2h".to_owned()));
        assert!(call(&["s3://b", "/d", "-o", "version"]).is_err());
    }

    #[test]
    fn letters_may_be_joined() {
        let call = call(&["s3://b", "/d", "-fvn"]).ok();
        assert!(call.is_some_and(|c| c.fake && c.verbose));
    }
}
