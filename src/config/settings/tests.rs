use super::*;
use crate::config::ConfigFile;

struct Case {
    temp: tempfile::TempDir,
    flags: Vec<(&'static str, OsString)>,
    variables: Vec<(&'static str, &'static str)>,
    file: &'static str,
}

impl Case {
    fn new() -> Self {
        let temp = tempfile::tempdir().expect("temp");
        std::fs::create_dir(temp.path().join("dir")).expect("mkdir");
        Self { temp, flags: Vec::new(), variables: Vec::new(), file: "" }
    }

    fn flag(mut self, key: &'static str, value: &str) -> Self {
        self.flags.push((key, value.into()));
        self
    }

    /// A path below the temporary directory as a flag.
    fn place(self, key: &'static str, below: &str) -> Self {
        let path = self.temp.path().join(below);
        self.flag(key, &path.to_string_lossy())
    }

    fn variable(mut self, name: &'static str, value: &'static str) -> Self {
        self.variables.push((name, value));
        self
    }

    fn file(mut self, text: &'static str) -> Self {
        self.file = text;
        self
    }

    fn merged(&self) -> (Merged, Environment) {
        let mut environment = Environment::of(false, self.variables.iter().copied());
        let home = self.temp.path().join("home").to_string_lossy().into_owned();
        if environment.get("HOME").is_none() {
            let with_home = self.variables.iter().copied().chain([("HOME", home.as_str())]);
            environment = Environment::of(false, with_home);
        }
        let file = ConfigFile::parse(Path::new("/c.toml"), self.file).expect("valid file");
        let dir = canonical_dir(&self.temp.path().join("dir")).expect("there");
        (Merged::new(self.flags.clone(), &environment, &file, Some(&dir)).expect("merges"), environment)
    }

    fn resolve(&self) -> Result<MountSettings, ConfigError> {
        let (mut merged, environment) = self.merged();
        MountSettings::resolve(&self.temp.path().join("dir"), &mut merged, &environment, false)
    }

