//! [`HadoopTable`]: which version of a table is the current one, by what lies in its folder.
use crate::catalog::{CatalogError, NAMES_MAX};
use crate::location::Location;
use crate::objects::{ObjectError, Objects};
use crate::table::{TableId, Token};
use std::sync::Arc;

/// A hint is a number or a name; more is none.
const HINT_MAX_BYTES: u64 = 1 << 10;
/// So many versions a hint may lag behind.
const PROBES_MAX: u64 = 10_000;
/// What may follow the number of a version.
const SUFFIXES: [&str; 2] = [".metadata.json", ".gz.metadata.json"];

/// A table and its folder.
#[derive(Debug)]
pub(in crate::catalog) struct HadoopTable {
    objects: Arc<dyn Objects>,
    location: Location,
}

impl HadoopTable {
    pub fn new(objects: Arc<dyn Objects>, location: Location) -> Self {
        Self { objects, location }
    }

    /// The current version: what the hint says, or a newer one, because writers write the version first. Without
    /// a hint, or where its version is missing, the greatest number there is.
    pub async fn current(&self, id: &TableId) -> Result<(Location, Token), CatalogError> {
        let found = match self.hint().await? {
            Some(Hint::Number(number)) => self.version(number).await?,
            Some(Hint::Name(name)) => self.named(&format!("{name}.metadata.json")).await?,
            None => None,
        };
        let found = match found {
            Some(found) => Some(found),
            None => self.greatest().await?,
        };
        let (mut location, mut token) = found.ok_or_else(|| CatalogError::NotFound {
            what: format!("table {id}: no metadata in {}", self.location),
        })?;
        if let Some(number) = number_of(&location) {
            for next in number + 1..number + PROBES_MAX {
                let Some(found) = self.version(next).await? else { break };
                (location, token) = found;
            }
        }
        Ok((location, token))
    }

    /// Whether there is another version than the one of `token`. Where versions are numbered: two or three HEADs.
    pub async fn changed(&self, id: &TableId, token: &Token) -> Result<bool, CatalogError> {
        let known = token.0.rsplit_once('#').and_then(|(location, _)| location.parse::<Location>().ok());
        if let Some((known, number)) =
            known.and_then(|known| Some((number_of(&known)?, known))).map(|(n, k)| (k, n))
        {
            let (own, next) = futures::join!(self.look(&known), self.version(number + 1));
            // The same name may hold another table by now.
            if own?.as_ref().map(|(_, token)| token) == Some(token) {
                return Ok(next?.is_some());
            }
        }
        Ok(self.current(id).await?.1 != *token)
    }

    async fn hint(&self) -> Result<Option<Hint>, CatalogError> {
        let at = self.location.join("metadata/version-hint.text")?;
        let bytes = match self.objects.get(&at, HINT_MAX_BYTES).await {
            Ok(bytes) => bytes,
            Err(ObjectError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let text = std::str::from_utf8(&bytes).unwrap_or_default().trim();
        if let Ok(number) = text.parse() {
            return Ok(Some(Hint::Number(number)));
        }
        let named = !text.is_empty() && !text.contains(|c: char| c == '/' || c.is_whitespace());
        Ok(named.then(|| Hint::Name(text.to_owned())))
    }

    async fn version(&self, number: u64) -> Result<Option<(Location, Token)>, CatalogError> {
        for suffix in SUFFIXES {
            if let Some(found) = self.named(&format!("v{number}{suffix}")).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    async fn named(&self, name: &str) -> Result<Option<(Location, Token)>, CatalogError> {
        self.look(&self.location.join(&format!("metadata/{name}"))?).await
    }

    async fn look(&self, at: &Location) -> Result<Option<(Location, Token)>, CatalogError> {
        match self.objects.head(at).await {
            Ok(info) => {
                let version = info.etag.unwrap_or_else(|| info.size.to_string());
                Ok(Some((at.clone(), Token(format!("{}#{version}", at.as_str())))))
            }
            Err(ObjectError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The metadata with the greatest number; of two with the same, the last by name.
    async fn greatest(&self) -> Result<Option<(Location, Token)>, CatalogError> {
        let prefix = self.location.join("metadata/")?;
        let mut best: Option<(u64, Location)> = None;
        let (mut after, mut seen) = (None, 0);
        loop {
            let part = self.objects.list(&prefix, true, after.as_deref()).await?;
            seen += part.objects.len();
            for (location, _) in part.objects {
                let Some(number) = any_number(&location) else { continue };
                let candidate = (number, location);
                if best.as_ref().is_none_or(|best| *best < candidate) {
                    best = Some(candidate);
                }
            }
            after = part.next;
            if after.is_none() || seen > NAMES_MAX {
                break;
            }
        }
        match best {
            Some((_, location)) => self.look(&location).await,
            None => Ok(None),
        }
    }
}

enum Hint {
    Number(u64),
    Name(String),
}

/// The number of `v<N>.metadata.json` and its compressed forms.
fn number_of(location: &Location) -> Option<u64> {
    let rest = location.name().strip_prefix('v')?;
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, suffix) = rest.split_at(digits);
    (SUFFIXES.contains(&suffix) || suffix == ".metadata.json.gz").then(|| number.parse().ok())?
}

/// The number of a version however it is named: `00003-….metadata.json` too.
fn any_number(location: &Location) -> Option<u64> {
    let name = location.name();
    if !name.ends_with(".metadata.json") && !name.ends_with(".metadata.json.gz") {
        return None;
    }
    number_of(location).or_else(|| name.split_once('-')?.0.parse().ok())
}
