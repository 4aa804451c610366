//! [`S3Options`]: where an S3 is and how to talk to it.
use super::super::RemoteError;
use async_trait::async_trait;
use aws_config::ConfigLoader;
use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::ProvideRegion;
use aws_config::profile::ProfileFileRegionProvider;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{BehaviorVersion, Builder, Credentials, Region, ResponseChecksumValidation};
use aws_sdk_s3::config::{RequestChecksumCalculation, StalledStreamProtectionConfig};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How long making a connection may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The region where none is said anywhere.
pub const DEFAULT_REGION: &str = "us-east-1";
/// The size of a part of an upload where none is said, in MiB. With at most
/// [`PARTS_MAX`](super::upload::PARTS_MAX) parts the largest object is 78 GiB.
pub const DEFAULT_PART_MIB: u16 = 8;

/// Settings of an S3 remote. What is not set comes from the AWS environment variables and profile files.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3Options {
    /// The server's URL, for anything but AWS: `https://host:port`.
    pub endpoint: Option<String>,
    /// The region. Else `AWS_REGION`, `AWS_DEFAULT_REGION`, the profile's, or `us-east-1`.
    pub region: Option<String>,
    /// Whether the bucket is part of the path and not of the host name. Else yes if an endpoint is given.
    pub path_style: Option<bool>,
    /// The profile of the AWS configuration files. Else `AWS_PROFILE` or `default`.
    pub profile: Option<String>,
    /// The size of a part of an upload in MiB, 5 to 1024, else 8. An upload holds up to four in memory.
    pub part_mib: Option<u16>,
}

/// Credentials given by hand, for tests and tools; others find theirs in the environment.
#[derive(Clone)]
pub struct S3Keys {
    /// The access key's name.
    pub access_key: String,
    /// The secret; never shown.
    pub secret_key: String,
    /// The session token of temporary credentials.
    pub session_token: Option<String>,
}

impl std::fmt::Debug for S3Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Keys").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

/// Credentials that somebody lends, for a while.
#[derive(Debug, Clone)]
pub struct LentKeys {
    /// The credentials.
    pub keys: S3Keys,
    /// Until when they are good.
    pub until: SystemTime,
}

/// Who lends credentials. Asked when some are needed first, and again before those expire.
#[async_trait]
pub trait KeySource: Send + Sync + std::fmt::Debug {
    /// Credentials that are good now.
    ///
    /// # Errors
    /// Why there are none; never holds a secret.
    async fn keys(&self) -> Result<LentKeys, RemoteError>;
}

/// A [`KeySource`] as the client knows one.
#[derive(Debug)]
pub(super) struct Lent(pub Arc<dyn KeySource>);

impl ProvideCredentials for Lent {
    fn provide_credentials<'a>(&'a self) -> provider::future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        provider::future::ProvideCredentials::new(async {
            let lent = self.0.keys().await.map_err(CredentialsError::provider_error)?;
            Ok(lent.keys.credentials(Some(lent.until)))
        })
    }
}

impl S3Keys {
    pub(super) fn credentials(self, until: Option<SystemTime>) -> Credentials {
        Credentials::new(self.access_key, self.secret_key, self.session_token, until, "icecache")
    }
}

impl S3Options {
    pub(super) fn part_bytes(&self) -> Result<usize, RemoteError> {
        match self.part_mib.unwrap_or(DEFAULT_PART_MIB) {
            mib @ 5..=1024 => Ok(usize::from(mib) << 20),
            mib => {
                Err(RemoteError::Refused { message: format!("part size must be 5 to 1024 MiB, not: {mib}") })
            }
        }
    }

    /// The endpoint that counts: ours, or what the AWS variables say.
    pub(super) fn endpoint(&self) -> Result<Option<String>, RemoteError> {
        let variable = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
        let given = self.endpoint.clone().filter(|e| !e.is_empty());
        let endpoint =
            given.or_else(|| variable("AWS_ENDPOINT_URL_S3")).or_else(|| variable("AWS_ENDPOINT_URL"));
        let Some(endpoint) = endpoint else { return Ok(None) };
        let host = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
        let message = match host {
            Some(host) if host.split('/').next().is_some_and(|h| h.contains('@')) => {
                "credentials do not belong in the s3 endpoint".to_owned()
            }
            Some(host) if !host.is_empty() && !host.contains(char::is_whitespace) => {
                return Ok(Some(endpoint));
            }
            _ => format!("s3 endpoint must begin with http:// or https://, not: {}", endpoint.escape_debug()),
        };
        Err(RemoteError::Refused { message })
    }

    /// The region, if somebody says one.
    pub(super) async fn region(&self) -> Option<Region> {
        if let Some(region) = self.region.clone().filter(|r| !r.is_empty()) {
            return Some(Region::new(region));
        }
        if let Some(region) = EnvironmentVariableRegionProvider::new().region().await {
            return Some(region);
        }
        // Not the SDK's own search: it ends with a request to the instance metadata service.
        let mut profile = ProfileFileRegionProvider::builder();
        if let Some(name) = &self.profile {
            profile = profile.profile_name(name);
        }
        profile.build().region().await
    }

    /// What clients of all services need, without a request.
    pub(super) async fn shared(&self) -> ConfigLoader {
        let region = self.region().await.unwrap_or(Region::from_static(DEFAULT_REGION));
        // A dated version, so that an update of the SDK changes no default of retries or checksums.
        let loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .region(region)
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build())
            // Bodies and answers have time limits of their own, see `within`.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        match &self.profile {
            Some(profile) => loader.profile_name(profile),
            None => loader,
        }
    }

    /// Everything a client needs, without a request. `keys` instead of the usual search for credentials.
    pub(super) async fn load(&self, keys: Option<SharedCredentialsProvider>) -> Result<Builder, RemoteError> {
        let endpoint = self.endpoint()?;
        let mut loader = self.shared().await;
        if let Some(keys) = keys {
            loader = loader.credentials_provider(keys);
        }
        if let Some(endpoint) = &endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        let shared = loader.load().await;
        let path_style = self.path_style.unwrap_or(shared.endpoint_url().is_some());
        Ok(Builder::from(&shared)
            .force_path_style(path_style)
            .request_checksum_calculation(RequestChecksumCalculation::WhenSupported)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::*;

    #[test]
    fn refuses_what_makes_no_sense() {
        let options = |endpoint: &str, part| S3Options {
            endpoint: Some(endpoint.into()),
            part_mib: part,
            ..S3Options::default()
        };
        let endpoint = |text: &str| options(text, None).endpoint().map_err(|e| e.to_string());
        assert_eq!(endpoint("http://127.0.0.1:9000"), Ok(Some("http://127.0.0.1:9000".into())));
        assert!(endpoint("localhost:9000").unwrap_err().contains("http://"));
        let with_secret = endpoint("https://a:hunter2@host").unwrap_err();
        assert!(with_secret.contains("credentials") && !with_secret.contains("hunter2"));
        assert!(options("http://h", Some(4)).part_bytes().is_err());
        assert_eq!(options("http://h", None).part_bytes().ok(), Some(8 << 20));
    }

    #[test]
    fn keys_are_not_shown() {
        let keys = S3Keys {
            access_key: "AK".into(),
            secret_key: "hunter2".into(),
            session_token: Some("tok3n".into()),
        };
        let shown = format!("{keys:?}");
        assert!(shown.contains("AK") && !shown.contains("hunter2") && !shown.contains("tok3n"));
    }
}
