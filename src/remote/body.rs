//! Streams that carry exactly as many bytes as they promise.
use super::{ByteStream, RemoteError};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream;

/// How a caller is told that a body broke off.
pub(super) fn cut_short(key: &str, got: u64, length: u64) -> RemoteError {
    RemoteError::Unavailable { message: format!("body of {key} ended after {got} of {length} bytes") }
}

/// Passes `body` on and ends it with an error if it is not exactly `length` bytes long. Nothing beyond
/// `length` is ever passed on; after an error the stream ends.
pub(super) fn exact(body: ByteStream, length: u64, key: String) -> ByteStream {
    let state = Some((body, 0u64, key));
    Box::pin(stream::unfold(state, move |state| async move {
        let (mut body, got, key) = state?;
        match body.next().await {
            None if got == length => None,
            None => Some((Err(cut_short(&key, got, length)), None)),
            Some(Err(e)) => Some((Err(e), None)),
            Some(Ok(chunk)) => {
                let now = got + chunk.len() as u64;
                if now > length {
                    let message = format!("body of {key} is longer than the promised {length} bytes");
                    return Some((Err(RemoteError::Unavailable { message }), None));
                }
                Some((Ok(chunk), Some((body, now, key))))
            }
        }
    }))
}

/// One chunk, or nothing if there are no bytes.
pub(super) fn once(bytes: Bytes) -> ByteStream {
    let chunk = if bytes.is_empty() { None } else { Some(Ok(bytes)) };
    Box::pin(stream::iter(chunk))
}

/// Turns an asked range into offsets of an object of `length` bytes, by the rule of
/// [`download`](super::ObjectStore::download).
pub(super) fn clip(
    range: Option<std::ops::Range<u64>>,
    length: u64,
    key: &str,
) -> Result<std::ops::Range<u64>, RemoteError> {
    match range {
        None => Ok(0..length),
        Some(r) if r.start >= r.end || r.start >= length => Err(RemoteError::Refused {
            message: format!("range {}..{} of {key} holds no byte of its {length}", r.start, r.end),
        }),
        Some(r) => Ok(r.start..r.end.min(length)),
    }
}
