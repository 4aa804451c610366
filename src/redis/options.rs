//! [`RedisOptions`]: which server, who we are to it, and how long it may take.
use super::error::RedisError;
use crate::config::text;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Where Redis listens when nobody says.
const PORT: u16 = 6379;
/// The largest part of a block that is one value, in bytes. Beyond, one value keeps the server busy too long.
const CHUNK_MAX_BYTES: u64 = 8 << 20;
/// The smallest. Below, keys cost more than they carry.
const CHUNK_MIN_BYTES: u64 = 4 << 10;
/// The longest namespace, in bytes.
const NAMESPACE_MAX_BYTES: usize = 64;
/// No deadline is longer: a tier that takes longer than the origin is none.
const DEADLINE_MAX: Duration = Duration::from_secs(60);

/// Host and port of a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// A name, or an address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A text that nothing shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps it.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Which server, who we are to it, and how long it may take.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisOptions {
    /// The server, or some nodes of a cluster; of servers that are no cluster the first that answers is used.
    pub servers: Vec<Address>,
    /// Whether to speak TLS.
    pub tls: bool,
    /// Certificates (PEM) of those who may vouch for the server; without them those of the system.
    pub ca: Option<PathBuf>,
    /// The user of the access control list; without one the default user.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
    /// The number of the database; a cluster has only 0.
    pub database: u16,
    /// What all keys and the channel of events begin with. Default `icecache`.
    pub namespace: String,
    /// How long a value stays. Default 7 days; `None`: until the server evicts it.
    pub ttl: Option<Duration>,
    /// How long a reader waits at most. Default 100 ms: about what an object store takes.
    pub deadline: Duration,
    /// How long the writing of a block may take; nobody waits for it. Default 2 s.
    pub write_deadline: Duration,
    /// How long it may take to connect. Default 2 s.
    pub connect_deadline: Duration,
    /// The largest part of a block that is one value, in bytes. Default 256 KiB.
    pub chunk_bytes: u64,
    /// Larger blocks are not kept, in bytes. Default 8 MiB.
    pub max_bytes: u64,
    /// Whether values are compressed if that pays. Default yes.
    pub compress: bool,
    /// How many reads are under way to one server at once; those beyond go to the origin. Default 64.
    pub reads_max: usize,
    /// How many writes are; those beyond are not kept. Default 8.
    pub writes_max: usize,
    /// After so long without an event the connection that events come through is tried. Default 10 s.
    pub heartbeat: Duration,
}

impl RedisOptions {
    /// Reads `redis://[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]…][/DATABASE][?OPTION=VALUE&…]`; `rediss://`
    /// with TLS. User, password and values may be percent-encoded. [`RedisError::Option`] if it is none of it;
    /// [`RedisError::File`] if a file that it names cannot be read.
    pub fn parse(url: &str) -> Result<Self, RedisError> {
        // Nothing of the text is repeated: it may have a password in it.
        let wrong = |why: &str| RedisError::Option { option: "url".into(), why: why.into() };
        let (scheme, rest) =
            url.split_once("://").ok_or_else(|| wrong("expected redis://HOST or rediss://HOST"))?;
        let tls = match scheme {
            "redis" | "valkey" => false,
            "rediss" | "valkeys" => true,
            _ => return Err(wrong("expected a URL that begins with redis:// or rediss://")),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (place, database) = rest.split_once('/').unwrap_or((rest, ""));
        // The last one: a password may have one, too.
        let (user, hosts) = match place.rsplit_once('@') {
            Some((user, hosts)) => (Some(user), hosts),
            None => (None, place),
        };
        let servers = hosts.split(',').map(address).collect::<Option<Vec<_>>>();
        let servers = servers.ok_or_else(|| wrong("expected HOST or HOST:PORT after the scheme"))?;
        let mut options = Self {
            servers,
            tls,
            ca: None,
            user: None,
            password: None,
            database: 0,
            namespace: "icecache".into(),
            ttl: Some(Duration::from_secs(7 * 24 * 60 * 60)),
            deadline: Duration::from_millis(100),
            write_deadline: Duration::from_secs(2),
            connect_deadline: Duration::from_secs(2),
            chunk_bytes: 256 << 10,
            max_bytes: 8 << 20,
            compress: true,
            reads_max: 64,
            writes_max: 8,
            heartbeat: Duration::from_secs(10),
        };
        if let Some(user) = user {
            let decoded =
                |text| decode(text).ok_or_else(|| wrong("the percent-encoding of the user is wrong"));
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            options.user = Some(decoded(name)?).filter(|name| !name.is_empty());
            options.password = Some(decoded(password)?).filter(|text| !text.is_empty()).map(Secret);
        }
        if !database.is_empty() {
            options.database =
                database.parse().map_err(|_| wrong("expected the number of a database after the host"))?;
        }
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (option, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value).ok_or_else(|| wrong("the percent-encoding of a value is wrong"))?;
            options.set(option, &value)?;
        }
        Ok(options)
    }

