//! [`Apart`]: objects without the files of this machine.
use super::{Listing, ObjectError, ObjectInfo, Objects};
use crate::location::Location;
use async_trait::async_trait;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;

/// What a table may name whose metadata lies in a bucket: whoever can write there must not have the files of this
/// machine read, nor what is no file waited for.
#[derive(Debug)]
pub(crate) struct Apart(Arc<dyn Objects>);

impl Apart {
    /// What a table may name whose metadata is at `metadata`.
    pub fn from(metadata: &Location, objects: Arc<dyn Objects>) -> Arc<dyn Objects> {
        if metadata.file_path().is_some() { objects } else { Arc::new(Self(objects)) }
    }

    fn check(&self, location: &Location) -> Result<&dyn Objects, ObjectError> {
        if location.file_path().is_none() {
            return Ok(&*self.0);
        }
        let why = "a table whose metadata does not lie on this machine may not name files of it".to_owned();
        Err(ObjectError::Failed { location: location.clone(), why })
    }
}

#[async_trait]
impl Objects for Apart {
    async fn get(&self, location: &Location, limit: u64) -> Result<Bytes, ObjectError> {
        self.check(location)?.get(location, limit).await
    }

    async fn get_range(&self, location: &Location, range: Range<u64>) -> Result<Bytes, ObjectError> {
        self.check(location)?.get_range(location, range).await
    }

    async fn head(&self, location: &Location) -> Result<ObjectInfo, ObjectError> {
        self.check(location)?.head(location).await
    }

    async fn list(
        &self,
        prefix: &Location,
        by_folder: bool,
        after: Option<&str>,
    ) -> Result<Listing, ObjectError> {
        self.check(prefix)?.list(prefix, by_folder, after).await
    }
}
