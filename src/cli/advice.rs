//! What a person can do about an error.
use crate::{Error, ErrorKind};

/// How the refusal of an archive's entry reads, also when it comes from a daemon, which sends text alone.
const REFUSED_ENTRY: &str = "entry refused: ";

/// How it reads that an address is taken.
const LISTENING: &str = "cannot listen at ";

/// What helps with one error alone: a part of its text, for the same reason, and the advice.
const PARTICULAR: [(&str, &str); 27] = [
    (
        "files that it would take the place of are open",
        "end these processes, or wait until they have ended, then start again; nothing is lost",
    ),
    ("a signal ended the start", "nothing is lost: start it again"),
    (
        "another icecache uses this",
        "'icecache status' lists mounts, and 'icecache unmount DIR' ends one; an exec without a mount ends with its \
         command, and is found by 'ps' alone",
    ),
    (
        "target directory is not empty",
        "name a new or an empty directory; with --force files of the same path are replaced",
    ),
    ("is in use and stays mounted", "end what uses it, or leave it ('cd /'), and unmount again"),
    (
        "gone without unmounting",
        "'icecache unmount DIR' takes the dead mount away, then mount again: what was not saved is saved then",
    ),
    ("archive exists", "name another file, or replace that one with --force"),
    ("archive must be", "name a file that is not there yet, or a pipe: --to - is stdout"),
    ("archive would lie in", "name a file outside of the directory"),
    ("stdout has either", "'icecache export --to FILE --json' tells of what it has written"),
    ("not an archive", "'icecache import' takes what 'icecache export' or 'tar --zstd -cf' writes"),
    (
        "daemon did not answer in time",
        "its process is stopped, or waits for a disk: 'ps' shows which, and daemon.log in its state directory what it did \
         last; nothing is lost",
    ),
    (
        "lost connection to daemon",
        "'icecache status' says whether it still runs, daemon.log in its state directory why not; nothing is lost",
    ),
    ("expected a time such as", "'icecache log' shows the times of the versions that there are"),
    ("ICECACHE_FLUSH: ", "docs/lambda.md says what each of these means"),
    ("which directory is to be kept?", "icecache exec --dir DIR --remote URL -- COMMAND"),
    (
        "no place for a state directory",
        "name one with --state-dir, on a disk that stays while the command runs",
    ),
    ("No space left on device", "free some space on that disk and try again; nothing is lost"),
    ("there is no directory but a file", "name a directory"),
    (
        "this name is in layout single",
        "with --layout single it can be restored, exported and listed; 'icecache import --from-single' brings it into \
         layers, which can also be verified, tagged, forked and pruned",
    ),
    ("this name is in layout layered", "leave --layout single (or ICECACHE_LAYOUT) out"),
    ("a tag has 1 to", "choose another tag: 'icecache log' shows those there are"),
    ("is mounted read-only", "to write, mount the directory without --version and --at"),
    ("in layout log", "what the archive log should lose is for the bucket to delete, by its lifecycle rules"),
    ("HEAD is damaged", LOST_HEAD),
    ("not an icecache HEAD", LOST_HEAD),
    (
        "Too many open files",
        "nothing is lost: permit more descriptors ('ulimit -n' in the shell, LimitNOFILE= in the unit) and start again",
    ),
];

/// What helps with one error of a cache alone, likewise.
const PARTICULAR_OF_CACHES: [(&str, &str); 7] = [
    (
        "there is no cache: ",
        "'icecache cache put' and 'icecache serve' make one; '--cache DIR' says which is meant",
    ),
    (
        "no file but an object",
        "'icecache serve --origin URL' gives its bytes; 'icecache cache stat KEY' says how much is here",
    ),
    ("max-bytes is reached", "permit more with --max-bytes, or take something out: 'icecache cache rm KEY'"),
    (
        "max-entries is reached",
        "permit more with --max-entries, or take something out: 'icecache cache rm KEY'",
    ),
    ("less than min-free left", "free some space on that disk, or permit less to be free with --min-free"),
    ("the origin is not there: ", "correct the URL, or see whether its disk is mounted"),
    ("longer than 4096 bytes, which is no token", "--token-file names a file with the token alone"),
];

