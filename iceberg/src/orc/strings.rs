//! [`Strings`]: the values of a column of strings (specification: String, Char, and VarChar Columns).
use super::OrcError;
use super::integers::Integers;
use super::stream::Stream;

/// The longest string: a path is shorter.
const STRING_MAX_BYTES: u64 = 8 << 10;
/// All strings of a dictionary together.
const DICTIONARY_MAX_BYTES: usize = 256 << 20;
/// The most strings of a dictionary.
const DICTIONARY_MAX: u64 = 4 << 20;

/// The strings of a column in one stripe, one after another.
pub(super) enum Strings<'a> {
    /// One after another, and how long each is.
    Direct { lengths: Integers<'a>, data: Stream<'a>, value: Vec<u8> },
    /// The different ones, and for each row which.
    Dictionary { indices: Integers<'a>, values: Vec<u8>, ends: Vec<usize> },
}

impl<'a> Strings<'a> {
    pub fn direct(lengths: Integers<'a>, data: Stream<'a>) -> Self {
        Self::Direct { lengths, data, value: Vec::new() }
    }

    /// Reads the dictionary, of `size` strings.
    pub fn dictionary(
        indices: Integers<'a>,
        mut lengths: Integers<'a>,
        mut data: Stream<'a>,
        size: u64,
    ) -> Result<Self, OrcError> {
        if size > DICTIONARY_MAX {
            return Err(OrcError::Malformed("a dictionary has too many strings"));
        }
        let (mut ends, mut end) = (Vec::new(), 0);
        for _ in 0..size {
            end += length(&mut lengths)?;
            ends.push(end);
            if end > DICTIONARY_MAX_BYTES {
                return Err(OrcError::TooLarge { what: "a dictionary", limit: DICTIONARY_MAX_BYTES });
            }
        }
        let mut values = Vec::new();
        data.take(end, &mut values)?;
        Ok(Self::Dictionary { indices, values, ends })
    }

    pub fn next(&mut self) -> Result<&[u8], OrcError> {
        match self {
            Self::Direct { lengths, data, value } => {
                value.clear();
                data.take(length(lengths)?, value)?;
                Ok(value)
            }
            Self::Dictionary { indices, values, ends } => {
                let index = usize::try_from(indices.next()?).ok();
                let found = index.and_then(|index| {
                    let start = if index == 0 { 0 } else { ends[..].get(index - 1).copied()? };
                    values.get(start..*ends.get(index)?)
                });
                found.ok_or(OrcError::Malformed("a row names a string that the dictionary does not have"))
            }
        }
    }
}

fn length(lengths: &mut Integers<'_>) -> Result<usize, OrcError> {
    // One that is negative here was beyond i64::MAX.
    match lengths.next()? as u64 {
        length @ 0..=STRING_MAX_BYTES => Ok(length as usize),
        _ => Err(OrcError::TooLarge { what: "a string", limit: STRING_MAX_BYTES as usize }),
    }
}
