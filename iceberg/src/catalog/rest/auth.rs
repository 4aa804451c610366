//! [`Auth`]: bearer tokens, given or asked for by OAuth2's client credentials.
use super::http::{Http, denied, success};
use crate::catalog::{CatalogError, Options};
use serde_json::Value;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// A token is renewed so long before it ends, or a quarter of what it is good for: some are good for a minute.
const MARGIN: Duration = Duration::from_secs(60);
/// Where the catalog itself gives tokens out.
const OWN_TOKENS: &str = "v1/oauth/tokens";

/// Who we are to the catalog.
pub(super) struct Auth {
    kind: Kind,
    held: Mutex<Option<Held>>,
}

enum Kind {
    None,
    Token(String),
    Credential { id: String, secret: String, scope: String, uri: String },
}

struct Held {
    token: String,
    until: Option<Instant>,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.kind {
            Kind::None => "none",
            Kind::Token(_) => "token",
            Kind::Credential { .. } => "credential",
        })
    }
}

impl Auth {
    /// From the options `credential` (`id:secret`, or a secret alone) or `token`; `scope` and `oauth2-server-uri`.
    pub fn new(options: &Options) -> Result<Self, CatalogError> {
        let kind = match (options.get("credential"), options.get("token")) {
            (Some(credential), _) => {
                let (id, secret) = credential.split_once(':').unwrap_or(("", credential));
                Kind::Credential {
                    id: id.to_owned(),
                    secret: secret.to_owned(),
                    scope: options.get("scope").unwrap_or("catalog").to_owned(),
                    uri: options.get("oauth2-server-uri").unwrap_or(OWN_TOKENS).to_owned(),
                }
            }
            (None, Some(token)) => Kind::Token(token.to_owned()),
            (None, None) => Kind::None,
        };
        Ok(Self { kind, held: Mutex::new(None) })
    }

    /// Whether a new token can be had.
    pub fn renews(&self) -> bool {
        matches!(self.kind, Kind::Credential { .. })
    }

    /// The token to show; `refused` is one that was shown and not taken. Whoever comes while one is asked for
    /// waits for that one.
    pub async fn token(&self, http: &Http, refused: Option<String>) -> Result<Option<String>, CatalogError> {
        let (id, secret, scope, uri) = match &self.kind {
            Kind::None => return Ok(None),
            Kind::Token(token) => return Ok(Some(token.clone())),
            Kind::Credential { id, secret, scope, uri } => (id, secret, scope, uri),
        };
        let mut held = self.held.lock().await;
        if let Some(held) = &*held
            && refused.as_deref() != Some(&held.token)
            && held.until.is_none_or(|until| Instant::now() < until)
        {
            return Ok(Some(held.token.clone()));
        }
        let mut form =
            vec![("grant_type", "client_credentials"), ("client_secret", secret), ("scope", scope)];
        if !id.is_empty() {
            form.push(("client_id", id));
        }
        let answer = http.post_form(uri, &form, None).await?;
        let status = answer.status;
        let answer = success(answer, "token").map_err(|error| match error {
            // By OAuth2 a wrong secret is a bad request.
            CatalogError::Refused { why } if status == 400 => denied(&why),
            error => error,
        })?;
        let object = answer.object()?;
        let token: String = super::read(&object, "access_token")?.ok_or_else(|| CatalogError::Refused {
            why: "answer to the request for a token holds none".into(),
        })?;
        let lasts = super::read::<Value>(&object, "expires_in")?.and_then(|lasts| seconds(&lasts));
        let until = lasts.and_then(|lasts| Instant::now().checked_add(kept(lasts)));
        *held = Some(Held { token: token.clone(), until });
        Ok(Some(token))
    }
}

/// A number of seconds; some servers write it as a text.
fn seconds(told: &Value) -> Option<Duration> {
    let number = told.as_f64().or_else(|| told.as_str()?.trim().parse().ok())?;
    Duration::try_from_secs_f64(number).ok()
}

/// So long a token is shown that is good for `lasts`.
fn kept(lasts: Duration) -> Duration {
    lasts - MARGIN.min(lasts / 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_token_is_shown_for_most_of_its_life() {
        let of = |told: Value| seconds(&told).map(|lasts| kept(lasts).as_secs());
        assert_eq!(of(json!(3600)), Some(3540));
        assert_eq!(of(json!("3599")), Some(3539));
        assert_eq!(of(json!(240)), Some(180));
        assert_eq!(of(json!(60)), Some(45));
        assert_eq!(of(json!(3599.5)), Some(3539));
        assert_eq!(of(json!(0)), Some(0));
        for none in [json!("soon"), json!(-1), json!({}), json!(true), json!("NaN"), json!("1e400")] {
            assert_eq!(of(none.clone()), None, "{none}");
        }
    }
}