/// What helps with one error about tables alone, likewise.
const PARTICULAR_OF_TABLES: [(&str, &str); 11] = [
    ("no catalog has such a table", "'icecache tables ls DIR' lists those there are"),
    ("no such partition", "'icecache --json tables explain DIR TABLE' lists those there are"),
    (
        "the table has no such column",
        "name it as a query does, and what is in another column with a dot: --columns city,address.zip",
    ),
    (
        "was not pinned",
        "'icecache tables ls DIR' says what is pinned, 'icecache tables show DIR TABLE' which part of it",
    ),
    ("not mounted by icecache", "'icecache status' lists what is mounted"),
    (
        "gone without unmounting",
        "mount it again: 'icecache mount DIR --catalog …'; what is cached is there again",
    ),
    (
        "no tables are shown",
        "show some: 'icecache mount DIR --catalog …'; docs/TABLES.md has the kinds of catalogs",
    ),
    (
        "the disk of the state directory (--state-dir) has room for",
        "free some space on that disk, or mount with a --state-dir on another one",
    ),
    (
        "there is no room for ",
        "permit more with --tables-cache, or name a part: --columns, --partition, --where",
    ),
    (
        "too much is pinned",
        "permit more with --tables-cache, or take pins away: 'icecache tables unpin DIR TABLE'",
    ),
    (
        "pins already",
        "pin whole tables instead of partitions, or take pins away: 'icecache tables unpin DIR TABLE'",
    ),
];

/// How it reads that what is copied out of a cache cannot be written.
const WRITING_OUT: &str = "cannot write to ";

/// Without it nothing can be listed.
const LOST_HEAD: &str = "put back an earlier HEAD, from the bucket's object versions or a backup: the layers are not changed by it";

/// What a command is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum About {
    /// A directory that is mounted, or its versions.
    #[default]
    Directory,
    /// A cache.
    Cache,
    /// The tables of a mount.
    #[cfg_attr(not(feature = "tables"), allow(dead_code, reason = "nobody asks about any"))]
    Tables,
}

/// One line for each kind that has a usual way out.
pub fn advice(error: &Error, about: About) -> Option<&'static str> {
    match (error.kind(), about) {
        (ErrorKind::Busy, _) if error.to_string().contains(LISTENING) => {
            Some("another program listens there: end it, or choose another address")
        }
        (_, About::Directory) => of_directory(error),
        (_, About::Cache) => of_cache(error),
        (_, About::Tables) => of_tables(error),
    }
}

fn of_tables(error: &Error) -> Option<&'static str> {
    let text = error.to_string();
    if let Some((_, advice)) = PARTICULAR_OF_TABLES.iter().find(|(part, _)| text.contains(part)) {
        return Some(advice);
    }
    match error.kind() {
        ErrorKind::Unavailable => {
            Some("'icecache status DIR' says who does not answer, and why; what is shown stays as it is")
        }
        // The message says which table is which, or why one cannot be shown.
        ErrorKind::Invalid | ErrorKind::Io => None,
        _ => of_directory(error),
    }
}

