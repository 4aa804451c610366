//! What a notification of a bucket says: as S3 and servers like it write it, as EventBridge does, or in a message of SNS.
use icecache_iceberg::Location;
use percent_encoding::percent_decode_str;
use serde::Deserialize;

/// No address of SNS is longer.
const URL_MAX_BYTES: usize = 2 << 10;

/// All three forms in one; each has some of it.
#[derive(Deserialize)]
struct Message {
    #[serde(rename = "Records")]
    records: Option<Vec<Record>>,
    detail: Option<Named>,
    /// Of SNS: `Notification`, or that somebody should confirm.
    #[serde(rename = "Type")]
    kind: Option<String>,
    #[serde(rename = "Message")]
    message: Option<String>,
    #[serde(rename = "SubscribeURL")]
    confirm: Option<String>,
    /// Of S3, which tries a new configuration.
    #[serde(rename = "Event")]
    event: Option<String>,
}

#[derive(Deserialize)]
struct Record {
    s3: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    bucket: Bucket,
    object: Object,
}

#[derive(Deserialize)]
struct Bucket {
    name: String,
}

#[derive(Deserialize)]
struct Object {
    key: String,
}

/// The objects that a notification is about; `None` if it is none.
pub(super) fn objects(body: &[u8]) -> Option<Vec<Location>> {
    let message: Message = serde_json::from_slice(body).ok()?;
    match message {
        Message { kind: Some(kind), message: Some(inner), .. } if kind == "Notification" => {
            bare(inner.as_bytes())
        }
        Message { kind: Some(kind), confirm: Some(url), .. } if kind == "SubscriptionConfirmation" => {
            if !is_of_sns(&url) {
                return None;
            }
            // Whoever could have it opened by us could have any URL opened.
            tracing::warn!(url, "a topic of SNS waits to be confirmed: open this URL");
            Some(Vec::new())
        }
        message => of(message),
    }
}

/// Whoever may hint could else have anything written into the log.
fn is_of_sns(url: &str) -> bool {
    let host = url.strip_prefix("https://sns.").and_then(|rest| rest.split('/').next());
    let region = host.and_then(|host| {
        host.strip_suffix(".amazonaws.com").or_else(|| host.strip_suffix(".amazonaws.com.cn"))
    });
    url.len() <= URL_MAX_BYTES
        && url.bytes().all(|byte| byte.is_ascii_graphic())
        && region.is_some_and(|region| region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
}

fn bare(body: &[u8]) -> Option<Vec<Location>> {
    of(serde_json::from_slice(body).ok()?)
}

fn of(message: Message) -> Option<Vec<Location>> {
    match message {
        Message { records: Some(records), .. } => {
            let named = records.into_iter().filter_map(|record| record.s3);
            // Of a form, where a plus is a space.
            let key =
                |key: &str| Some(percent_decode_str(&key.replace('+', " ")).decode_utf8().ok()?.into_owned());
            Some(named.filter_map(|named| location(&named.bucket.name, &key(&named.object.key)?)).collect())
        }
        Message { detail: Some(named), .. } => {
            Some(location(&named.bucket.name, &named.object.key).into_iter().collect())
        }
        Message { event: Some(_), .. } => Some(Vec::new()),
        _ => None,
    }
}

fn location(bucket: &str, key: &str) -> Option<Location> {
    format!("s3://{bucket}/{key}").parse().ok()
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn told(body: &Value) -> Option<Vec<String>> {
        let objects = objects(body.to_string().as_bytes())?;
        Some(objects.iter().map(|object| object.as_str().to_owned()).collect())
    }

    #[test]
    fn every_form_names_its_objects() {
        let record = |key: &str| json!({ "eventName": "ObjectCreated:Put", "s3": { "bucket": { "name": "b" }, "object": { "key": key, "size": 1 } } });
        let s3 = json!({ "Records": [record("db/t/metadata/a%3D1+x.json"), { "sns": {} }, record("c")] });
        let both = Some(vec!["s3://b/db/t/metadata/a=1 x.json".to_owned(), "s3://b/c".to_owned()]);
        assert_eq!(told(&s3), both);
        let sns = json!({ "Type": "Notification", "TopicArn": "arn", "Message": s3.to_string() });
        assert_eq!(told(&sns), both);
        let bridge = json!({
            "source": "aws.s3", "detail-type": "Object Created",
            "detail": { "bucket": { "name": "b" }, "object": { "key": "a+b%20" } },
        });
        assert_eq!(told(&bridge), Some(vec!["s3://b/a+b%20".to_owned()]), "which encodes nothing");
        for nothing in [
            json!({ "Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b" }),
            json!({ "Type": "SubscriptionConfirmation", "SubscribeURL": "https://sns.eu-west-1.amazonaws.com/?Token=1", "Message": "confirm" }),
            json!({ "Records": [] }),
        ] {
            assert_eq!(told(&nothing), Some(Vec::new()), "{nothing}");
        }
        for none in
            [json!({}), json!([]), json!({ "detail": {} }), json!({ "Type": "Notification", "Message": "x" })]
        {
            assert_eq!(told(&none), None, "{none}");
        }
        assert_eq!(objects(b"not JSON"), None);
    }
}
