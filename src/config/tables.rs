//! [`TablesSettings`]: which Iceberg tables a mount shows, and through what.
use super::merge::{Environment, Origin};
use super::settings::Reader;
use super::{ConfigError, text};
use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What begins the value of an option that stands elsewhere.
const FROM_ENVIRONMENT: &str = "env:";
const FROM_FILE: &str = "file:";

/// Which Iceberg tables are shown, and through what.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablesSettings {
    /// `NAME=KIND:…`; may hold passwords.
    pub catalogs: Vec<String>,
    /// Catalog, property, value; may be secrets.
    pub options: Vec<(String, String, String)>,
    /// Tables and nothing else.
    #[serde(default)]
    pub only: bool,
    /// The most bytes that the cache has on the disk.
    pub cache_bytes: u64,
    /// How many bytes of an object are fetched and kept at once.
    pub block_bytes: u64,
    /// Which older versions of a table stay readable.
    #[serde(default)]
    pub keep: KeepVersions,
    /// A Redis that machines share; may hold a password.
    pub redis: Option<String>,
    /// Where hints that tables have changed are taken by HTTP.
    #[serde(default)]
    pub hints: Option<HintsSettings>,
    /// How often a catalog is asked for tables that are looked into.
    pub poll: Duration,
    /// The same at least, whoever looks; not shorter than `poll`.
    pub poll_idle: Duration,
    /// A read that has brought nothing for so long fails.
    pub timeout: Duration,
}

/// Where hints are taken, and of whom.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HintsSettings {
    /// As `HOST:PORT`.
    pub address: String,
    /// What whoever hints must show; `None`: nothing.
    pub token: Option<String>,
}

impl std::fmt::Debug for HintsSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HintsSettings").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Which older versions of a table stay readable: those that each of these permits. None of them: the usual number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepVersions {
    /// So many.
    pub count: Option<u64>,
    /// Those that were current less long ago, in seconds.
    pub age_s: Option<u64>,
    /// Until their metadata has so many bytes together.
    pub bytes: Option<u64>,
}

impl std::fmt::Debug for TablesSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TablesSettings").field("cache_bytes", &self.cache_bytes).finish_non_exhaustive()
    }
}

impl TablesSettings {
    /// Checks the merged text; `None` if no tables are named.
    pub(super) fn read(reader: &Reader<'_>, environment: &Environment) -> Result<Option<Self>, ConfigError> {
        let lines = |key| reader.parse(key, |text| Ok(lines(text))).map(Option::unwrap_or_default);
        let catalogs: Vec<String> = [lines("catalog")?, lines("table")?].concat();
        let only = reader.always("tables-only", text::switch)?;
        if catalogs.is_empty() {
            let typed = matches!(reader.origin("catalog-option"), Some(Origin::Flag(_)));
            if only || typed {
                let message = "no tables are named: give --catalog or --table".to_owned();
                return Err(ConfigError::Missing { message });
            }
            return Ok(None);
        }
        let options = |text: &str| lines_of(text).map(|text| option(text, environment)).collect();
        let (poll, poll_idle) =
            (reader.always("tables-poll", pause)?, reader.always("tables-poll-idle", pause)?);
        if poll > poll_idle {
            let (poll, idle) = (text::show_duration(poll), text::show_duration(poll_idle));
            let message = format!("tables-poll is longer than tables-poll-idle: {poll} and {idle}");
            return Err(ConfigError::Conflict { message });
        }
        let token = reader.parse("tables-hints-token", |text| token(text, environment))?;
        let hints = match (reader.text("tables-hints")?, token) {
            (Some(address), token) => Some(HintsSettings { address, token }),
            (None, None) => None,
            (None, Some(_)) => {
                let message =
                    "tables-hints-token without an address to take hints at: give tables-hints".to_owned();
                return Err(ConfigError::Conflict { message });
            }
        };
        Ok(Some(Self {
            catalogs,
            options: reader.parse("catalog-option", options)?.unwrap_or_default(),
            only,
            cache_bytes: reader.always("tables-cache", size)?,
            block_bytes: reader.always("tables-block", block)?,
            keep: reader.parse("keep-snapshots", keep)?.unwrap_or_default(),
            redis: reader.text("tables-redis")?,
            hints,
            poll,
            poll_idle,
            timeout: reader.always("tables-timeout", pause)?,
        }))
    }
}

