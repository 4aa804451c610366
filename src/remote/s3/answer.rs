//! What an answer of an S3 server means: one table from SDK errors to [`RemoteError`].
use super::super::{Condition, RemoteError};
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use std::error::Error as StdError;

/// What was asked for: the same answer means different things to a GET and to a conditional PUT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    ConditionalWrite,
}

impl Kind {
    pub(super) fn of(condition: &Condition) -> Self {
        if *condition == Condition::Always { Self::Write } else { Self::ConditionalWrite }
    }
}

/// The call that was answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub kind: Kind,
    pub bucket: &'a str,
    pub key: &'a str,
}

/// An error and its causes in one line.
pub(super) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

fn find_cause<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    std::iter::successors(Some(error), |e| (*e).source())
        .find_map(|e: &'a (dyn StdError + 'static)| e.downcast_ref())
}

/// There are no credentials.
pub(super) fn without(credentials: &CredentialsError) -> RemoteError {
    let message = chain(credentials);
    // Who lends them may be away for a while.
    let may_come = matches!(credentials, CredentialsError::ProviderTimedOut(_))
        || find_cause::<RemoteError>(credentials).is_some_and(RemoteError::is_transient);
    match may_come {
        true => RemoteError::Unavailable { message },
        false => RemoteError::Denied { message: format!("no usable credentials: {message}") },
    }
}

/// The one place that decides what a failed call means.
pub(super) fn meaning<E>(error: &SdkError<E, HttpResponse>, call: &Call<'_>) -> RemoteError
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    if let Some(credentials) = find_cause::<CredentialsError>(error) {
        return without(credentials);
    }
    match error {
        SdkError::ServiceError(answer) => {
            let status = answer.raw().status().as_u16();
            judge(status, answer.err().code(), answer.err().message(), call)
        }
        // An answer the SDK could not read: cut off, or not from an S3 server.
        SdkError::ResponseError(answer) => match answer.raw().status().as_u16() {
            200..=299 => RemoteError::Unavailable { message: format!("answer broke off: {}", chain(error)) },
            status => judge(status, None, Some("answer could not be read"), call),
        },
        SdkError::DispatchFailure(failure) if failure.is_user() => {
            RemoteError::Refused { message: chain(error) }
        }
        SdkError::TimeoutError(_) | SdkError::DispatchFailure(_) => {
            RemoteError::Unavailable { message: chain(error) }
        }
        _ => RemoteError::Refused { message: chain(error) },
    }
}

fn judge(status: u16, code: Option<&str>, message: Option<&str>, call: &Call<'_>) -> RemoteError {
    let key = call.key.to_owned();
    let text = {
        let code = code.unwrap_or("no error code");
        let said = message.unwrap_or("no message");
        format!("{code} (HTTP {status}): {said}: {}", call.key)
    };
    match (status, code.unwrap_or_default()) {
        (_, "NoSuchBucket") => RemoteError::NoBucket { name: call.bucket.to_owned() },
        // Only with the code: a bare 404 may come from a proxy, and an absent HEAD means "start empty".
        (_, "NoSuchKey") => match call.kind {
            Kind::Read => RemoteError::NotFound { key },
            Kind::ConditionalWrite => RemoteError::Precondition { key },
            Kind::Write => RemoteError::Refused { message: text },
        },
        (_, "NoSuchUpload") => RemoteError::Unavailable { message: format!("upload is gone: {text}") },
        (412, _) | (_, "PreconditionFailed" | "ConditionalRequestConflict") => {
            RemoteError::Precondition { key }
        }
        (409, "OperationAborted") => RemoteError::Unavailable { message: text },
        (_, "InvalidObjectState") => RemoteError::Refused { message: text }, // archived; 403, but no matter of rights
        (_, "ExpiredToken" | "TokenRefreshRequired" | "InvalidToken" | "RequestExpired") => {
            RemoteError::Denied { message: format!("credentials have expired: {text}") }
        }
        (_, "RequestTimeTooSkewed") => {
            RemoteError::Denied { message: format!("this clock is wrong: {text}") }
        }
        (_, "SlowDown" | "RequestTimeout" | "Throttling" | "ThrottlingException" | "TooManyRequests")
        | (_, "InternalError" | "ServiceUnavailable" | "IncompleteBody")
        | (408 | 429, _) => RemoteError::Unavailable { message: text },
        (401 | 403, "AccessDenied") if call.kind == Kind::Read => RemoteError::Denied {
            message: format!(
                "{text} (a missing object looks like this too where s3:ListBucket is not granted)"
            ),
        },
        (401 | 403, _) => RemoteError::Denied { message: text },
        (301 | 307 | 400, "PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed") => {
            RemoteError::Refused { message: format!("wrong region or endpoint: {text}") }
        }
        // Some servers answer 404 or 400 here.
        (400..=499, code) if code.contains("AccessKeyId") || code.contains("UserNotFound") => {
            RemoteError::Denied { message: text }
        }
        (501, _) => RemoteError::Refused { message: text },
        (500.., _) => RemoteError::Unavailable { message: text },
        _ => RemoteError::Refused { message: text },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_of(status: u16, code: &str, kind: Kind) -> &'static str {
        let call = Call { kind, bucket: "b", key: "k" };
        match judge(status, Some(code).filter(|c| !c.is_empty()), None, &call) {
            RemoteError::NotFound { .. } => "not found",
            RemoteError::Precondition { .. } => "precondition",
            RemoteError::Denied { .. } => "denied",
            RemoteError::NoBucket { .. } => "no bucket",
            RemoteError::Unavailable { .. } => "unavailable",
            RemoteError::Refused { .. } => "refused",
        }
    }

    #[test]
    fn table() {
        use Kind::{ConditionalWrite, Read, Write};
        for (status, code, kind, meaning) in [
            (404, "NoSuchKey", Read, "not found"),
            (404, "NoSuchKey", ConditionalWrite, "precondition"),
            (404, "NoSuchKey", Write, "refused"),
            (404, "", Read, "refused"),
            (404, "XAdminUserNotFound", Read, "denied"),
            (403, "InvalidAccessKeyId", Read, "denied"),
            (404, "NoSuchBucket", Read, "no bucket"),
            (404, "NoSuchBucket", ConditionalWrite, "no bucket"),
            (404, "NoSuchUpload", ConditionalWrite, "unavailable"),
            (412, "PreconditionFailed", ConditionalWrite, "precondition"),
            (412, "", ConditionalWrite, "precondition"),
            (409, "ConditionalRequestConflict", ConditionalWrite, "precondition"),
            (409, "OperationAborted", Write, "unavailable"),
            (409, "ObjectParentIsFile", Write, "refused"),
            (403, "AccessDenied", Read, "denied"),
            (403, "SignatureDoesNotMatch", Write, "denied"),
            (403, "InvalidObjectState", Read, "refused"),
            (400, "ExpiredToken", Read, "denied"),
            (400, "BadDigest", Write, "refused"),
            (400, "IncompleteBody", Write, "unavailable"),
            (416, "InvalidRange", Read, "refused"),
            (301, "PermanentRedirect", Read, "refused"),
            (500, "InternalError", Write, "unavailable"),
            (501, "NotImplemented", ConditionalWrite, "refused"),
            (503, "SlowDown", Read, "unavailable"),
            (503, "", Read, "unavailable"),
            (429, "", Read, "unavailable"),
        ] {
            assert_eq!(kind_of(status, code, kind), meaning, "{status} {code} {kind:?}");
        }
    }
}
