//! Paths in JSON: a string when they are UTF-8, `{"hex": "…"}` when they are not; nothing is lost.
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Text {
    Utf8(String),
    Bytes { hex: String },
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect();
    let digits = digits.filter(|d| d.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// Text of the system, be it a path, as a value.
pub fn value(text: &OsStr) -> serde_json::Value {
    match text.to_str() {
        Some(text) => text.into(),
        None => serde_json::json!({ "hex": hex(text.as_bytes()) }),
    }
}

/// For `#[serde(with = "config::wire::path")]`.
pub mod path {
    use super::*;

    /// Writes a path.
    pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        match path.to_str() {
            Some(text) => serializer.serialize_str(text),
            None => Text::Bytes { hex: hex(path.as_os_str().as_bytes()) }.serialize(serializer),
        }
    }

    /// Reads a path.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        match Text::deserialize(deserializer)? {
            Text::Utf8(text) => Ok(text.into()),
            Text::Bytes { hex } => unhex(&hex)
                .map(|bytes| std::ffi::OsString::from_vec(bytes).into())
                .ok_or_else(|| serde::de::Error::custom("path is not hexadecimal")),
        }
    }
}

/// For `#[serde(with = "config::wire::paths")]`.
pub mod paths {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Wrapped(#[serde(with = "super::path")] PathBuf);

    /// Writes a list of paths.
    pub fn serialize<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(paths.iter().cloned().map(Wrapped))
    }

    /// Reads a list of paths.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
        Ok(Vec::<Wrapped>::deserialize(deserializer)?.into_iter().map(|w| w.0).collect())
    }
}

/// For `#[serde(with = "config::wire::optional_path")]`.
pub mod optional_path {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Wrapped(#[serde(with = "super::path")] PathBuf);

    /// Writes a path or null.
    #[allow(clippy::ref_option)] // the signature serde asks for
    pub fn serialize<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        path.clone().map(Wrapped).serialize(serializer)
    }

    /// Reads a path or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
        Ok(Option::<Wrapped>::deserialize(deserializer)?.map(|w| w.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Both {
        #[serde(with = "path")]
        one: PathBuf,
        #[serde(with = "optional_path")]
        maybe: Option<PathBuf>,
    }

    #[test]
    fn paths_of_any_bytes_come_back() {
        let odd = PathBuf::from(std::ffi::OsString::from_vec(b"/a\xff\n".to_vec()));
        for value in [Both { one: odd.clone(), maybe: Some(odd) }, Both { one: "/é".into(), maybe: None }] {
            let text = serde_json::to_string(&value).expect("serializable");
            assert_eq!(serde_json::from_str::<Both>(&text).expect("readable"), value);
            let one = serde_json::to_value(&value).expect("serializable")["one"].take();
            assert_eq!(super::value(value.one.as_os_str()), one);
        }
        assert!(serde_json::from_str::<Both>(r#"{"one":{"hex":"abc"},"maybe":null}"#).is_err());
    }
}
