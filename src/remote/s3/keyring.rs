//! [`Keyring`]: credentials for other services of AWS, found where those of S3 are.
use super::super::RemoteError;
use super::answer;
use super::options::{S3Keys, S3Options};
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

/// Credentials are looked for again so long before they end, and after so long in any case.
const MARGIN: Duration = Duration::from_secs(60);
const FRESH: Duration = Duration::from_secs(15 * 60);
/// Whoever has them must answer by then.
const PATIENCE: Duration = Duration::from_secs(30);

/// See the module. Owner of its lock.
#[derive(Debug)]
pub struct Keyring {
    options: S3Options,
    /// By the profile that somebody names. Held by who looks.
    held: tokio::sync::Mutex<HashMap<Option<String>, Held>>,
}

#[derive(Debug)]
struct Held {
    keys: S3Keys,
    until: Instant,
}

impl Keyring {
    /// Region and profile as `options` say, where nobody says another.
    pub fn new(options: S3Options) -> Self {
        Self { options, held: tokio::sync::Mutex::default() }
    }

    /// A search of its own: files that were read once are not read again by one of before.
    async fn search(&self, profile: Option<&str>) -> Result<SharedCredentialsProvider, RemoteError> {
        let options = self.of(profile);
        if let Some(profile) = profile {
            // Who names one means it, whatever the environment holds for others.
            let config = ProviderConfig::without_region().with_region(options.region().await);
            let provider = ProfileFileCredentialsProvider::builder().profile_name(profile).configure(&config);
            return Ok(SharedCredentialsProvider::new(provider.build()));
        }
        let none = || RemoteError::Denied { message: "no credentials of AWS are looked for".into() };
        options.shared().await.load().await.credentials_provider().ok_or_else(none)
    }

    fn of(&self, profile: Option<&str>) -> S3Options {
        let mut options = self.options.clone();
        options.profile = profile.map(str::to_owned).or(options.profile);
        options
    }

    /// The region, if somebody says one: an option, the environment or the profile.
    pub async fn region(&self, profile: Option<&str>) -> Option<String> {
        self.of(profile).region().await.map(|region| region.to_string())
    }

    /// Credentials that are good now, of this profile alone, or as they are found for S3; others than those of the access
    /// key `refused`, if there are any.
    ///
    /// # Errors
    /// [`RemoteError::Denied`] if there are none, [`RemoteError::Unavailable`] if who has them does not answer in time.
    pub async fn keys(&self, profile: Option<&str>, refused: Option<&str>) -> Result<S3Keys, RemoteError> {
        let name = profile.map(str::to_owned);
        let mut held = self.held.lock().await;
        let known = held.get(&name).filter(|known| Instant::now() < known.until);
        if let Some(known) = known.filter(|known| refused != Some(&known.keys.access_key)) {
            return Ok(known.keys.clone());
        }
        let search = async {
            let provider = self.search(profile).await?;
            provider.provide_credentials().await.map_err(|error| answer::without(&error))
        };
        // A program that is asked for them may wait for somebody who is not there.
        let late =
            |_| RemoteError::Unavailable { message: format!("credentials did not come in {PATIENCE:?}") };
        let found = tokio::time::timeout(PATIENCE, search).await.map_err(late)??;
        let left = found
            .expiry()
            .map(|end| end.duration_since(SystemTime::now()).unwrap_or_default().saturating_sub(MARGIN));
        let keys = S3Keys {
            access_key: found.access_key_id().to_owned(),
            secret_key: found.secret_access_key().to_owned(),
            session_token: found.session_token().map(str::to_owned),
        };
        let until = Instant::now() + left.unwrap_or(FRESH).min(FRESH);
        held.insert(name, Held { keys: keys.clone(), until });
        Ok(keys)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_said_comes_before_what_is_found() {
        let options = S3Options { region: Some("eu-west-1".into()), ..S3Options::default() };
        let keyring = Keyring::new(options);
        assert_eq!(keyring.region(None).await.as_deref(), Some("eu-west-1"));
        assert_eq!(keyring.of(Some("other")).profile.as_deref(), Some("other"));
        assert_eq!(keyring.of(None).profile, None);
    }

    #[tokio::test]
    async fn keys_that_were_found_are_kept_until_they_are_refused() {
        let keyring = Keyring::new(S3Options::default());
        let keys = S3Keys { access_key: "AK".into(), secret_key: "hush".into(), session_token: None };
        let until = Instant::now() + FRESH;
        keyring.held.lock().await.insert(Some("p".into()), Held { keys, until });
        assert_eq!(keyring.keys(Some("p"), Some("other")).await.unwrap().access_key, "AK");
        assert!(!format!("{keyring:?}").contains("hush"));
    }
}
