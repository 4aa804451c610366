//! [`Name`]: the name of one entry as the inode table keeps it, mostly without memory of its own.
use std::ffi::CStr;
use std::fmt;

/// Bytes that fit beside the tag in what a pointer with a length takes; one is for the NUL.
const SHORT_BYTES: usize = 23;

/// A name without slash or NUL.
#[derive(Clone)]
pub struct Name(Kept);

#[derive(Clone)]
enum Kept {
    /// With NULs after it.
    Short([u8; SHORT_BYTES]),
    Long(Box<CStr>),
}

impl Name {
    /// The same as a C string.
    pub fn as_c_str(&self) -> &CStr {
        match &self.0 {
            Kept::Short(bytes) => CStr::from_bytes_until_nul(bytes).unwrap_or_default(),
            Kept::Long(name) => name,
        }
    }

    /// Its bytes, without the NUL.
    pub fn to_bytes(&self) -> &[u8] {
        self.as_c_str().to_bytes()
    }
}

impl From<&CStr> for Name {
    fn from(name: &CStr) -> Self {
        let bytes = name.to_bytes();
        if bytes.len() >= SHORT_BYTES {
            return Self(Kept::Long(name.into()));
        }
        let mut short = [0; SHORT_BYTES];
        short[..bytes.len()].copy_from_slice(bytes);
        Self(Kept::Short(short))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_c_str().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_length_come_back() {
        for length in 0..=255 {
            let name = std::ffi::CString::new(vec![b'x'; length]).expect("no NUL");
            assert_eq!(Name::from(name.as_c_str()).as_c_str(), name.as_c_str());
        }
        assert_eq!(size_of::<Name>(), 24);
    }
}