fn lines_of(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty())
}

fn lines(text: &str) -> Vec<String> {
    lines_of(text).map(str::to_owned).collect()
}

fn size(text: &str) -> Result<u64, String> {
    let size = text.parse::<ByteSize>().map(|size| size.as_u64()).ok().filter(|size| *size > 0);
    size.ok_or_else(|| format!("expected a size such as 500MB or 10GiB: {text}"))
}

/// The smallest and the largest block of a cache, in bytes.
const BLOCK_BYTES: std::ops::RangeInclusive<u64> = 4096..=64 << 20;

/// What the cache takes for a block.
fn block(text: &str) -> Result<u64, String> {
    let may = |size: &u64| size.is_power_of_two() && BLOCK_BYTES.contains(size);
    let size = text.parse::<ByteSize>().map(|size| size.as_u64()).ok().filter(may);
    size.ok_or_else(|| format!("expected a power of two between 4KiB and 64MiB, such as 256KiB: {text}"))
}

/// A duration that is not zero.
fn pause(text: &str) -> Result<Duration, String> {
    match text::duration(text)? {
        Duration::ZERO => Err("must be longer than zero".to_owned()),
        pause => Ok(pause),
    }
}

/// Numbers, ages and sizes, one of each at most.
fn keep(text: &str) -> Result<KeepVersions, String> {
    let mut keep = KeepVersions::default();
    for text in lines_of(text) {
        let before = if let Ok(count) = text.parse::<u64>() {
            keep.count.replace(count.max(1))
        } else if let Ok(Some(age)) = text::age(text) {
            keep.age_s.replace(age.as_secs())
        } else if let Ok(size) = size(text) {
            keep.bytes.replace(size)
        } else {
            return Err(format!("expected a number, an age such as 7d, or a size such as 500MB: {text}"));
        };
        if before.is_some() {
            return Err(format!("the same kind of limit twice: {text}"));
        }
    }
    Ok(keep)
}

/// `NAME.KEY=VALUE`. The text is withheld from errors: it may be a secret.
fn option(text: &str, environment: &Environment) -> Result<(String, String, String), String> {
    let parsed = text.split_once('=').and_then(|(name, value)| {
        let (catalog, key) = name.split_once('.')?;
        (!catalog.is_empty() && !key.is_empty()).then_some((catalog, key, value))
    });
    let Some((catalog, key, value)) = parsed else {
        return Err("an option of a catalog is NAME.KEY=VALUE, as in prod.warehouse=main".to_owned());
    };
    let found = elsewhere(value, environment).map_err(|why| format!("option {catalog}.{key}: {why}"))?;
    Ok((catalog.to_owned(), key.to_owned(), found.unwrap_or_else(|| value.to_owned())))
}

/// A value that stands in a variable or in a file; `None` if this is not where it stands, but the value itself.
fn elsewhere(value: &str, environment: &Environment) -> Result<Option<String>, String> {
    if let Some(variable) = value.strip_prefix(FROM_ENVIRONMENT) {
        let value = environment.get(variable).and_then(|value| value.to_str());
        let none = || format!("the environment has no such variable: {}", variable.escape_debug());
        return value.map(|value| Some(value.to_owned())).ok_or_else(none);
    }
    let Some(path) = value.strip_prefix(FROM_FILE).filter(|path| !path.starts_with("//")) else {
        return Ok(None);
    };
    let read = std::fs::read_to_string(path);
    Ok(Some(read.map_err(|e| format!("cannot read its file: {path}: {e}"))?.trim_end().to_owned()))
}