    fn origin(&self, key: &str) -> Origin {
        self.merged().0.get(key).expect("set").origin.clone()
    }
}

#[test]
fn flag_beats_environment_beats_file_beats_default() {
    let case = Case::new();
    assert_eq!(case.resolve().expect("defaults").debounce, Duration::from_secs(1));
    assert_eq!(case.origin("debounce"), Origin::Default);

    let case = case.file("debounce = \"2s\"");
    assert_eq!(case.resolve().expect("file").debounce, Duration::from_secs(2));
    assert_eq!(case.origin("debounce"), Origin::File { path: "/c.toml".into(), line: 1 });

    let case = case.variable("ICECACHE_DEBOUNCE", "3s");
    assert_eq!(case.resolve().expect("environment").debounce, Duration::from_secs(3));
    assert_eq!(case.origin("debounce"), Origin::Environment("ICECACHE_DEBOUNCE".into()));

    let case = case.flag("debounce", "4s");
    assert_eq!(case.resolve().expect("flag").debounce, Duration::from_secs(4));
    assert_eq!(case.origin("debounce"), Origin::Flag("debounce".into()));
}

#[test]
fn every_default_is_valid_and_as_documented() {
    let settings = Case::new().resolve().expect("defaults");
    assert_eq!(settings.max_delay, Duration::from_secs(10));
    assert_eq!(settings.cut_deadline, Duration::from_millis(500));
    assert_eq!((settings.fuse_threads, settings.level), (2, 3));
    assert!(
        settings.remote.starts_with("file:///")
            && settings.remote.ends_with("home/.local/share/icecache/remote")
    );
    assert!(settings.state_dir.to_string_lossy().contains("/home/.local/state/icecache/"));
    assert!(settings.name.as_str().contains("dir"));
}

#[test]
fn the_original_tools_variables_name_the_remote() {
    let case = Case::new().variable("S3_BUCKET", "b").variable("S3_PREFIX", "/p/q/");
    let case = case.variable("AWS_LAMBDA_FUNCTION_NAME", "my-function");
    let settings = case.resolve().expect("valid");
    assert_eq!((settings.remote.as_str(), settings.name.as_str()), ("s3://b/p/q", "my-function"));
    let case = case.variable("ICECACHE_NAME", "other");
    assert_eq!(case.resolve().expect("valid").name.as_str(), "other");
    assert_eq!(
        Case::new().variable("S3_BUCKET", "").resolve().expect("unset").remote.split(':').next(),
        Some("file")
    );
}

#[test]
fn nothing_of_ours_may_lie_in_the_mount() {
    for (key, flag) in [("state-dir", "--state-dir"), ("backing", "--backing")] {
        for below in ["dir", "dir/deep/er", "."] {
            let error = Case::new().place(key, below).resolve().expect_err(below).to_string();
            assert!(error.contains(flag), "{error}");
        }
    }
    let case = Case::new();
    let url = format!("file://{}", case.temp.path().join("dir/remote").display());
    assert!(case.flag("remote", &url).resolve().expect_err("inside").to_string().contains("--remote"));
    // A home directory that is mounted leaves no default place for the state.
    let case = Case::new();
    let home = case.temp.path().join("dir");
    let home: &'static str = Box::leak(home.to_string_lossy().into_owned().into_boxed_str());
    assert!(case.variable("HOME", home).resolve().is_err());
    // No other place helps there.
    let (mut merged, environment) = Case::new().place("state-dir", "state").merged();
    let error =
        MountSettings::resolve(Path::new("/"), &mut merged, &environment, false).expect_err("all of it");
    assert!(error.to_string().contains("the root directory"), "{error}");
    // The state must not be saved with the backing either.
    assert!(Case::new().place("backing", "b").place("state-dir", "b/state").resolve().is_err());
    assert!(Case::new().place("backing", "b").place("state-dir", "state").resolve().is_ok());
}

#[test]
fn wrong_values_name_key_origin_and_expectation() {
    let error = Case::new().variable("ICECACHE_LEVEL", "99").resolve().expect_err("range").to_string();
    assert_eq!(error, "level (from environment ICECACHE_LEVEL): expected a number from 1 to 19: 99");
    for (key, value) in [
        ("remote", "bucket/prefix"),
        ("remote", "s3://"),
        ("remote", "file://relative"),
        ("remote", "s3://key:secret@bucket"),
        ("s3-endpoint", "localhost:9000"),
        ("s3-endpoint", "http://user:pw@host"),
        ("name", "../x"),
        ("layout", "flat"),
        ("fuse-threads", "0"),
        ("prefetch-rate", "0"),
        ("chain", "3"),
        ("keep", "0"),
        ("keep-for", "7"),
        ("debounce", "11s"),
        ("cut-deadline", "0"),
        ("unsafe-no-cas", "maybe"),
    ] {
        assert!(Case::new().flag(key, value).resolve().is_err(), "{key}={value}");
    }
    let secret = Case::new().flag("s3-endpoint", "http://user:hunter2@host").resolve().expect_err("refused");
    assert!(!secret.to_string().contains("hunter2"));
    assert!(Case::new().file("state-dir = \"relative\"").resolve().is_err());
}

#[test]
fn settings_travel_to_the_daemon_unchanged() {
    let settings = Case::new().flag("mount-flags", "nodev").flag("level", "7").resolve().expect("valid");
    let text = serde_json::to_string(&settings).expect("serializable");
    assert_eq!(serde_json::from_str::<MountSettings>(&text).expect("readable"), settings);
}

#[test]
fn tables_are_named_wherever_settings_are() {
    let case = Case::new().file(
        "tables-cache = \"1GiB\"\ntables-block = \"256KiB\"\ncatalog = [\"a=hadoop:file:///a,b\", \"b=rest:http://c\"]\n\
         catalog-option = [\"b.token=env:TOKEN\", \"b.warehouse=x,y\"]\nkeep-snapshots = [\"3\", \"7d\"]",
    );
    let case =
        case.variable("TOKEN", "secret").flag("tables-only", "on").variable("ICECACHE_REDIS", "redis://h:1");
    let settings = case.resolve().expect("valid");
    assert!(settings.is_of_tables_only());
    assert!(settings.clone().showing_tables_only().tables_dir().ends_with(place::TABLES_DIR));
    let tables = settings.tables.expect("named");
    assert_eq!(tables.catalogs, ["a=hadoop:file:///a,b", "b=rest:http://c"]);
    let option = |key: &str, value: &str| ("b".to_owned(), key.to_owned(), value.to_owned());
    assert_eq!(tables.options, [option("token", "secret"), option("warehouse", "x,y")]);
    assert_eq!(
        (tables.cache_bytes, tables.block_bytes, tables.keep.count, tables.keep.age_s),
        (1 << 30, 256 << 10, Some(3), Some(7 * 86_400))
    );
    assert_eq!((tables.poll, tables.poll_idle), (Duration::from_secs(1), Duration::from_secs(60)));
    assert_eq!(tables.redis.as_deref(), Some("redis://h:1"));
    let case = Case::new().variable("ICECACHE_CATALOG", "a=rest:http://a\nb=rest:http://b");
    let tables = case.resolve().expect("valid").tables.expect("named");
    assert_eq!((tables.catalogs.len(), tables.only), (2, false));
    assert_eq!(Case::new().file("catalog-option = [\"b.x=y\"]").resolve().expect("no catalog").tables, None);
    for (key, value) in [("tables-only", "on"), ("catalog-option", "b.x=y")] {
        assert!(Case::new().flag(key, value).resolve().is_err(), "{key}={value}");
    }
    for (key, value) in [
        ("tables-cache", "much"),
        ("tables-block", "3KiB"),
        ("tables-block", "96KiB"),
        ("tables-block", "128MiB"),
        ("tables-poll", "2m"),
        ("tables-timeout", "0"),
        ("keep-snapshots", "3\n4"),
        ("catalog-option", "secret"),
    ] {
        let case = Case::new().flag("catalog", "a=rest:http://a").flag(key, value);
        assert!(!case.resolve().expect_err(key).to_string().contains("secret"), "{key}={value}");
    }
}

/// Every TOML example of the manual is valid, and the manual names every key.
#[test]
fn the_manual_is_true() {
    let manual = include_str!("../../../docs/CONFIGURATION.md");
    let mut examples = 0;
    for block in manual.split("```toml\n").skip(1) {
        let text = block.split("```").next().expect("closed block");
        let file = ConfigFile::parse(Path::new("docs/CONFIGURATION.md"), text).expect("valid example");
        let environment = Environment::of(true, [("CATALOG_CREDENTIAL", "id:secret")]);
        for dir in file.mounts().map(Some).chain([None]) {
            let mut merged = Merged::new([("name", "x".into())], &environment, &file, dir).expect("merges");
            RemoteSettings::resolve(&mut merged, dir, &environment).expect("valid remote");
            let temp = tempfile::tempdir().expect("temp");
            MountSettings::resolve(temp.path(), &mut merged, &environment, false).expect("valid mount");
        }
        examples += 1;
    }
    assert!(examples >= 3, "{examples} examples");
    for key in crate::config::keys::KEYS {
        assert!(manual.contains(&format!("| `{}` |", key.name)), "not in the manual: {}", key.name);
        if let Some(default) = key.default.filter(|d| !d.is_empty()) {
            let row = manual.lines().find(|l| l.starts_with(&format!("| `{}` |", key.name))).expect("row");
            assert!(row.contains(&format!("`{default}`")), "wrong default in the manual: {row}");
        }
    }
}
