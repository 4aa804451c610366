//! Whether any value of a column is missing (specification: Byte Run Length Encoding, Boolean Run Length Encoding).
use super::OrcError;
use super::stream::Stream;

/// Runs are of at least so many bytes.
const RUN_MIN: u64 = 3;

/// Whether so many rows all have a value, by a stream PRESENT: one bit for each, most significant first.
pub(super) fn all_present(mut stream: Stream<'_>, rows: u64) -> Result<bool, OrcError> {
    let mut left = rows;
    while left > 0 {
        let control = stream.byte()?;
        // A run of one byte, or bytes one after another.
        let (runs, length) =
            if control < 0x80 { (1, u64::from(control) + RUN_MIN) } else { (0x100 - u64::from(control), 1) };
        for _ in 0..runs {
            let bits = stream.byte()?;
            let here = left.min(length * 8);
            // All bits of the byte count, if there are as many rows; the first ones otherwise.
            let wanted = if here >= 8 { 0xff } else { !(0xff_u8 >> here) };
            if bits & wanted != wanted {
                return Ok(false);
            }
            left -= here;
            if left == 0 {
                break;
            }
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::super::codec::Codec;
    use super::super::stream::Layout;
    use super::*;

    fn all(bytes: &[u8], rows: u64) -> Result<bool, OrcError> {
        all_present(Stream::new(bytes, Layout { codec: Codec::None, chunk: 1 }), rows)
    }

    #[test]
    fn a_missing_value_is_seen_where_rows_are() {
        assert_eq!(all(b"", 0), Ok(true));
        // The specification's own: 0xff, 0x80 is one true and seven false.
        assert_eq!(all(&[0xff, 0x80], 1), Ok(true));
        assert_eq!(all(&[0xff, 0x80], 2), Ok(false));
        // A run of 100, and what it cannot tell of.
        assert_eq!(all(&[0x61, 0xff], 800), Ok(true));
        assert!(all(&[0x61, 0xff], 801).is_err());
        assert_eq!(all(&[0x61, 0xfe], 800), Ok(false));
        // Two literals and a run.
        assert_eq!(all(&[0xfe, 0xff, 0xff, 0x00, 0xff], 16 + 24), Ok(true));
        assert_eq!(all(&[0xfe, 0xff, 0xf8, 0x00, 0xff], 13), Ok(true));
        assert_eq!(all(&[0xfe, 0xff, 0xf8, 0x00, 0xff], 14), Ok(false));
        assert!(all(&[0xfe, 0xff], 16).is_err());
    }
}
