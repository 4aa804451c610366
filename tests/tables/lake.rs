//! A mount of the tables that Spark and PyIceberg wrote, in an S3 of this process.
use crate::cloud::Cloud;
use crate::harness::lab::detach;
use crate::harness::{Finished, LIMIT, run};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub const TABLES: &str = "iceberg/db";

/// The tables that Spark and PyIceberg wrote, by key.
fn fixtures(bucket: &str) -> BTreeMap<String, Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("iceberg/tests/fixtures/tables.tar.zst");
    let mut tar = Command::new("tar");
    run(tar.arg("-C").arg(dir.path()).args(["--zstd", "-xf"]).arg(archive), LIMIT).must("unpack the tables");
    let (root, mut objects) = (dir.path().join("s3").join(bucket), BTreeMap::new());
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let key = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                objects.insert(key, fs::read(path).unwrap());
            }
        }
    }
    objects
}

/// A mount of tables; unmounted when dropped.
pub struct Lake {
    pub cloud: Cloud,
    pub dir: PathBuf,
    pub objects: BTreeMap<String, Vec<u8>>,
}

impl Lake {
    /// The tables but for those objects that `without` names, not mounted yet.
    pub fn prepare(without: impl Fn(&str) -> bool) -> Self {
        let (cloud, objects) = (Cloud::prepare(), fixtures("lake"));
        let there = objects.clone().into_iter().filter(|(key, _)| !without(key));
        cloud.server.add_bucket("lake", there);
        cloud.server.add_bucket("other", fixtures("other"));
        let dir = cloud.lab.root().join("tables");
        fs::create_dir(&dir).unwrap();
        Self { cloud, dir, objects }
    }

    pub fn mount_with(&self, options: &[&str]) -> Finished {
        self.mount_at(&self.dir, "tables-state", options)
    }

    /// Another directory, with a state of its own.
    pub fn mount_at(&self, dir: &Path, state: &str, options: &[&str]) -> Finished {
        let endpoint = self.cloud.server.endpoint();
        let state = self.cloud.lab.root().join(state);
        let mut args: Vec<&OsStr> = vec!["mount".as_ref(), dir.as_os_str(), "--state-dir".as_ref()];
        args.push(state.as_os_str());
        let s3 = ["--tables-only", "--s3-path-style", "--s3-endpoint", &endpoint];
        args.extend(s3.iter().chain(options).map(OsStr::new));
        self.cloud.lab.call(args)
    }

    pub fn mount(&self) {
        self.mount_with(&["--catalog", "lake=hadoop:s3://lake/wh"]).must("mount");
    }

    pub fn unmount(&self) {
        self.cloud.lab.call([OsStr::new("unmount"), self.dir.as_os_str()]).must("unmount");
    }

    pub fn table(&self, name: &str) -> PathBuf {
        self.dir.join(TABLES).join(name)
    }

    /// `icecache tables …` on the mount.
    pub fn tables(&self, verb: &str, options: &[&str]) -> Finished {
        let mut args = vec!["--json".as_ref(), "tables".as_ref(), verb.as_ref(), self.dir.as_os_str()];
        args.extend(options.iter().map(OsStr::new));
        self.cloud.lab.call(args)
    }

    /// What it prints.
    pub fn told(&self, verb: &str, options: &[&str]) -> Value {
        serde_json::from_str(&self.tables(verb, options).must(verb).stdout).unwrap()
    }

    /// Puts objects of the fixtures into the store.
    pub fn commit(&self, keys: &[&str]) {
        keys.iter().for_each(|key| self.cloud.server.put_into("lake", key, self.objects[*key].clone()));
    }

    /// The deletes of the table `orc_deletes` are no ORC any more, so it cannot be shown.
    pub fn break_deletes(&self) {
        let of_it =
            |key: &&String| key.starts_with("wh/db/orc_deletes/data/") && key.ends_with("-deletes.orc");
        self.cloud.server.put_into("lake", self.objects.keys().find(of_it).unwrap(), "something else");
    }

    pub fn stats(&self) -> Value {
        let asked = self.cloud.lab.call([OsStr::new("stats"), self.dir.as_os_str(), OsStr::new("--json")]);
        serde_json::from_str(&asked.must("stats").stdout).unwrap()
    }

    /// The process that shows the tables.
    pub fn pid(&self) -> u32 {
        let asked = self.cloud.lab.call([OsStr::new("status"), self.dir.as_os_str(), OsStr::new("--json")]);
        let status: Value = serde_json::from_str(&asked.must("status").stdout).unwrap();
        status["pid"].as_u64().unwrap() as u32
    }

    pub fn fetches(&self) -> u64 {
        self.stats()["cache"]["totals"]["fetches"].as_u64().unwrap()
    }
}

impl Drop for Lake {
    fn drop(&mut self) {
        detach(&self.dir);
    }
}

pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub fn files(dir: &Path) -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    files
}
