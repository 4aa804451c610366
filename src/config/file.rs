//! The configuration file: top-level defaults and `[mount."/dir"]` sections, all keys checked.
use super::merge::{Environment, Origin, Value};
use super::{ConfigError, keys};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A larger file is no configuration.
pub const FILE_MAX_BYTES: u64 = 1 << 20;

/// One section: key → (text, line).
type Section = BTreeMap<&'static str, (String, usize)>;

/// A parsed file; the default is an empty one.
#[derive(Debug, Clone, Default)]
pub struct ConfigFile {
    path: PathBuf,
    top: Section,
    mounts: BTreeMap<PathBuf, Section>,
}

impl ConfigFile {
    /// Finds and reads the file: the explicit one, `$ICECACHE_CONFIG`, the user's, the system's. The
    /// first two must exist; without the others there are simply no values.
    pub fn load(explicit: Option<&Path>, environment: &Environment) -> Result<Self, ConfigError> {
        let named =
            explicit.map(Path::to_owned).or_else(|| environment.get("ICECACHE_CONFIG").map(PathBuf::from));
        if let Some(path) = named {
            let text =
                read(&path).map_err(|source| ConfigError::Unreadable { path: path.clone(), source })?;
            return Self::parse(&path, &text);
        }
        for path in Self::default_places(environment) {
            match read(&path) {
                Ok(text) => return Self::parse(&path, &text),
                Err(e)
                    if matches!(
                        e.kind(),
                        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                    ) => {}
                Err(source) => return Err(ConfigError::Unreadable { path, source }),
            }
        }
        Ok(Self::default())
    }

    /// Where the file is looked for when nobody names one, first to last.
    pub fn default_places(environment: &Environment) -> Vec<PathBuf> {
        let user = environment
            .path("XDG_CONFIG_HOME")
            .or_else(|| environment.path("HOME").map(|home| home.join(".config")));
        user.into_iter().chain([PathBuf::from("/etc")]).map(|dir| dir.join("icecache/config.toml")).collect()
    }

    /// Parses TOML text; `path` is for messages.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let source = Source { path, text };
        let table = DeTable::parse(text).map_err(|e| {
            source.error(&e.span().unwrap_or(0..0), format!("configuration is not TOML: {}", e.message()))
        })?;
        let mut file = Self { path: path.to_owned(), ..Self::default() };
        for (key, value) in table.get_ref() {
            if key.get_ref().as_ref() != "mount" {
                source.insert(&mut file.top, key.get_ref(), &key.span(), value)?;
                continue;
            }
            let DeValue::Table(mounts) = value.get_ref() else {
                return Err(source.error(&key.span(), "mount must be a section: [mount.\"/dir\"]"));
            };
            let mut lines = BTreeMap::new();
            for (dir, section) in mounts {
                let DeValue::Table(entries) = section.get_ref() else {
                    return Err(source.error(&dir.span(), "mount must be a section: [mount.\"/dir\"]"));
                };
                let place = PathBuf::from(dir.get_ref().as_ref());
                if !place.is_absolute() {
                    return Err(source.error(&dir.span(), "directory of a mount section must be absolute"));
                }
                let mut parsed = Section::new();
                for (key, value) in entries {
                    source.insert(&mut parsed, key.get_ref(), &key.span(), value)?;
                }
                // Collected from components, so that a trailing slash makes no difference.
                let place: PathBuf = place.components().collect();
                let line = source.line(&dir.span());
                if let Some(other) = lines.insert(place.clone(), line) {
                    let message =
                        format!("{} has a section already, at line {}", place.display(), line.min(other));
                    return Err(source.error_at(line.max(other), message));
                }
                file.mounts.insert(place, parsed);
            }
        }
        Ok(file)
    }

    /// The file's word on a key for a directory: its own section first.
    pub fn value(&self, key: &str, dir: Option<&Path>) -> Option<Value<OsString>> {
        let own = dir.and_then(|d| self.mounts.get(d)).and_then(|section| section.get(key));
        own.or_else(|| self.top.get(key)).map(|(text, line)| Value {
            value: text.into(),
            origin: Origin::File { path: self.path.clone(), line: *line },
        })
    }

    /// The directories that have a section.
    pub fn mounts(&self) -> impl Iterator<Item = &Path> {
        self.mounts.keys().map(PathBuf::as_path)
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    let refused = |why| std::io::Error::new(std::io::ErrorKind::InvalidInput, why);
    let mut text = Vec::new();
    let read = std::fs::File::open(path)?.take(FILE_MAX_BYTES + 1).read_to_end(&mut text)?;
    if read as u64 > FILE_MAX_BYTES {
        return Err(refused("file is larger than 1 MiB"));
    }
    String::from_utf8(text).map_err(|_| refused("file is not UTF-8"))
}

