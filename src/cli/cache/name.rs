//! Names of entries as they are typed and shown. A key is any bytes: those that nobody can type are typed, and shown
//! beside their text, as they stand in a URL behind `/files/`.
use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;

/// How a key is typed.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Typing {
    /// Keys are percent-encoded, as they stand in a URL and in the 'key_bytes' of 'ls --json'
    #[arg(long)]
    encoded: bool,
}

impl Typing {
    /// The bytes that are meant.
    pub fn bytes(self, text: &OsStr) -> Vec<u8> {
        if self.encoded { decoded(text.as_bytes()) } else { text.as_bytes().to_vec() }
    }
}

/// A key in JSON.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct KeyText {
    /// The key; what is no text in it is replaced.
    key: String,
    /// All of it, percent-encoded, if the text is not all of it or cannot be typed.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_bytes: Option<String>,
}

impl KeyText {
    pub fn of(bytes: &[u8]) -> Self {
        let is_text = std::str::from_utf8(bytes).is_ok() && !bytes.contains(&0);
        Self {
            key: String::from_utf8_lossy(bytes).into_owned(),
            key_bytes: (!is_text).then(|| encoded(bytes)),
        }
    }
}

fn encoded(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                text.push(char::from(*byte));
            }
            byte => {
                let _infallible = write!(text, "%{byte:02X}");
            }
        }
    }
    text
}

/// What is no encoding stands for itself.
fn decoded(mut text: &[u8]) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut bytes = Vec::with_capacity(text.len());
    while let Some((first, rest)) = text.split_first() {
        let pair = match rest {
            [high, low, ..] if *first == b'%' => digit(*high).zip(digit(*low)),
            _ => None,
        };
        match pair {
            Some((high, low)) => {
                bytes.push((high << 4 | low) as u8);
                text = &rest[2..];
            }
            None => {
                bytes.push(*first);
                text = rest;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_key_is_it_can_be_typed() {
        let all: Vec<u8> = (0..=255).collect();
        for key in [&b"plain/key-1.txt"[..], b"\xff\xfe", b"a\0b", "é 日".as_bytes(), b"100%", &all] {
            let text = encoded(key);
            assert!(text.is_ascii() && !text.contains(' '), "{text}");
            assert_eq!(Typing { encoded: true }.bytes(text.as_ref()), key);
            assert_eq!(Typing { encoded: false }.bytes(OsStr::from_bytes(key)), key);
        }
        assert_eq!(encoded(b"plain/key-1.txt"), "plain/key-1.txt");
        assert_eq!(decoded(b"50%, %zz%4"), b"50%, %zz%4");
    }

    #[test]
    fn two_keys_never_look_the_same() {
        let [one, other] = [&b"\xff"[..], b"\xfe"].map(KeyText::of);
        assert_eq!(one.key, other.key);
        assert_eq!((one.key_bytes.as_deref(), other.key_bytes.as_deref()), (Some("%FF"), Some("%FE")));
        assert_eq!(KeyText::of("é".as_bytes()).key_bytes, None);
    }
}