/// A token is never typed: lists of processes show what is.
fn token(text: &str, environment: &Environment) -> Result<String, String> {
    match elsewhere(text, environment)? {
        Some(token) if !token.is_empty() => Ok(token),
        Some(_) => Err("the token is empty".to_owned()),
        None => Err("expected where the token is: env:VARIABLE or file:PATH".to_owned()),
    }
}

/// What may be shown of a value that may hold secrets: options of catalogs by their names, URLs without passwords.
pub(super) fn masked(key: &str, text: &str) -> String {
    let shown = |line: &str| match (key, line.split_once('=')) {
        ("catalog-option", Some((name, value)))
            if !value.starts_with(FROM_ENVIRONMENT) && !value.starts_with(FROM_FILE) =>
        {
            format!("{name}=…")
        }
        ("catalog-option", None) => "…".to_owned(),
        ("tables-hints-token", _) if !line.starts_with(FROM_ENVIRONMENT) && !line.starts_with(FROM_FILE) => {
            "…".to_owned()
        }
        _ => without_password(line),
    };
    lines_of(text).map(shown).collect::<Vec<_>>().join("\n")
}

fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        None => url.to_owned(),
        Some((user, host)) => {
            let user = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}:…@{host}{path}")
        }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;

    #[test]
    fn options_are_named_by_catalog_and_key() {
        let environment = Environment::of(false, [("TOKEN", "secret")]);
        let read = |text: &str| option(text, &environment).expect("an option");
        let own = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(read("prod.warehouse=a=b"), own("prod", "warehouse", "a=b"));
        assert_eq!(read("p.header.X-Y=1"), own("p", "header.X-Y", "1"));
        assert_eq!(
            read("p.uri=file:///wh"),
            own("p", "uri", "file:///wh"),
            "a location, not a file to be read"
        );
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "secret\n").expect("writes");
        assert_eq!(read(&format!("p.token=file:{}", file.path().display())), own("p", "token", "secret"));
        assert_eq!(read("p.token=env:TOKEN"), own("p", "token", "secret"));
        for text in ["secret", "secret=x", ".secret=x", "secret.=x"] {
            let error = option(text, &environment).expect_err("no option");
            assert!(error.contains("NAME.KEY=VALUE") && !error.contains("secret"), "{error}");
        }
        assert!(option("p.token=env:NO_SUCH", &environment).is_err());
        assert_eq!(token("env:TOKEN", &environment).as_deref(), Ok("secret"));
        assert_eq!(token(&format!("file:{}", file.path().display()), &environment).as_deref(), Ok("secret"));
        let typed = token("secret", &environment).expect_err("typed");
        assert!(typed.contains("env:VARIABLE") && !typed.contains("secret"), "{typed}");
    }

    #[test]
    fn versions_are_kept_by_number_age_and_size() {
        assert_eq!(keep("").expect("nothing"), KeepVersions::default());
        let all = KeepVersions { count: Some(3), age_s: Some(7 * 86_400), bytes: Some(500_000_000) };
        assert_eq!(keep("3\n7d\n500MB").expect("limits"), all);
        assert_eq!(keep("0").expect("the newest").count, Some(1));
        for wrong in ["x", "3\n4", "1d\n1w", "-1"] {
            assert!(keep(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let options = "p.token=secret\np.other=env:TOKEN\nsecret";
        assert_eq!(masked("catalog-option", options), "p.token=…\np.other=env:TOKEN\n…");
        assert_eq!(
            masked("catalog", "a=sql:postgres://u:secret@h/d\nb=hadoop:s3://bucket/wh"),
            "a=sql:postgres://u:…@h/d\nb=hadoop:s3://bucket/wh"
        );
        assert_eq!(masked("tables-hints-token", "secret"), "…");
        assert_eq!(masked("tables-hints-token", "env:TOKEN"), "env:TOKEN");
        assert_eq!(masked("tables-redis", "redis://:se@cret@h:1"), "redis://:…@h:1");
    }
}
