//! [`Fields`]: a message of Protocol Buffers, field by field (specification: File Tail).
//!
//! Tail and stripes take a dozen fields of five messages, each a number, a text or another message: that is less than a
//! generated reader, and nothing is allocated for what is passed over.
use super::OrcError;

const SHORT: OrcError = OrcError::Malformed("it ends within a message");

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Number(u64),
    /// A text, a message, numbers one after another; or a number of fixed width, which nothing here has.
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    pub fn number(self) -> Result<u64, OrcError> {
        match self {
            Self::Number(number) => Ok(number),
            Self::Bytes(_) => Err(OrcError::Malformed("a message has something else where a number belongs")),
        }
    }

    pub fn bytes(self) -> Result<&'a [u8], OrcError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Number(_) => {
                Err(OrcError::Malformed("a message has a number where something else belongs"))
            }
        }
    }

    /// Numbers of a repeated field: one, or several packed together.
    pub fn numbers(self, into: &mut Vec<u64>) -> Result<(), OrcError> {
        match self {
            Self::Number(number) => into.push(number),
            Self::Bytes(mut rest) => {
                while !rest.is_empty() {
                    into.push(varint(&mut rest)?);
                }
            }
        }
        Ok(())
    }
}

/// The fields of a message: number and value, as they come. Ends with the first error.
#[derive(Debug)]
pub(super) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    fn field(&mut self) -> Result<(u64, Value<'a>), OrcError> {
        let key = varint(&mut self.0)?;
        let length = match key & 7 {
            0 => return Ok((key >> 3, Value::Number(varint(&mut self.0)?))),
            1 => 8,
            2 => usize::try_from(varint(&mut self.0)?).map_err(|_| SHORT)?,
            5 => 4,
            _ => return Err(OrcError::Malformed("a message has a field of an unknown kind")),
        };
        let (value, rest) = self.0.split_at_checked(length).ok_or(SHORT)?;
        self.0 = rest;
        Ok((key >> 3, Value::Bytes(value)))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), OrcError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

fn varint(bytes: &mut &[u8]) -> Result<u64, OrcError> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(SHORT)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(OrcError::Malformed("a number in a message is too long"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_as_they_are() {
        // 1: 300, 2: "abc", 4: packed 1, 300, 6: eight bytes, 7: four.
        let bytes = b"\x08\xac\x02\x12\x03abc\x22\x03\x01\xac\x02\x31\0\0\0\0\0\0\0\x01\x3d\0\0\0\x02";
        let all: Vec<_> = Fields(bytes).map(Result::unwrap).collect();
        assert_eq!(all[0], (1, Value::Number(300)));
        assert_eq!(all[1], (2, Value::Bytes(b"abc")));
        let mut numbers = Vec::new();
        all[2].1.numbers(&mut numbers).unwrap();
        all[0].1.numbers(&mut numbers).unwrap();
        assert_eq!(numbers, [1, 300, 300]);
        assert_eq!(all.len(), 5);
        assert!(all[0].1.bytes().is_err() && all[1].1.number().is_err());
        for cut in 1..bytes.len() {
            let whole = [3, 8, 13, 22].contains(&cut);
            assert_eq!(Fields(&bytes[..cut]).all(|field| field.is_ok()), whole, "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_field_ends_it() {
        for bytes in
            [&b"\x0b"[..], b"\x0c", b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x12\xff\x01a"]
        {
            let mut fields = Fields(bytes);
            assert!(fields.next().unwrap().is_err());
            assert!(fields.next().is_none());
        }
    }
}
