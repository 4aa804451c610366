//! Compression dictionaries in a remote: an object each, named by its digest, beside the layers that need it.
use crate::error::{Error, ErrorKind};
use crate::layer::Dictionary;
use crate::layer::dictionary::DICTIONARY_BYTES_MAX;
use crate::remote::{ObjectStore, RemoteError};
use crate::sync::Mutex;
use futures::StreamExt;
use std::collections::HashMap;

/// The most dictionaries that are kept; a name seldom has more than one.
const DICTIONARIES_MAX: usize = 16;

/// The key of a dictionary.
pub fn dictionary_key(digest: &[u8; 32]) -> String {
    format!("layers/{}.dict", blake3::Hash::from_bytes(*digest).to_hex())
}

/// Whether a dictionary has this key.
pub fn is_dictionary_key(key: &str) -> bool {
    let digest = key.strip_prefix("layers/").and_then(|name| name.strip_suffix(".dict"));
    digest
        .and_then(|digest| blake3::Hash::from_hex(digest).ok())
        .is_some_and(|digest| dictionary_key(digest.as_bytes()) == key)
}

/// Why a dictionary that a layer needs cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DictionaryError {
    /// There is none.
    #[error("compression dictionary is not there: {key}")]
    Missing {
        /// Its key.
        key: String,
    },
    /// There is something else.
    #[error("compression dictionary is not the one that its name says: {key}")]
    Damaged {
        /// Its key.
        key: String,
    },
    /// The store failed.
    #[error("cannot read compression dictionary {key}: {source}")]
    Remote {
        /// Its key.
        key: String,
        /// The failure.
        source: RemoteError,
    },
}

impl DictionaryError {
    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            // A layer in HEAD needs it, so it is lost.
            Self::Missing { .. } | Self::Damaged { .. } => ErrorKind::Corrupt,
            Self::Remote { source: RemoteError::Denied { .. }, .. } => ErrorKind::Denied,
            Self::Remote { .. } => ErrorKind::Unavailable,
        }
    }
}

impl From<DictionaryError> for Error {
    fn from(e: DictionaryError) -> Self {
        Self::new(e.kind(), e.to_string())
    }
}

/// Those that layers needed so far. Owner of its lock.
#[derive(Debug, Default)]
pub struct Dictionaries {
    known: Mutex<HashMap<[u8; 32], Dictionary>>,
}

impl Dictionaries {
    /// The dictionary of this digest, which is read only once; `None` for a layer that needs none.
    pub async fn get(
        &self,
        store: &dyn ObjectStore,
        digest: Option<&[u8; 32]>,
    ) -> Result<Option<Dictionary>, DictionaryError> {
        let Some(digest) = digest else { return Ok(None) };
        if let Some(known) = self.known.lock().get(digest) {
            return Ok(Some(known.clone()));
        }
        let fetched = fetch(store, digest).await?;
        let mut known = self.known.lock();
        if known.len() >= DICTIONARIES_MAX {
            known.clear();
        }
        known.insert(*digest, fetched.clone());
        Ok(Some(fetched))
    }
}

/// Reads a dictionary.
pub async fn fetch(store: &dyn ObjectStore, digest: &[u8; 32]) -> Result<Dictionary, DictionaryError> {
    let key = dictionary_key(digest);
    let failed = |source: RemoteError| match source {
        RemoteError::NotFound { .. } => DictionaryError::Missing { key: key.clone() },
        source => DictionaryError::Remote { key: key.clone(), source },
    };
    let mut download = store.download(&key, None).await.map_err(failed)?;
    let mut bytes = Vec::new();
    while let Some(piece) = download.body.next().await {
        bytes.extend_from_slice(&piece.map_err(failed)?);
        if bytes.len() > DICTIONARY_BYTES_MAX {
            return Err(DictionaryError::Damaged { key });
        }
    }
    let dictionary = Dictionary::new(bytes).ok().filter(|dictionary| dictionary.digest() == *digest);
    dictionary.ok_or(DictionaryError::Damaged { key })
}
