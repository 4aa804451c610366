//! [`Account`]: what catalogs at AWS must be told, as S3 is told it.
use crate::config::S3Settings;
use crate::remote::{Keyring, RemoteError, S3Options};
use async_trait::async_trait;
use icecache_iceberg::CatalogError;
use icecache_iceberg::catalog::{Aws, AwsKeys};

/// Credentials, region and endpoints as they are found for S3: settings, environment, profile, container, instance.
#[derive(Debug)]
pub(super) struct Account(Keyring);

impl Account {
    /// With the region and the profile that `s3` names.
    pub fn new(s3: &S3Settings) -> Self {
        let (region, profile) = (s3.region.clone(), s3.profile.clone());
        Self(Keyring::new(S3Options { region, profile, ..S3Options::default() }))
    }
}

#[async_trait]
impl Aws for Account {
    async fn keys(&self, profile: Option<&str>, refused: Option<&AwsKeys>) -> Result<AwsKeys, CatalogError> {
        let refused = refused.map(|keys| keys.access_key.as_str());
        let found = self.0.keys(profile, refused).await.map_err(|error| match error {
            RemoteError::Unavailable { message } => CatalogError::Unavailable { why: message },
            RemoteError::Denied { message } => CatalogError::Denied { why: message },
            error => CatalogError::Denied { why: error.to_string() },
        })?;
        Ok(AwsKeys {
            access_key: found.access_key,
            secret_key: found.secret_key,
            session_token: found.session_token,
        })
    }

    async fn region(&self, profile: Option<&str>) -> Option<String> {
        self.0.region(profile).await
    }

    fn endpoint(&self, service: &str) -> Option<String> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let own = format!("AWS_ENDPOINT_URL_{}", service.to_ascii_uppercase());
        variable(&own).or_else(|| variable("AWS_ENDPOINT_URL"))
    }
}
