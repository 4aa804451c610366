//! The flags of a mount that shows Iceberg tables.
use crate::config::text::age;
use crate::config::{KeepVersions, TablesSettings};
use crate::{Error, ErrorKind, Result};
use bytesize::ByteSize;

/// What begins the value of an option that stands elsewhere.
const FROM_ENVIRONMENT: &str = "env:";
const FROM_FILE: &str = "file:";

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Iceberg tables")]
pub struct TablesArgs {
    /// Show the tables of this catalog, read-only: NAME=rest:http://…, NAME=sql:sqlite:///PATH,
    /// NAME=sql:postgres://…, NAME=hadoop:s3://BUCKET/PATH or NAME=hadoop:file:///PATH; may be repeated
    #[arg(long, value_name = "NAME=KIND:…")]
    catalog: Vec<String>,
    /// Show one table that no catalog has, by its location: NAME=s3://BUCKET/PATH
    #[arg(long, value_name = "NAME=LOCATION")]
    table: Vec<String>,
    /// A property of a catalog, such as NAME.warehouse=…; a secret as NAME.token=env:VARIABLE or =file:PATH
    #[arg(long, value_name = "NAME.KEY=VALUE")]
    catalog_option: Vec<String>,
    /// Show tables and nothing else
    #[arg(long)]
    tables_only: bool,
    /// The most bytes of tables on the local disk [default: 10GiB]
    #[arg(long, value_name = "SIZE", default_value = "10GiB", hide_default_value = true)]
    tables_cache: ByteSize,
    /// Which older versions of a table stay readable for who has opened one: so many (16), those of so long ago (12h,
    /// 7d, 8w), or until their metadata has so many bytes (500MB); several of these: what all permit
    #[arg(long, value_name = "NUMBER|AGE|SIZE")]
    keep_snapshots: Vec<String>,
    /// Ask this Redis before the object store, as redis[s]://HOST:PORT
    #[arg(long, value_name = "URL", env = "ICECACHE_REDIS", hide_env_values = true)]
    tables_redis: Option<String>,
}

impl TablesArgs {
    /// What was asked for; `None` if no table is to be shown.
    pub fn settings(&self) -> Result<Option<TablesSettings>> {
        let invalid = |message: String| Err(Error::new(ErrorKind::Invalid, message));
        let catalogs: Vec<String> = self.catalog.iter().chain(&self.table).cloned().collect();
        if catalogs.is_empty() {
            if self.tables_only || !self.catalog_option.is_empty() {
                return invalid("no tables are named: give --catalog or --table".into());
            }
            return Ok(None);
        }
        if !self.tables_only {
            return invalid(
                "tables are shown by a mount of their own so far: add --tables-only, or leave --catalog and \
                 --table out"
                    .into(),
            );
        }
        let options = self.catalog_option.iter().map(|text| option(text)).collect::<Result<_>>()?;
        Ok(Some(TablesSettings {
            catalogs,
            options,
            cache_bytes: self.tables_cache.as_u64(),
            keep: keep(&self.keep_snapshots)?,
            redis: self.tables_redis.clone(),
        }))
    }
}

/// A number, an age or a size, each at most once.
fn keep(texts: &[String]) -> Result<KeepVersions> {
    let mut keep = KeepVersions::default();
    for text in texts {
        let before = if let Ok(count) = text.parse::<u64>() {
            keep.count.replace(count.max(1))
        } else if let Ok(Some(age)) = age(text) {
            keep.age_s.replace(age.as_secs())
        } else if let Ok(size) = text.parse::<ByteSize>() {
            keep.bytes.replace(size.as_u64())
        } else {
            let message = format!("expected a number, an age such as 7d, or a size such as 500MB: {text}");
            return Err(Error::new(ErrorKind::Invalid, message));
        };
        if before.is_some() {
            let message = format!("--keep-snapshots says the same kind of limit twice: {text}");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
    }
    Ok(keep)
}

/// `NAME.KEY=VALUE`. The text is withheld from errors: it may be a secret.
fn option(text: &str) -> Result<(String, String, String)> {
    let parsed = text.split_once('=').and_then(|(name, value)| {
        let (catalog, key) = name.split_once('.')?;
        (!catalog.is_empty() && !key.is_empty()).then_some((catalog, key, value))
    });
    let Some((catalog, key, value)) = parsed else {
        let message = "an option of a catalog is NAME.KEY=VALUE, as in prod.warehouse=main";
        return Err(Error::new(ErrorKind::Invalid, message));
    };
    let named = |what: String| format!("option {catalog}.{key}: {what}");
    let value = if let Some(variable) = value.strip_prefix(FROM_ENVIRONMENT) {
        std::env::var(variable).map_err(|_| {
            let message = named(format!("the environment has no such variable: {}", variable.escape_debug()));
            Error::new(ErrorKind::Invalid, message)
        })?
    } else if let Some(path) = value.strip_prefix(FROM_FILE).filter(|path| !path.starts_with("//")) {
        let read = std::fs::read_to_string(path);
        read.map_err(|e| Error::io(named("cannot read its file".into()), e))?.trim_end().to_owned()
    } else {
        value.to_owned()
    };
    Ok((catalog.to_owned(), key.to_owned(), value))
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;

    #[test]
    fn options_are_named_by_catalog_and_key() {
        let read = |text: &str| option(text).expect("an option");
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
        assert_eq!(read("p.path=env:PATH").2, std::env::var("PATH").expect("a path"));
    }

    #[test]
    fn versions_are_kept_by_number_age_and_size() {
        let read = |texts: &[&str]| keep(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!(read(&[]).expect("nothing"), KeepVersions::default());
        let all = KeepVersions { count: Some(3), age_s: Some(7 * 86_400), bytes: Some(500_000_000) };
        assert_eq!(read(&["3", "7d", "500MB"]).expect("limits"), all);
        assert_eq!(read(&["0"]).expect("the newest").count, Some(1));
        for wrong in [&["x"][..], &["3", "4"], &["1d", "1w"], &["-1"]] {
            assert_eq!(read(wrong).expect_err("no limits").kind(), ErrorKind::Invalid);
        }
    }

    #[test]
    fn what_is_none_is_refused_and_not_shown() {
        for text in ["secret", "secret=x", ".secret=x", "secret.=x"] {
            let error = option(text).expect_err("no option").to_string();
            assert!(error.contains("NAME.KEY=VALUE") && !error.contains("secret"), "{error}");
        }
        assert!(option("p.token=env:ICECACHE_TEST_NO_SUCH").is_err());
    }
}
