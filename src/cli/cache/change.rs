//! `icecache cache get`, `put` and `rm`.
use super::{CacheArgs, CacheDir, absent, key, named, with_cache};
use crate::cache::{EntryName, File, Inserted, Removed};
use crate::cli::output::{bytes, safe};
use crate::cli::{Context, Exit};
use crate::{Error, ErrorKind, Result};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Bytes that are copied at once.
const PIECE: usize = 1 << 20;

#[derive(Debug, clap::Args)]
pub struct Get {
    #[command(flatten)]
    cache: CacheDir,
    /// The key of a file
    key: String,
    /// Write it here; must not exist [default: stdout]
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct Put {
    #[command(flatten)]
    cache: CacheArgs,
    /// The key it will have
    key: String,
    /// The file to copy, or '-' for stdin
    file: PathBuf,
}

#[derive(Debug, clap::Args)]
pub struct Rm {
    #[command(flatten)]
    cache: CacheDir,
    /// Keys of files, or of objects: all their versions
    #[arg(required = true)]
    keys: Vec<String>,
}

impl Get {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let config = self.cache.unlimited(context)?;
        let (to, text) = (self.to.clone(), self.key.clone());
        let file = with_cache(config, &context.output, |cache| async move {
            let file = cache.look_up_file(text.as_bytes()).await?.ok_or_else(|| absent(&text))?;
            let mut out: Box<dyn Write> = match &to {
                Some(path) => Box::new(std::fs::File::create_new(path).map_err(|e| written(path, e))?),
                None => Box::new(std::io::stdout().lock()),
            };
            let name = to.unwrap_or_else(|| "stdout".into());
            let mut at = 0;
            while at < file.size() {
                let piece = file.read_blocking(at, PIECE)?;
                at += piece.len() as u64;
                out.write_all(&piece).map_err(|e| written(&name, e))?;
            }
            out.flush().map_err(|e| written(&name, e))?;
            Ok(file)
        })?;
        // Without --to stdout has the content, and nothing else.
        if self.to.is_some() && context.output.json {
            context.output.value(&Told::of(&self.key, &file))?;
        }
        Ok(Exit::Done)
    }
}

/// A file that was put or got.
#[derive(Debug, serde::Serialize)]
struct Told<'a> {
    key: &'a str,
    /// In bytes.
    size: u64,
    /// BLAKE3.
    checksum: Option<String>,
}

impl<'a> Told<'a> {
    fn of(key: &'a str, file: &File) -> Self {
        let checksum = file.checksum().map(|digest| blake3::Hash::from(digest).to_hex().to_string());
        Self { key, size: file.size(), checksum }
    }
}

fn written(path: &Path, e: std::io::Error) -> Error {
    Error::io(format!("cannot write: {}", path.display()), e)
}

impl Put {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let (config, key) = (self.cache.config(context)?, key(&self.key)?);
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
                    context.output.value(&Told::of(&self.key, &file))?;
                }
                context.output.say(&format!("{} is there, {}", safe(&self.key), bytes(file.size())));
                Ok(Exit::Done)
            }
            Inserted::There(_) | Inserted::Filling(_) => {
                let message = format!("the key is there already ('icecache cache rm' first): {}", self.key);
                Err(Error::new(ErrorKind::Conflict, message))
            }
        }
    }
}

impl Rm {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let config = self.cache.unlimited(context)?;
        let keys = self.keys.clone();
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
            let removed = self.keys.len() - missing.len();
            context.output.value(&serde_json::json!({ "removed": removed, "missing": missing }))?;
        }
        match missing.first() {
            Some(key) => Err(absent(key)),
            None => Ok(Exit::Done),
        }
    }
}
