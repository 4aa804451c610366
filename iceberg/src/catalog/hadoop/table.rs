//! [`HadoopTable`]: which version of a table is the current one, by what lies in its folder.
use crate::catalog::CatalogError;
use crate::location::Location;
use crate::objects::{ObjectError, Objects};
use crate::table::{TableId, Token};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The file that names the current version.
pub(super) const HINT: &str = "version-hint.text";
/// A hint is a number or a name; more is none.
const HINT_MAX_BYTES: u64 = 1 << 10;
/// So many versions a hint may lag behind.
const PROBES_MAX: u64 = 10_000;
/// What may follow the number of a version, the last only where writers of old are at work: who has no reason to expect it
/// looks for the others.
const SUFFIXES: [&str; 3] = [".metadata.json", ".gz.metadata.json", ".metadata.json.gz"];
const USUAL: [&str; 2] = [SUFFIXES[0], SUFFIXES[1]];

/// A table of which only names say what is the newest is looked through as a whole so often: next to the one that is known
/// stand all that a writer writes, but not what somebody copies there.
const WHOLE_EVERY: Duration = Duration::from_secs(300);

/// When each table was looked through as a whole.
pub(super) type Looks = Mutex<HashMap<Location, Instant>>;

/// A table and its folder.
#[derive(Debug)]
pub(super) struct HadoopTable {
    objects: Arc<dyn Objects>,
    location: Location,
    looks: Arc<Looks>,
}

impl HadoopTable {
    pub fn new(objects: Arc<dyn Objects>, location: Location, looks: Arc<Looks>) -> Self {
        Self { objects, location, looks }
    }

    /// The current version: what the hint says, or a newer one, because writers write the version first. Without
    /// a hint, or where its version is missing, the greatest number there is.
    pub async fn current(&self, id: &TableId) -> Result<(Location, Token), CatalogError> {
        self.current_by(id, self.hint().await?).await
    }

