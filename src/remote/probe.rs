//! Finding out whether a store honours conditions, before anything depends on it.
use super::{Condition, ObjectStore, RemoteError, Tag};
use bytes::Bytes;

/// An ETag no object has: the MD5 of nothing we write.
const NOBODYS_TAG: &str = "\"00000000000000000000000000000000\"";

/// Whether PUTs under a condition are refused when they must be. Writes one small object at `key`, always
/// the same one, with at most three calls, all of them PUT.
///
/// `Ok(false)` means that two writers could overwrite each other; errors that say nothing about
/// conditions (no access, no network) are passed on.
pub async fn supports_conditional_writes(store: &dyn ObjectStore, key: &str) -> Result<bool, RemoteError> {
    // First IfAbsent: written or refused, afterwards the object exists. Written: a second must be refused.
    match attempt(store, key, Condition::IfAbsent).await? {
        Outcome::Unsupported => return Ok(false),
        Outcome::Refused => {}
        Outcome::Written => {
            if attempt(store, key, Condition::IfAbsent).await? != Outcome::Refused {
                return Ok(false);
            }
        }
    }
    let stale = Condition::IfMatch(Tag(NOBODYS_TAG.to_owned()));
    Ok(attempt(store, key, stale).await? == Outcome::Refused)
}

#[derive(PartialEq, Eq)]
enum Outcome {
    Written,
    Refused,
    Unsupported,
}

async fn attempt(store: &dyn ObjectStore, key: &str, condition: Condition) -> Result<Outcome, RemoteError> {
    // Bytes of its own for each attempt: a retrying store takes equal bytes for a lost reply.
    let body = format!("icecache conditional write probe {}\n", uuid::Uuid::new_v4());
    match store.put(key, Bytes::from(body), condition).await {
        Ok(_) => Ok(Outcome::Written),
        Err(RemoteError::Precondition { .. }) => Ok(Outcome::Refused),
        // 501 NotImplemented and 400 for the header: what old S3 compatibles answer.
        Err(RemoteError::Refused { .. }) => Ok(Outcome::Unsupported),
        Err(error) => Err(error),
    }
}
