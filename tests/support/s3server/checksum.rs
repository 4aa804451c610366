//! The checksums a request may carry, computed and compared.
use s3s::checksum::ChecksumHasher;
use s3s::dto::Checksum;
use s3s::{S3Result, TrailingHeaders, s3_error};

/// Computes every checksum that the request names in a header, a trailer or as its algorithm, and refuses
/// bytes that do not match.
pub fn verify(
    data: &[u8],
    given: Checksum,
    trailers: Option<TrailingHeaders>,
    algorithm: Option<&str>,
) -> S3Result<Checksum> {
    let trailers = trailers.and_then(|t| t.take()).unwrap_or_default();
    let mut found = Checksum::default();
    macro_rules! one {
        ($field:ident, $hasher:ident, $header:literal, $name:literal) => {
            let trailer = || trailers.get($header).and_then(|v| v.to_str().ok()).map(str::to_owned);
            let claimed = given.$field.or_else(trailer);
            if claimed.is_some() || algorithm == Some($name) {
                let mut hasher = ChecksumHasher { $hasher: Some(Default::default()), ..Default::default() };
                hasher.update(data);
                let computed = hasher.finalize().$field;
                if claimed.is_some() && claimed != computed {
                    return Err(s3_error!(BadDigest, "checksum does not match"));
                }
                found.$field = computed;
            }
        };
    }
    one!(checksum_crc32, crc32, "x-amz-checksum-crc32", "CRC32");
    one!(checksum_crc32c, crc32c, "x-amz-checksum-crc32c", "CRC32C");
    one!(checksum_crc64nvme, crc64nvme, "x-amz-checksum-crc64nvme", "CRC64NVME");
    one!(checksum_sha1, sha1, "x-amz-checksum-sha1", "SHA1");
    one!(checksum_sha256, sha256, "x-amz-checksum-sha256", "SHA256");
    Ok(found)
}

/// Collects the checksum fields of a request's input.
macro_rules! given {
    ($input:ident) => {
        s3s::dto::Checksum {
            checksum_crc32: $input.checksum_crc32.clone(),
            checksum_crc32c: $input.checksum_crc32c.clone(),
            checksum_crc64nvme: $input.checksum_crc64nvme.clone(),
            checksum_sha1: $input.checksum_sha1.clone(),
            checksum_sha256: $input.checksum_sha256.clone(),
            ..Default::default()
        }
    };
}
pub(super) use given;