    async fn current_by(&self, id: &TableId, hint: Option<Hint>) -> Result<(Location, Token), CatalogError> {
        let found = match hint {
            Some(Hint::Number(number)) => self.version(number, &SUFFIXES).await?,
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
        if let Some((number, _)) = numbered(&location) {
            for next in number + 1..number.saturating_add(PROBES_MAX) {
                let is_usual = numbered(&location).is_some_and(|(_, suffix)| USUAL.contains(&suffix));
                let suffixes: &[&str] = if is_usual { &USUAL } else { &SUFFIXES };
                let Some(found) = self.version(next, suffixes).await? else { break };
                (location, token) = found;
            }
        }
        Ok((location, token))
    }

    /// Whether there is another version than the one of `token`. Where versions are numbered: a GET of the hint and two
    /// HEADs; where their names begin with a number a GET, a HEAD and a LIST of those that are next to the known one.
    pub async fn changed(&self, id: &TableId, token: &Token) -> Result<bool, CatalogError> {
        let known = token.0.rsplit_once('#').and_then(|(location, _)| location.parse::<Location>().ok());
        let Some(known) = known else { return Ok(self.current(id).await?.1 != *token) };
        // The same name may hold another table by now.
        let is_same = |own: Option<(Location, Token)>| own.is_some_and(|(_, own)| own == *token);
        if let Some((number, suffix)) = numbered(&known) {
            let next = self.version(number.saturating_add(1), std::slice::from_ref(&suffix));
            let (own, next, hint) = futures::join!(self.look(&known), next, self.hint());
            let (is_same, next, hint) = (is_same(own?), next?, hint?);
            if !is_same {
                return Ok(self.current_by(id, hint).await?.1 != *token);
            }
            return Ok(next.is_some() || self.is_hinted_at(id, number, suffix, token, hint).await?);
        }
        let hint = self.hint().await?;
        if let (None, Some(number), true) = (&hint, any_number(&known), self.looked_lately()) {
            let (own, has_newer) = futures::join!(self.look(&known), self.has_newer(number, &known));
            if is_same(own?) {
                return has_newer;
            }
        }
        Ok(self.current_by(id, hint).await?.1 != *token)
    }

    /// Whether there is a version that is newer than `number`, whose name ends otherwise, by what the hint says.
    async fn is_hinted_at(
        &self,
        id: &TableId,
        number: u64,
        suffix: &str,
        token: &Token,
        hint: Option<Hint>,
    ) -> Result<bool, CatalogError> {
        match hint {
            Some(Hint::Number(hinted)) if hinted > number => {
                if self.version(hinted, &SUFFIXES).await?.is_some() {
                    return Ok(true);
                }
            }
            // Who writes it has nothing newer to tell.
            Some(Hint::Number(hinted)) if hinted == number => return Ok(false),
            Some(Hint::Name(name)) => {
                if self.named(&format!("{name}.metadata.json")).await?.is_some() {
                    return Ok(self.current_by(id, Some(Hint::Name(name))).await?.1 != *token);
                }
            }
            // There is none, or nobody keeps it.
            Some(Hint::Number(_)) | None => {}
        }
        let others: Vec<&str> = USUAL.into_iter().filter(|other| *other != suffix).collect();
        Ok(self.version(number.saturating_add(1), &others).await?.is_some())
    }

    /// Whether all names were looked at not long ago.
    fn looked_lately(&self) -> bool {
        self.looks.lock().get(&self.location).is_some_and(|at| at.elapsed() < WHOLE_EVERY)
    }

    /// Whether there is a newer version than `known`, `<number>-….metadata.json`, among those whose numbers are as far as
    /// the last digit that of the next one. So one that another writer has given the same number is seen, and a gap does
    /// not matter, as far as a LIST of names that begin alike goes.
    async fn has_newer(&self, number: u64, known: &Location) -> Result<bool, CatalogError> {
        let width = known.name().split('-').next().unwrap_or_default().len();
        let next = format!("{:0width$}", number.saturating_add(1));
        let prefix = self.location.join(&format!("metadata/{}", &next[..next.len() - 1]))?;
        let best = self.greatest_of(&prefix).await?;
        Ok(best.is_some_and(|best| best > (number, known.clone())))
    }

    async fn hint(&self) -> Result<Option<Hint>, CatalogError> {
        let at = self.location.join(&format!("metadata/{HINT}"))?;
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

    /// A version under the first of these names that there is.
    async fn version(
        &self,
        number: u64,
        suffixes: &[&str],
    ) -> Result<Option<(Location, Token)>, CatalogError> {
        for suffix in suffixes {
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
        let begun = Instant::now();
        let best = self.greatest_of(&self.location.join("metadata/")?).await?;
        self.looks.lock().insert(self.location.clone(), begun);
        match best {
            Some((_, location)) => self.look(&location).await,
            None => Ok(None),
        }
    }

    /// The same among names that begin alike. All of them are looked at, however many there are: the newest stands
    /// somewhere among the manifests.
    async fn greatest_of(&self, prefix: &Location) -> Result<Option<(u64, Location)>, CatalogError> {
        let mut best: Option<(u64, Location)> = None;
        let mut after = None;
        loop {
            let part = self.objects.list(prefix, true, after.as_deref()).await?;
            for (location, _) in part.objects {
                let Some(number) = any_number(&location) else { continue };
                best = best.max(Some((number, location)));
            }
            after = part.next;
            if after.is_none() {
                return Ok(best);
            }
        }
    }
}

enum Hint {
    Number(u64),
    Name(String),
}

/// The number of `v<N>.metadata.json` and its compressed forms, and what follows it.
fn numbered(location: &Location) -> Option<(u64, &'static str)> {
    let rest = location.name().strip_prefix('v')?;
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, suffix) = rest.split_at(digits);
    let suffix = SUFFIXES.into_iter().find(|known| *known == suffix)?;
    Some((number.parse().ok()?, suffix))
}

/// Whether it is metadata of a table, by its name.
pub(super) fn is_metadata(location: &Location) -> bool {
    let name = location.name();
    name.ends_with(".metadata.json") || name.ends_with(".metadata.json.gz")
}

/// The number of a version however it is named: `00003-….metadata.json` too.
fn any_number(location: &Location) -> Option<u64> {
    let name = location.name();
    if !is_metadata(location) {
        return None;
    }
    let number = numbered(location).map(|(number, _)| number);
    number.or_else(|| name.split_once('-')?.0.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{Listing, ObjectInfo};
    use async_trait::async_trait;
    use bytes::Bytes;
    use std::collections::BTreeMap;
    use std::ops::{Bound, Range};

    /// A store of names, a thousand of which are a part, that counts what it is asked.
    #[derive(Debug, Default)]
    struct Store(Mutex<(BTreeMap<String, u64>, Asked)>);

    #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
    struct Asked {
        gets: u32,
        heads: u32,
        lists: u32,
    }

    impl Store {
        fn put(&self, name: &str, etag: u64) {
            self.0.lock().0.insert(format!("s3://b/t/metadata/{name}"), etag);
        }
        fn asked(&self) -> Asked {
            std::mem::take(&mut self.0.lock().1)
        }
    }

    #[async_trait]
    impl Objects for Store {
        async fn get(&self, location: &Location, _: u64) -> Result<Bytes, ObjectError> {
            let mut state = self.0.lock();
            state.1.gets += 1;
            let none = || ObjectError::NotFound { location: location.clone() };
            state.0.get(location.as_str()).map(|number| Bytes::from(number.to_string())).ok_or_else(none)
        }
        async fn get_range(&self, location: &Location, _: Range<u64>) -> Result<Bytes, ObjectError> {
            Err(ObjectError::NotFound { location: location.clone() })
        }
        async fn head(&self, location: &Location) -> Result<ObjectInfo, ObjectError> {
            let mut state = self.0.lock();
            state.1.heads += 1;
            let none = || ObjectError::NotFound { location: location.clone() };
            let etag = state.0.get(location.as_str()).ok_or_else(none)?;
            Ok(ObjectInfo { size: 1, etag: Some(etag.to_string()) })
        }
        async fn list(
            &self,
            prefix: &Location,
            _: bool,
            after: Option<&str>,
        ) -> Result<Listing, ObjectError> {
            let mut state = self.0.lock();
            state.1.lists += 1;
            let from = after.map_or(Bound::Included(prefix.as_str()), Bound::Excluded);
            let names = state.0.range::<str, _>((from, Bound::Unbounded)).map(|(name, _)| name);
            let names = names.take_while(|name| name.starts_with(prefix.as_str()));
            let mut names: Vec<String> = names.take(1001).cloned().collect();
            let next = if names.len() > 1000 { names.pop().and(names.last().cloned()) } else { None };
            let objects = names.iter().map(|name| (name.parse().unwrap(), 1)).collect();
            Ok(Listing { objects, folders: Vec::new(), next })
        }
    }

    fn table(store: &Arc<Store>) -> (HadoopTable, TableId) {
        let location = "s3://b/t".parse().unwrap();
        let id = TableId { namespace: Vec::new(), name: "t".into() };
        (HadoopTable::new(store.clone(), location, Arc::default()), id)
    }

    /// The newest stands behind what others would call the most names there can be.
    #[tokio::test]
    async fn the_newest_of_very_many_is_found() {
        let store = Arc::new(Store::default());
        for n in 0..101_000_u32 {
            store.put(&format!("{n:08x}-m0.avro"), 1);
        }
        store.put("00007-a.metadata.json", 1);
        store.put("92000-a.metadata.json", 1);
        let (table, id) = table(&store);
        assert_eq!(table.current(&id).await.unwrap().0.name(), "92000-a.metadata.json");
    }

    #[tokio::test]
    async fn a_table_at_rest_costs_three_requests_and_no_more_for_many_files() {
        let store = Arc::new(Store::default());
        for n in 0..5000_u32 {
            store.put(&format!("{:08x}-m0.avro", n.wrapping_mul(0x9e37_79b9)), 1);
        }
        store.put("00007-b.metadata.json", 1);
        let (table, id) = table(&store);
        let mut token = table.current(&id).await.unwrap().1;
        store.asked();
        assert!(!table.changed(&id, &token).await.unwrap());
        assert_eq!(store.asked(), Asked { gets: 1, heads: 1, lists: 1 });
        // A lower number or name is none that is newer; whatever is greater is: the next one, one of the same number, the
        // first of the next ten, one more digit, compressed.
        store.put("00006-x.metadata.json", 1);
        store.put("00007-a.metadata.json", 1);
        store.put("00008-x.avro", 1);
        assert!(!table.changed(&id, &token).await.unwrap());
        for name in [
            "00008-a.metadata.json",
            "00008-b.metadata.json",
            "00009-a.gz.metadata.json",
            "00010-a.metadata.json",
            "00012-a.metadata.json.gz",
            "00019-a.metadata.json",
            "00020-a.metadata.json",
            "00099-a.metadata.json",
            "00100-a.metadata.json",
            "99999-a.metadata.json",
            "100000-a.metadata.json",
            "100001-a.metadata.json",
        ] {
            let is_far = ["00099", "99999"].contains(&&name[..5]);
            store.put(name, 1);
            assert_eq!(table.changed(&id, &token).await.unwrap(), !is_far, "{name}");
            // What is far away is found as soon as all names are looked at again.
            table.looks.lock().clear();
            assert!(table.changed(&id, &token).await.unwrap(), "{name}");
            let (at, new) = table.current(&id).await.unwrap();
            assert_eq!(at.name(), name);
            token = new;
            assert!(!table.changed(&id, &token).await.unwrap());
        }
        // Another table at the same place, none, and a hint.
        store.put("100001-a.metadata.json", 2);
        assert!(table.changed(&id, &token).await.unwrap());
        token = table.current(&id).await.unwrap().1;
        store.0.lock().0.remove("s3://b/t/metadata/100001-a.metadata.json");
        assert!(table.changed(&id, &token).await.unwrap());
        token = table.current(&id).await.unwrap().1;
        store.put("v3.metadata.json", 1);
        assert!(!table.changed(&id, &token).await.unwrap());
        store.put(HINT, 3);
        assert!(table.changed(&id, &token).await.unwrap());
        assert_eq!(table.current(&id).await.unwrap().0.name(), "v3.metadata.json");
    }

    /// A version of any name that one may have is seen, and the usual table is asked for no more than it needs.
    #[tokio::test]
    async fn numbered_versions_are_followed_however_they_are_compressed() {
        let store = Arc::new(Store::default());
        let (table, id) = table(&store);
        store.put("v1.metadata.json.gz", 1);
        store.put(HINT, 1);
        let mut token = table.current(&id).await.unwrap().1;
        let mut number = 1;
        for (suffix, next) in [(2, 2), (1, 2), (0, 1), (0, 0), (2, 0), (2, 2), (0, 2), (1, 0), (1, 1)] {
            if number > 1 {
                number += 1;
                store.put(&format!("v{number}{}", SUFFIXES[suffix]), 1);
                store.put(HINT, number);
                assert!(table.changed(&id, &token).await.unwrap(), "{suffix} {number}");
                token = table.current(&id).await.unwrap().1;
            }
            store.asked();
            assert!(!table.changed(&id, &token).await.unwrap());
            assert_eq!(store.asked(), Asked { gets: 1, heads: 2, lists: 0 }, "v{number}");
            number += 1;
            let name = format!("v{number}{}", SUFFIXES[next]);
            store.put(&name, 1);
            // Of the same kind it is seen before the hint is written, of another as soon as that is.
            let is_like =
                token.0.rsplit_once('#').unwrap().0.ends_with(&format!("{}{}", number - 1, SUFFIXES[next]));
            assert_eq!(table.changed(&id, &token).await.unwrap(), is_like, "{name}");
            store.put(HINT, number);
            assert!(table.changed(&id, &token).await.unwrap(), "{name}");
            let (at, new) = table.current(&id).await.unwrap();
            assert_eq!(at.name(), name);
            token = new;
        }
        // A hint that names what is not there says nothing, and costs no LIST.
        store.put(HINT, number + 5);
        store.asked();
        assert!(!table.changed(&id, &token).await.unwrap());
        assert_eq!(store.asked().lists, 0);
    }

    /// Where nobody writes a hint, or it has stayed behind, the usual names are looked for.
    #[tokio::test]
    async fn numbered_versions_are_followed_without_a_hint() {
        for hint in [None, Some(1)] {
            let store = Arc::new(Store::default());
            let (table, id) = table(&store);
            store.put("v1.metadata.json", 1);
            store.put("v2.metadata.json", 1);
            if let Some(hint) = hint {
                store.put(HINT, hint);
            }
            let mut token = table.current(&id).await.unwrap().1;
            for name in ["v3.metadata.json", "v4.gz.metadata.json", "v5.gz.metadata.json", "v6.metadata.json"]
            {
                assert!(!table.changed(&id, &token).await.unwrap(), "{name}");
                store.put(name, 1);
                assert!(table.changed(&id, &token).await.unwrap(), "{name}");
                let (at, new) = table.current(&id).await.unwrap();
                assert_eq!(at.name(), name);
                token = new;
            }
        }
    }
}