    /// Sets one option by its name: `user`, `password`, `password-file`, `ca`, `namespace`, `ttl` (a duration,
    /// days with `d`, or `none`), `deadline`, `write-deadline`, `connect-deadline`, `heartbeat`, `chunk`, `max`
    /// (bytes, as 256KiB), `compress` (on, off), `reads`, `writes`.
    pub fn set(&mut self, option: &str, value: &str) -> Result<(), RedisError> {
        let wrong = |why: String| RedisError::Option { option: option.into(), why };
        let deadline = || {
            let duration = text::duration(value).map_err(wrong)?;
            if duration.is_zero() || duration > DEADLINE_MAX {
                return Err(wrong(format!("expected at most {} s: {value}", DEADLINE_MAX.as_secs())));
            }
            Ok(duration)
        };
        let bytes = |least: u64, most: u64| {
            let bytes = value.parse::<bytesize::ByteSize>().map(|size| size.as_u64());
            bytes.ok().filter(|bytes| (least..=most).contains(bytes)).ok_or_else(|| {
                let [least, most] = [least, most].map(bytesize::ByteSize);
                wrong(format!("expected a size from {least} to {most}: {value}"))
            })
        };
        let count = || Ok(text::number(value, 1..=4096).map_err(wrong)? as usize);
        match option {
            "user" => self.user = Some(value.to_owned()).filter(|name| !name.is_empty()),
            "password" => self.password = Some(Secret::new(value)),
            "password-file" => self.password = Some(password_in(value)?),
            "ca" if !self.tls => return Err(wrong("only with rediss://".into())),
            "ca" => self.ca = Some(value.into()),
            "namespace" => {
                let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
                if value.is_empty() || value.len() > NAMESPACE_MAX_BYTES || !value.chars().all(plain) {
                    let expected = "expected 1 to 64 letters, digits, dots, dashes or underscores";
                    return Err(wrong(format!("{expected}: {value}")));
                }
                self.namespace = value.to_owned();
            }
            "ttl" => self.ttl = ttl(value).map_err(wrong)?,
            "deadline" => self.deadline = deadline()?,
            "write-deadline" => self.write_deadline = deadline()?,
            "connect-deadline" => self.connect_deadline = deadline()?,
            "heartbeat" => self.heartbeat = deadline()?,
            "chunk" => self.chunk_bytes = bytes(CHUNK_MIN_BYTES, CHUNK_MAX_BYTES)?,
            "max" => self.max_bytes = bytes(CHUNK_MIN_BYTES, crate::cache::config::BLOCK_MAX_BYTES)?,
            "compress" => self.compress = text::switch(value).map_err(wrong)?,
            "reads" => self.reads_max = count()?,
            "writes" => self.writes_max = count()?,
            _ => return Err(wrong("there is no such option".into())),
        }
        Ok(())
    }

    /// A text of a server without our password in it.
    pub(super) fn scrub(&self, text: &str) -> String {
        match &self.password {
            Some(Secret(password)) if !password.is_empty() => text.replace(password, "***"),
            _ => text.to_owned(),
        }
    }
}

/// `HOST`, `HOST:PORT` or `[ADDRESS]:PORT`.
fn address(text: &str) -> Option<Address> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = port.map_or(Some(PORT), |port| port.parse().ok())?;
    (!host.is_empty() && port > 0).then(|| Address { host: host.to_owned(), port })
}

/// Percent-encoding taken away; `None` if it is wrong, or no UTF-8 is left.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_first_chunk::<2>()?;
        let digit = |c: u8| char::from(c).to_digit(16);
        bytes.push((digit(digits[0])? * 16 + digit(digits[1])?) as u8);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

fn ttl(value: &str) -> Result<Option<Duration>, String> {
    let duration = match value.strip_suffix(['d', 'w']) {
        Some(_) => text::age(value)?,
        None if value.eq_ignore_ascii_case("none") => None,
        None => Some(text::duration(value)?),
    };
    match duration {
        Some(duration) if duration < Duration::from_secs(1) => Err(format!("expected at least 1s: {value}")),
        duration => Ok(duration),
    }
}

