//! [`Aws`]: who knows credentials, region and endpoints of AWS. Whoever opens catalogs brings one, as it brings the
//! stores.
use super::CatalogError;
use async_trait::async_trait;
use std::fmt;

/// Credentials of AWS.
#[derive(Clone, PartialEq, Eq)]
pub struct AwsKeys {
    /// The access key's name.
    pub access_key: String,
    /// The secret; never shown.
    pub secret_key: String,
    /// The session token of temporary credentials.
    pub session_token: Option<String>,
}

impl fmt::Debug for AwsKeys {
    /// The name alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsKeys").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

/// What is known of AWS where catalogs are opened. An option of a catalog comes before it.
#[async_trait]
pub trait Aws: Send + Sync + fmt::Debug {
    /// Credentials that are good now, of this profile or as they are found where none is named. `refused` are some
    /// that were shown and not taken.
    ///
    /// # Errors
    /// [`CatalogError::Denied`] if there are none, [`CatalogError::Unavailable`] if who has them does not answer.
    async fn keys(&self, profile: Option<&str>, refused: Option<&AwsKeys>) -> Result<AwsKeys, CatalogError>;
    /// The region, of this profile or where none is named.
    async fn region(&self, profile: Option<&str>) -> Option<String>;
    /// Where a service is, if it is not where AWS has it.
    fn endpoint(&self, service: &str) -> Option<String>;
}

/// Nothing is known: all must stand in the options.
#[derive(Debug)]
pub struct NoAws;

#[async_trait]
impl Aws for NoAws {
    async fn keys(&self, _: Option<&str>, _: Option<&AwsKeys>) -> Result<AwsKeys, CatalogError> {
        Err(CatalogError::Denied { why: "there are no credentials".into() })
    }
    async fn region(&self, _: Option<&str>) -> Option<String> {
        None
    }
    fn endpoint(&self, _: &str) -> Option<String> {
        None
    }
}
