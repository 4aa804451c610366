//! The merge of the four sources, as text with origins.
use super::keys::{KEYS, Key};
use super::{ConfigError, ConfigFile, keys};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The command line: the flag.
    Flag(String),
    /// The environment: the variable.
    Environment(String),
    /// The configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// Built in, or derived from the directory or the user.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "flag --{flag}"),
            Self::Environment(variable) => write!(f, "environment {variable}"),
            Self::File { path, line } => write!(f, "file {}:{line}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A value and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value<T> {
    /// The value.
    pub value: T,
    /// Its source.
    pub origin: Origin,
}

impl<T> Value<T> {
    /// A value nobody gave.
    pub fn default(value: T) -> Self {
        Self { value, origin: Origin::Default }
    }

    /// Another value from the same place.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Value<U> {
        Value { value: f(self.value), origin: self.origin }
    }
}

impl<T> Deref for Value<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// The environment as a value, so that tests supply their own and two tests never share one.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    variables: BTreeMap<OsString, OsString>,
    /// Whether this process is root; decides default places.
    pub root: bool,
}

impl Environment {
    /// The environment of this process.
    pub fn of_process() -> Self {
        Self { variables: std::env::vars_os().collect(), root: rustix::process::geteuid().is_root() }
    }

    /// An environment of the given variables.
    pub fn of<'a>(root: bool, variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self { variables: variables.into_iter().map(|(k, v)| (k.into(), v.into())).collect(), root }
    }

    /// A variable; an empty one counts as unset.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(OsStr::new(name)).filter(|v| !v.is_empty()).map(OsString::as_os_str)
    }

    /// A variable as an absolute path (the XDG rule: a relative one counts as unset).
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from).filter(|p| p.is_absolute())
    }
}

/// Every key that some source gave, with the winner's origin; defaults included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Merged {
    values: BTreeMap<&'static str, Value<OsString>>,
}

impl Merged {
    /// Merges: `flags` as (key, text), the environment, and the file's sections that apply to `dir`.
    pub fn new(
        flags: impl IntoIterator<Item = (&'static str, OsString)>,
        environment: &Environment,
        file: &ConfigFile,
        dir: Option<&Path>,
    ) -> Result<Self, ConfigError> {
        let mut values = BTreeMap::new();
        for key in KEYS {
            let given = from_environment(key, environment)?.or_else(|| file.value(key.name, dir));
            let default = || key.default.map(|text| Value::default(text.into()));
            if let Some(value) = given.or_else(default) {
                values.insert(key.name, value);
            }
        }
        for (name, text) in flags {
            if let Some(key) = keys::find(name) {
                values.insert(key.name, Value { value: text, origin: Origin::Flag(name.to_owned()) });
            }
        }
        Ok(Self { values })
    }

    /// The value of a key.
    pub fn get(&self, name: &str) -> Option<&Value<OsString>> {
        self.values.get(name)
    }

    /// Fills in what was derived later (name, state directory, remote).
    pub fn derive(&mut self, name: &'static str, text: impl Into<OsString>) {
        self.values.entry(name).or_insert_with(|| Value::default(text.into()));
    }

    /// Another default than the table's.
    pub fn prefer(&mut self, name: &'static str, text: impl Into<OsString>) {
        if self.get(name).is_none_or(|value| value.origin == Origin::Default) {
            self.values.insert(name, Value::default(text.into()));
        }
    }

    /// All keys in the order of [`KEYS`], with their values where there are any; secrets are left out of these.
    pub fn rows(&self) -> impl Iterator<Item = (&'static Key, Option<Value<OsString>>)> {
        KEYS.iter().map(|key| (key, self.values.get(key.name).map(|value| shown(key, value))))
    }
}

/// The value as anybody may see it.
fn shown(key: &Key, value: &Value<OsString>) -> Value<OsString> {
    match key.name {
        "catalog" | "catalog-option" | "tables-redis" | "tables-hints-token" => {
            value.clone().map(|text| super::tables::masked(key.name, &text.to_string_lossy()).into())
        }
        _ => value.clone(),
    }
}

/// The environment's word on a key. Besides `ICECACHE_*` there are the names that the original tool
/// and the function runtime set.
fn from_environment(key: &Key, environment: &Environment) -> Result<Option<Value<OsString>>, ConfigError> {
    let variable = key.variable();
    if let Some(text) = environment.get(&variable) {
        return Ok(Some(Value { value: text.into(), origin: Origin::Environment(variable) }));
    }
    Ok(match key.name {
        "remote" => s3_variables(environment)?,
        "name" => environment.get("AWS_LAMBDA_FUNCTION_NAME").map(|text| Value {
            value: text.into(),
            origin: Origin::Environment("AWS_LAMBDA_FUNCTION_NAME".to_owned()),
        }),
        // As the server of files has it.
        "tables-redis" => environment.get("ICECACHE_REDIS").map(|text| Value {
            value: text.into(),
            origin: Origin::Environment("ICECACHE_REDIS".to_owned()),
        }),
        _ => None,
    })
}

/// `S3_BUCKET` and `S3_PREFIX`, as the original tool reads them.
fn s3_variables(environment: &Environment) -> Result<Option<Value<OsString>>, ConfigError> {
    let Some(bucket) = environment.get("S3_BUCKET") else { return Ok(None) };
    let origin = Origin::Environment("S3_BUCKET".to_owned());
    let utf8 = |text: &OsStr| {
        text.to_str().map(str::to_owned).ok_or_else(|| ConfigError::Value {
            key: "remote",
            origin: origin.clone(),
            message: "bucket and prefix must be UTF-8".to_owned(),
        })
    };
    let mut url = format!("s3://{}", utf8(bucket)?);
    if let Some(prefix) = environment.get("S3_PREFIX") {
        let prefix = utf8(prefix)?;
        let prefix = prefix.trim_matches('/');
        if !prefix.is_empty() {
            url.push('/');
            url.push_str(prefix);
        }
    }
    Ok(Some(Value { value: url.into(), origin }))
}