fn of_cache(error: &Error) -> Option<&'static str> {
    let text = error.to_string();
    if let Some((_, advice)) = PARTICULAR_OF_CACHES.iter().find(|(part, _)| text.contains(part)) {
        return Some(advice);
    }
    match error.kind() {
        // The cache has enough room.
        ErrorKind::Full if text.starts_with(WRITING_OUT) => Some("free some space there, or write elsewhere"),
        ErrorKind::Invalid => Some("'--help' behind the command shows what it takes"),
        ErrorKind::NotFound => {
            Some("'icecache cache ls' lists what is there; '--cache DIR' says which cache is meant")
        }
        ErrorKind::Busy => Some(
            "one process at a time has a cache: end that one, or name another directory with '--cache DIR'",
        ),
        ErrorKind::Conflict => {
            Some("nothing is overwritten: 'icecache cache rm KEY' takes out what is there")
        }
        ErrorKind::Unavailable => {
            Some("check network, endpoint and region of the origin, then try again; nothing is lost")
        }
        ErrorKind::Denied => {
            Some("an origin: check credentials and the bucket's policy; a path: check its owner and modes")
        }
        ErrorKind::Corrupt => Some("'icecache cache verify' drops what is damaged; objects are fetched anew"),
        ErrorKind::Full => Some("free some space on that disk"),
        ErrorKind::Unsupported => Some("docs/CACHE.md says what a cache needs"),
        ErrorKind::Io => None,
    }
}

