//! `icecache cache get`, `put` and `rm`.
use super::name::{KeyText, Typing};
use super::{CacheArgs, CacheDir, absent, damaged, named, with_cache};
use crate::cache::{EntryName, File, Inserted, Key, Removed};
use crate::cli::output::{bytes, safe_bytes};
use crate::cli::{Context, Exit};
use crate::{Error, ErrorKind, Result};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Bytes that are copied at once.
const PIECE: usize = 1 << 20;

#[derive(Debug, clap::Args)]
pub struct Get {
    #[command(flatten)]
    cache: CacheDir,
    #[command(flatten)]
    typing: Typing,
    /// The key of a file
    key: OsString,
    /// Write it here; must not exist [default: stdout]
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct Put {
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    typing: Typing,
    /// The key it will have
    key: OsString,
    /// The file to copy, or '-' for stdin
    file: PathBuf,
}

#[derive(Debug, clap::Args)]
pub struct Rm {
    #[command(flatten)]
    cache: CacheDir,
    #[command(flatten)]
    typing: Typing,
    /// Keys of files, or of objects: all their versions
    #[arg(required = true)]
    keys: Vec<OsString>,
}

impl Get {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let config = self.cache.unlimited(context)?;
        let (to, key) = (self.to.clone(), self.typing.bytes(&self.key));
        let name = key.clone();
        let file = with_cache(config, &context.output, |cache| async move {
            let Some(file) = cache.look_up_file(&name).await? else {
                return Err(match damaged(&cache) {
                    0 => not_a_file(&name, !named(&cache, &name).is_empty()),
                    _ => thrown_out(&name),
                });
            };
            match &to {
                Some(path) => Target::create(path)?.take(&file)?,
                None => copy(&file, &mut std::io::stdout().lock(), Path::new("stdout"))?,
            }
            Ok(file)
        })?;
        // Without --to stdout has the content, and nothing else.
        if self.to.is_some() && context.output.json {
            context.output.value(&Told::of(&key, &file))?;
        }
        Ok(Exit::Done)
    }
}

fn thrown_out(name: &[u8]) -> Error {
    let message =
        format!("there is no such entry any more, damaged ones were thrown out: {}", safe_bytes(name));
    Error::new(ErrorKind::Corrupt, message)
}

fn not_a_file(name: &[u8], is_object: bool) -> Error {
    if !is_object {
        return absent(name);
    }
    let message = format!("this is no file but an object of a remote: {}", safe_bytes(name));
    Error::new(ErrorKind::NotFound, message)
}

/// A file that is being written. Unless all of it is there it goes with this.
struct Target<'a> {
    path: &'a Path,
    file: std::fs::File,
    is_whole: bool,
}

impl<'a> Target<'a> {
    fn create(path: &'a Path) -> Result<Self> {
        let file = std::fs::File::create_new(path).map_err(|e| written(path, e))?;
        Ok(Self { path, file, is_whole: false })
    }

    fn take(mut self, file: &File) -> Result<()> {
        copy(file, &mut self.file, self.path)?;
        self.is_whole = true;
        Ok(())
    }
}

impl Drop for Target<'_> {
    fn drop(&mut self) {
        if !self.is_whole {
            let _gone_already = std::fs::remove_file(self.path);
        }
    }
}

fn copy(file: &File, out: &mut dyn Write, name: &Path) -> Result<()> {
    let mut at = 0;
    while at < file.size() {
        let piece = file.read_blocking(at, PIECE)?;
        at += piece.len() as u64;
        out.write_all(&piece).map_err(|e| written(name, e))?;
    }
    out.flush().map_err(|e| written(name, e))
}

/// A file that was put or got.
#[derive(Debug, serde::Serialize)]
struct Told {
    #[serde(flatten)]
    key: KeyText,
    /// In bytes.
    size: u64,
    /// BLAKE3.
    checksum: Option<String>,
}

impl Told {
    fn of(key: &[u8], file: &File) -> Self {
        let checksum = file.checksum().map(|digest| blake3::Hash::from(digest).to_hex().to_string());
        Self { key: KeyText::of(key), size: file.size(), checksum }
    }
}

fn written(path: &Path, e: std::io::Error) -> Error {
    Error::io(format!("cannot write to {}", path.display()), e)
}

impl Put {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let config = self.cache.config(context)?;
        let key = Key::new(self.typing.bytes(&self.key))?;
        let name = key.clone();
        let inserted = with_cache(config, &context.output, |cache| async move {
            if self.file.as_os_str() != "-" {
                return Ok(cache.insert_copy(&key, &self.file).await?);
            }
            let pieces = futures::stream::try_unfold(std::io::stdin(), |mut stdin| async move {
                let mut piece = vec![0; PIECE];
                match std::io::Read::read(&mut stdin, &mut piece)? {
                    0 => Ok::<_, std::io::Error>(None),
                    n => {
                        piece.truncate(n);
                        Ok(Some((bytes::Bytes::from(piece), stdin)))
                    }
                }
            });
            let options = crate::cache::FillOptions { size: None, filler: "put".into() };
            Ok(cache.insert_stream(&key, options, pieces).await?)
        })?;
        match inserted {
            Inserted::New(file) => {
                if context.output.json {
                    context.output.value(&Told::of(name.as_bytes(), &file))?;
                }
                let text = safe_bytes(name.as_bytes());
                context.output.say(&format!("{text} is there, {}", bytes(file.size())));
                Ok(Exit::Done)
            }
            Inserted::There(_) | Inserted::Filling(_) => {
                let text = safe_bytes(name.as_bytes());
                let message = format!("the key is there already ('icecache cache rm' first): {text}");
                Err(Error::new(ErrorKind::Conflict, message))
            }
        }
    }
}

impl Rm {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let config = self.cache.unlimited(context)?;
        // Named twice is meant once.
        let keys: BTreeSet<_> = self.keys.iter().map(|key| self.typing.bytes(key)).collect();
        let named_all = keys.len();
        let missing = with_cache(config, &context.output, |cache| async move {
            let mut missing = Vec::new();
            for key in keys {
                let found = named(&cache, &key);
                if found.is_empty() {
                    missing.push(key);
                }
                for info in found {
                    let _removed: Removed = match &info.name {
                        EntryName::File(key) => cache.remove(key).await,
                        EntryName::Object(id) => cache.remove_object(id).await,
                    };
                }
            }
            Ok(missing)
        })?;
        if context.output.json {
            let removed = named_all - missing.len();
            let missing: Vec<_> = missing.iter().map(|key| safe_bytes(key)).collect();
            context.output.value(&serde_json::json!({ "removed": removed, "missing": missing }))?;
        }
        match missing.first() {
            Some(key) => Err(absent(key)),
            None => Ok(Exit::Done),
        }
    }
}