/// Text and path, to turn byte positions into lines.
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        1 + before.iter().filter(|b| **b == b'\n').count()
    }

    fn error(&self, span: &Range<usize>, message: impl Into<String>) -> ConfigError {
        self.error_at(self.line(span), message)
    }

    fn error_at(&self, line: usize, message: impl Into<String>) -> ConfigError {
        ConfigError::Syntax { path: self.path.to_owned(), line, message: message.into() }
    }

    fn insert(
        &self,
        section: &mut Section,
        name: &str,
        span: &Range<usize>,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<(), ConfigError> {
        let Some(key) = keys::find(name) else {
            let hint = match keys::nearest(name) {
                Some(near) => format!(" (nearest: {})", near.name),
                None => " (the command 'icecache config' lists all)".to_owned(),
            };
            return Err(self.error(span, format!("unknown key{hint}: {name}")));
        };
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Boolean(on) => if *on { "on" } else { "off" }.to_owned(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
            DeValue::Float(number) => number.as_str().to_owned(),
            DeValue::Array(list) => {
                let words: Option<Vec<&str>> = list.iter().map(|item| item.get_ref().as_str()).collect();
                words
                    .ok_or_else(|| self.error(span, format!("list must hold strings only: {name}")))?
                    .join(if key.list { "\n" } else { "," })
            }
            other => return Err(self.error(span, format!("{} is no value of: {name}", other.type_str()))),
        };
        section.insert(key.name, (text, self.line(span)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ConfigFile, ConfigError> {
        ConfigFile::parse(Path::new("/etc/c.toml"), text)
    }

    #[test]
    fn the_section_of_a_mount_wins_over_the_top() {
        let file =
            parse("debounce = \"2s\"\nlevel = 5\n\n[mount.\"/tmp/\"]\ndebounce = \"3s\"\n").expect("valid");
        let at = |key, dir: Option<&str>| file.value(key, dir.map(Path::new)).map(|v| v.value);
        assert_eq!(at("debounce", Some("/tmp")), Some("3s".into()));
        assert_eq!(at("debounce", Some("/var")), Some("2s".into()));
        assert_eq!(at("level", Some("/tmp")), Some("5".into()));
        let origin = file.value("debounce", Some(Path::new("/tmp"))).map(|v| v.origin.to_string());
        assert_eq!(origin.as_deref(), Some("file /etc/c.toml:5"));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_neighbour() {
        let error = parse("level = 3\n\n[mount.\"/tmp\"]\ndebouce = \"1s\"\n").expect_err("typo");
        assert_eq!(error.to_string(), "unknown key (nearest: debounce): debouce: /etc/c.toml line 4");
        let error = parse("mount = 3").expect_err("no section");
        assert!(error.to_string().contains("line 1"), "{error}");
        let error = parse("level = 3\nremote = [1").expect_err("no TOML");
        assert!(error.to_string().contains("line 2"), "{error}");
        assert!(parse("[mount.tmp]\nlevel = 1").is_err(), "relative directory");
        assert!(parse("level = 1979-05-27").is_err(), "date");
    }

    #[test]
    fn a_directory_has_one_section() {
        for (first, second) in [("/d", "/d/"), ("/d/", "/d"), ("//d", "/./d")] {
            let error =
                parse(&format!("[mount.\"{first}\"]\nlevel = 1\n\n[mount.\"{second}\"]\nname = \"n\"\n"));
            let error = error.expect_err("twice").to_string();
            assert_eq!(error, "/d has a section already, at line 1: /etc/c.toml line 4");
        }
        assert!(parse("[mount.\"/d\"]\n[mount.\"/d/e\"]\n").is_ok());
    }

    #[test]
    fn a_named_file_must_exist_and_the_places_follow_xdg() {
        let environment =
            Environment::of(false, [("HOME", "/home/a"), ("ICECACHE_CONFIG", "/nonexistent/c.toml")]);
        assert!(matches!(ConfigFile::load(None, &environment), Err(ConfigError::Unreadable { .. })));
        let places = ConfigFile::default_places(&environment);
        assert_eq!(
            places,
            [PathBuf::from("/home/a/.config/icecache/config.toml"), "/etc/icecache/config.toml".into()]
        );
    }
}