/// The first line of a file.
fn password_in(path: &str) -> Result<Secret, RedisError> {
    let failed = |why: String| RedisError::File { option: "password-file", path: path.into(), why };
    let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(Secret::new(line)),
        _ => Err(failed("its first line is empty".into())),
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;

    fn parse(url: &str) -> RedisOptions {
        RedisOptions::parse(url).unwrap_or_else(|e| panic!("{url}: {e}"))
    }

    #[test]
    fn a_url_says_everything() {
        let plain = parse("redis://cache");
        assert_eq!(plain.servers, [Address { host: "cache".into(), port: 6379 }]);
        assert_eq!((plain.tls, plain.user, plain.password, plain.database), (false, None, None, 0));

        let all = parse(
            "rediss://me:p%40ss@a:7000,[::1]:7001,b/3?ca=/etc/ca.pem&namespace=team-1&ttl=3d&deadline=50ms\
             &chunk=64KiB&max=1MiB&compress=off&reads=7&writes=2&write-deadline=1s&connect-deadline=1.5s",
        );
        let shown: Vec<_> = all.servers.iter().map(Address::to_string).collect();
        assert_eq!(shown, ["a:7000", "[::1]:7001", "b:6379"]);
        assert_eq!((all.tls, all.user.as_deref(), all.database), (true, Some("me"), 3));
        assert_eq!(all.password, Some(Secret::new("p@ss")));
        assert_eq!(all.ca.as_deref(), Some("/etc/ca.pem".as_ref()));
        assert_eq!((all.namespace.as_str(), all.ttl), ("team-1", Some(Duration::from_secs(3 * 86_400))));
        assert_eq!((all.deadline, all.write_deadline), (Duration::from_millis(50), Duration::from_secs(1)));
        assert_eq!(all.connect_deadline, Duration::from_millis(1500));
        assert_eq!((all.chunk_bytes, all.max_bytes, all.compress), (64 << 10, 1 << 20, false));
        assert_eq!((all.reads_max, all.writes_max), (7, 2));
        assert_eq!(parse("redis://:only@h").password, Some(Secret::new("only")));
        assert_eq!(parse("redis://:a@b@h").password, Some(Secret::new("a@b")), "the last @ counts");
        assert_eq!(parse("redis://h?ttl=none").ttl, None);
    }

    #[test]
    fn what_is_wrong_is_said_and_no_secret_is_shown() {
        for (url, word) in [
            ("hunter2", "redis://"),
            ("http://:hunter2@h", "redis://"),
            ("redis://:hunter2@", "HOST"),
            ("redis://:hunter2@h:99999", "HOST"),
            ("redis://:hunter2@[::1", "HOST"),
            ("redis://:hunter2%zz@h", "percent"),
            ("redis://:hunter2@h/x", "number"),
            ("redis://:hunter2@h?namespace=a{b}", "letters"),
            ("redis://:hunter2@h?chunk=1", "4.0 KiB"),
            ("redis://:hunter2@h?deadline=0", "60 s"),
            ("redis://:hunter2@h?ttl=1ms", "1s"),
            ("redis://:hunter2@h?ca=/x", "rediss://"),
            ("redis://:hunter2@h?colour=red", "no such option"),
            ("redis://h?password-file=/does/not/exist", "cannot read"),
        ] {
            let error = RedisOptions::parse(url).expect_err(url).to_string();
            assert!(error.contains(word) && !error.contains("hunter2"), "{url}: {error}");
        }
        let options = parse("redis://u:hunter2@h");
        assert!(!format!("{options:?}").contains("hunter2"));
        assert_eq!(options.scrub("unknown command 'AUTH' 'hunter2'"), "unknown command 'AUTH' '***'");
    }

    #[test]
    fn a_password_comes_from_the_first_line_of_a_file() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "s3cret\nmore\n").expect("written");
        let mut options = parse("redis://h");
        options.set("password-file", &file.path().display().to_string()).expect("read");
        assert_eq!(options.password, Some(Secret::new("s3cret")));
        std::fs::write(file.path(), "\n").expect("written");
        let error = options.set("password-file", &file.path().display().to_string()).expect_err("empty");
        assert_eq!(error.kind(), crate::error::ErrorKind::Io);
    }
}
