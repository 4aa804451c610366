//! [`Client`]: asks Glue in its own protocol, JSON 1.1 signed with signature version 4.
use crate::catalog::aws::{Aws, AwsKeys};
use crate::catalog::http::{Answer, Transport};
use crate::catalog::{CatalogError, Options, passed_on};
use crate::document::Object;
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::OnceCell;

const SERVICE: &str = "glue";
const CONTENT_TYPE: &str = "application/x-amz-json-1.1";
/// A question is asked so often if Glue says that it is too busy.
const ATTEMPTS: u32 = 4;
/// So long it rests before the second time, and twice as long before each further one.
const PAUSE: Duration = Duration::from_millis(250);
/// What may help who is not let in.
const ADVICE: &str = "check the credentials, and that their policy allows glue:GetDatabases, glue:GetTables and \
                      glue:GetTable";

/// See the module.
#[derive(Debug)]
pub(super) struct Client {
    transport: Transport,
    aws: Arc<dyn Aws>,
    /// Those of the options.
    own: Option<AwsKeys>,
    profile: Option<String>,
    region: Option<String>,
    endpoint: Option<String>,
    place: OnceCell<Place>,
    pause: Duration,
}

/// Where Glue is.
#[derive(Debug)]
struct Place {
    region: String,
    endpoint: String,
}

impl Client {
    /// From the options as Iceberg's clients call them: `glue.…`, or `client.…` for all services of AWS.
    pub fn new(region: Option<&str>, options: &Options, aws: Arc<dyn Aws>) -> Result<Self, CatalogError> {
        let option = |name: &str| {
            let found =
                options.get(&format!("glue.{name}")).or_else(|| options.get(&format!("client.{name}")));
            found.filter(|value| !value.is_empty()).map(str::to_owned)
        };
        let own = match (option("access-key-id"), option("secret-access-key")) {
            (Some(access_key), Some(secret_key)) => {
                Some(AwsKeys { access_key, secret_key, session_token: option("session-token") })
            }
            (None, None) => None,
            _ => {
                let why = "glue.access-key-id and glue.secret-access-key belong together".into();
                return Err(CatalogError::Refused { why });
            }
        };
        let region = region.map(str::to_owned).or_else(|| option("region"));
        if let Some(region) = region.as_deref().filter(|region| !is_region(region)) {
            let why = format!("not a region of AWS: {}", region.escape_debug());
            return Err(CatalogError::Refused { why });
        }
        // Not client.endpoint: no two services have one.
        let endpoint = options.get("glue.endpoint").map(str::to_owned).or_else(|| aws.endpoint(SERVICE));
        let endpoint = endpoint.map(|endpoint| checked(&endpoint)).transpose()?;
        let (profile, place) = (option("profile-name"), OnceCell::new());
        Ok(Self { transport: Transport::new()?, aws, own, profile, region, endpoint, place, pause: PAUSE })
    }

    /// Rests no longer than this at first.
    #[cfg(test)]
    pub fn hurried(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    async fn place(&self) -> Result<&Place, CatalogError> {
        let find = || async {
            let region = match &self.region {
                Some(region) => region.clone(),
                None => self.aws.region(self.profile.as_deref()).await.ok_or_else(|| {
                    let why =
                        "nobody says in which region Glue is: NAME=glue:REGION, or the option 'glue.region'";
                    CatalogError::Refused { why: why.into() }
                })?,
            };
            if !is_region(&region) {
                let why = format!("not a region of AWS: {}", region.escape_debug());
                return Err(CatalogError::Refused { why });
            }
            let suffix = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
            let endpoint =
                self.endpoint.clone().unwrap_or_else(|| format!("https://{SERVICE}.{region}.{suffix}"));
            Ok(Place { region, endpoint })
        };
        self.place.get_or_try_init(find).await
    }

    async fn keys(&self, refused: Option<&AwsKeys>) -> Result<AwsKeys, CatalogError> {
        match &self.own {
            Some(own) => Ok(own.clone()),
            None => self.aws.keys(self.profile.as_deref(), refused).await,
        }
    }

    /// Asks, and again while Glue is too busy, and once more with other credentials if these have run out; `what` is
    /// asked for.
    pub async fn ask(
        &self,
        operation: &str,
        question: &serde_json::Value,
        what: &str,
    ) -> Result<Object, CatalogError> {
        let place = self.place().await?;
        let body = Bytes::from(question.to_string());
        let mut keys = self.keys(None).await?;
        let (mut attempt, mut is_renewed) = (1, self.own.is_some());
        loop {
            let request = signed(place, operation, &body, &keys)?;
            let answer = self.transport.send(&place.endpoint, request).await?;
            if (200..=299).contains(&answer.status) {
                return answer.object();
            }
            let fault = Fault::of(&answer);
            match fault.meaning() {
                Meaning::Busy if attempt < ATTEMPTS => {
                    tokio::time::sleep(jittered(self.pause * 2u32.pow(attempt - 1))).await;
                    attempt += 1;
                }
                Meaning::Expired if !is_renewed => {
                    keys = self.keys(Some(&keys)).await?;
                    is_renewed = true;
                }
                meaning => return Err(fault.told(meaning, what)),
            }
        }
    }
}

/// So that many who rest do not come back at one moment: between half of it and all.
fn jittered(pause: Duration) -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    pause / 2 + pause / 2 * (now.subsec_micros() % 1000) / 1000
}