fn of_directory(error: &Error) -> Option<&'static str> {
    let text = error.to_string();
    if let Some((_, advice)) = PARTICULAR.iter().find(|(part, _)| text.contains(part)) {
        return Some(advice);
    }
    match error.kind() {
        ErrorKind::Denied if text.contains(REFUSED_ENTRY) => Some(
            "nothing is ever written outside of the directory: 'tar -tvf' shows the entry; pack the archive \
             without it (device nodes: as root)",
        ),
        ErrorKind::Invalid => Some("'icecache config DIR' shows each setting and where it comes from"),
        ErrorKind::NotFound => {
            Some("'icecache status' lists what is mounted, 'icecache log' what a name has")
        }
        ErrorKind::Busy => Some("'icecache status' shows who holds it; 'icecache unmount DIR' ends it"),
        ErrorKind::Conflict => Some("look at both sides with 'icecache log' before you decide"),
        ErrorKind::Unavailable => Some("check network, endpoint and region, then try again; nothing is lost"),
        ErrorKind::Denied => {
            Some("a remote: check credentials and the bucket's policy; a path: check its owner and modes")
        }
        ErrorKind::Corrupt => Some(
            "'icecache verify' says what is damaged or lost, 'icecache log' lists older versions to restore",
        ),
        ErrorKind::Full => Some("free some space and try again"),
        ErrorKind::Unsupported => Some("docs/SEMANTICS.md says what kernel and store must be able to do"),
        ErrorKind::Io => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::LayerError;
    use crate::path::RelPath;

    #[test]
    fn a_refused_entry_is_no_matter_of_credentials() {
        let refused = LayerError::refused("a part of its path is not a directory", &RelPath::root());
        let refused = Error::from(refused);
        // As it comes from a daemon.
        let sent = Error::new(refused.kind(), refused.to_string());
        for error in [refused, sent] {
            let advice = advice(&error, About::Directory).expect("advice");
            assert!(advice.contains("tar") && !advice.contains("credentials"), "{error}: {advice}");
        }
        let denied = Error::new(ErrorKind::Denied, "remote denies access");
        assert!(advice(&denied, About::Directory).is_some_and(|advice| advice.contains("credentials")));
    }

    /// A larger cache is no help where the disk is full.
    #[test]
    fn who_finds_no_room_for_a_table_is_told_of_what_is_short() {
        let of_disk = "the disk of the state directory (--state-dir) has room for 0 B of the cache";
        for what in ["too much is pinned: 2 GiB of t, but", "there is no room for 2 GiB of t:"] {
            for (short, setting) in
                [("the cache has 1 GiB (--tables-cache)", "--tables-cache"), (of_disk, "--state-dir")]
            {
                let error = Error::new(ErrorKind::Full, format!("{what} {short}"));
                assert!(
                    advice(&error, About::Tables).is_some_and(|advice| advice.contains(setting)),
                    "{error}"
                );
            }
        }
    }

    #[test]
    fn who_has_no_descriptor_left_is_told_of_the_limit() {
        let short = LayerError::io("cannot make: d/x", std::io::Error::from_raw_os_error(libc::EMFILE));
        let error = Error::new(short.kind(), "content could not be brought").with_source(short);
        assert_eq!(error.kind(), ErrorKind::Full);
        assert!(advice(&error, About::Directory).is_some_and(|advice| advice.contains("ulimit")), "{error}");
    }

    #[test]
    fn what_a_signal_ended_is_no_matter_of_the_network_and_not_each_holder_is_a_mount() {
        let stopped = Error::new(ErrorKind::Unavailable, "a signal ended the start");
        assert!(
            advice(&stopped, About::Directory).is_some_and(|advice| !advice.contains("network")),
            "{stopped}"
        );
        for (text, word) in
            [("daemon did not answer in time", "daemon.log"), ("lost connection to daemon", "status")]
        {
            let gone = Error::new(ErrorKind::Unavailable, text);
            let advice = advice(&gone, About::Directory).expect("advice");
            assert!(advice.contains(word) && !advice.contains("network"), "{text}: {advice}");
        }
        for held in ["another icecache uses this directory: /d", "another icecache uses this state directory"]
        {
            let advice = advice(&Error::new(ErrorKind::Busy, held), About::Directory).expect("advice");
            assert!(advice.contains("exec"), "{held}: {advice}");
        }
    }

    /// `icecache config` shows settings, and these are none.
    #[test]
    fn not_all_that_was_typed_is_a_setting() {
        for text in [
            "expected a time such as 2026-11-21T14:00:00Z, or how long ago, such as 30m, 12h, 7d or 8w: tomorrow",
            "ICECACHE_FLUSH: expected before-response, after-response, a number of invocations or a time: always",
            "not an archive but a directory: /d",
            "archive must be a file, a pipe or a character device, not a directory: /d",
        ] {
            let advice = advice(&Error::new(ErrorKind::Invalid, text), About::Directory).expect("advice");
            assert!(!advice.contains("icecache config"), "{text}: {advice}");
        }
    }

    #[test]
    fn who_looks_after_tables_is_told_of_tables() {
        for (kind, text, word) in [
            (ErrorKind::NotFound, "no catalog has such a table: db.t", "tables ls"),
            (ErrorKind::NotFound, "the table has no such partition: day=1 (one is day=2)", "explain"),
            (ErrorKind::NotFound, "it was not pinned: db.t", "tables show"),
            (ErrorKind::NotFound, "not mounted by icecache: /x", "icecache status"),
            (ErrorKind::Full, "too much is pinned: 2 GiB of db.t", "unpin"),
            (ErrorKind::Unavailable, "catalog unavailable: it hangs", "icecache status DIR"),
        ] {
            let advice = advice(&Error::new(kind, text), About::Tables).expect("advice");
            assert!(advice.contains(word) && !advice.contains("icecache log"), "{text}: {advice}");
        }
        let several = Error::new(ErrorKind::Invalid, "several tables are called so, give one of these: a, b");
        assert_eq!(advice(&several, About::Tables), None);
    }

    #[test]
    fn who_looks_after_a_cache_is_not_told_of_mounts() {
        use ErrorKind::{
            Busy, Conflict, Corrupt, Denied, Full, Invalid, Io, NotFound, Unavailable, Unsupported,
        };
        let kinds = [Busy, Conflict, Corrupt, Denied, Full, Invalid, Io, NotFound, Unavailable, Unsupported];
        for advice in kinds.into_iter().filter_map(|kind| advice(&Error::new(kind, "it"), About::Cache)) {
            let words = ["mount", "version", "status", "icecache log", "icecache config"];
            assert!(!words.iter().any(|word| advice.contains(word)), "{advice}");
        }
        let taken = Error::new(Busy, "cannot listen at 127.0.0.1:80");
        for about in [About::Directory, About::Cache] {
            assert!(advice(&taken, about).is_some_and(|advice| advice.contains("address")));
        }
    }
}