fn is_region(text: &str) -> bool {
    text.contains('-') && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// An endpoint as one names it, without a slash at its end.
fn checked(endpoint: &str) -> Result<String, CatalogError> {
    let refused = |why: &str| Err(CatalogError::Refused { why: why.into() });
    let rest = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
    match rest.map(|rest| rest.split('/').next().unwrap_or_default()) {
        Some(host) if host.contains('@') => refused("credentials do not belong in the endpoint of Glue"),
        Some(host) if !host.is_empty() && !endpoint.contains(char::is_whitespace) => {
            Ok(endpoint.trim_end_matches('/').to_owned())
        }
        _ => refused("the endpoint of Glue must begin with http:// or https://"),
    }
}

fn signed(
    place: &Place,
    operation: &str,
    body: &Bytes,
    keys: &AwsKeys,
) -> Result<Request<Full<Bytes>>, CatalogError> {
    // The errors could hold what was put in.
    let refused = |what: &str| CatalogError::Refused { why: format!("a question to Glue cannot be {what}") };
    let (uri, target) = (format!("{}/", place.endpoint), format!("AWSGlue.{operation}"));
    let credentials = Credentials::new(
        keys.access_key.clone(),
        keys.secret_key.clone(),
        keys.session_token.clone(),
        None,
        "icecache",
    );
    let identity = credentials.into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(&place.region)
        .name(SERVICE)
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()
        .map_err(|_| refused("signed"))?
        .into();
    let headers = [("content-type", CONTENT_TYPE), ("x-amz-target", target.as_str())];
    let signable = SignableRequest::new("POST", &uri, headers.into_iter(), SignableBody::Bytes(body))
        .map_err(|_| refused("signed"))?;
    let (instructions, _) = sign(signable, &parameters).map_err(|_| refused("signed"))?.into_parts();
    let mut request = Request::post(&uri);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let mut request = request.body(Full::new(body.clone())).map_err(|_| refused("sent"))?;
    instructions.apply_to_request_http1x(&mut request);
    Ok(request)
}

/// What Glue says of a question that it does not answer.
struct Fault {
    status: u16,
    /// In one word, or nothing.
    kind: String,
    message: String,
}

/// What that means.
#[derive(Clone, Copy)]
enum Meaning {
    None,
    Denied,
    /// The credentials were good once.
    Expired,
    Busy,
    Refused,
}

impl Fault {
    fn of(answer: &Answer) -> Self {
        let object = answer.object().unwrap_or_default();
        let text = |name: &str| object.get::<String>(name).ok().flatten();
        let kind = answer.header("x-amzn-errortype").map(str::to_owned).or_else(|| text("__type"));
        let kind = kind.unwrap_or_default();
        // `namespace#Kind:uri`, of which only the middle is always there.
        let kind = kind.rsplit('#').next().unwrap_or_default().split(':').next().unwrap_or_default();
        let message = text("Message").or_else(|| text("message")).unwrap_or_default();
        Self { status: answer.status, kind: passed_on(kind), message: passed_on(&message) }
    }

    fn meaning(&self) -> Meaning {
        match (self.kind.strip_suffix("Exception").unwrap_or(&self.kind), self.status) {
            ("EntityNotFound", _) => Meaning::None,
            ("ExpiredToken" | "UnrecognizedClient" | "InvalidClientTokenId", _) => Meaning::Expired,
            (
                "AccessDenied"
                | "InvalidSignature"
                | "SignatureDoesNotMatch"
                | "IncompleteSignature"
                | "MissingAuthenticationToken"
                | "NotAuthorized"
                | "OptInRequired"
                | "PermissionTypeMismatch",
                _,
            ) => Meaning::Denied,
            (kind, _)
                if kind.starts_with("Throttl")
                    || kind.contains("LimitExceeded")
                    || kind.contains("ThroughputExceeded")
                    || kind.starts_with("TooManyRequests") =>
            {
                Meaning::Busy
            }
            (
                "InternalService"
                | "InternalFailure"
                | "ServiceUnavailable"
                | "OperationTimeout"
                | "RequestTimeout"
                | "ResourceNotReady"
                | "FederationSourceRetryable",
                _,
            )
            | (_, 408 | 429 | 500..) => Meaning::Busy,
            (_, 401 | 403) => Meaning::Denied,
            _ => Meaning::Refused,
        }
    }

    fn told(&self, meaning: Meaning, what: &str) -> CatalogError {
        let Self { status, kind, message } = self;
        let mut why = format!("Glue: {what}: status {status}");
        for text in [kind, message].into_iter().filter(|text| !text.is_empty()) {
            why.push_str(": ");
            why.push_str(text);
        }
        match meaning {
            Meaning::None => CatalogError::NotFound { what: what.to_owned() },
            Meaning::Denied | Meaning::Expired => CatalogError::Denied { why: format!("{why}; {ADVICE}") },
            Meaning::Busy => CatalogError::Unavailable { why },
            Meaning::Refused => CatalogError::Refused { why },
        }
    }
}
