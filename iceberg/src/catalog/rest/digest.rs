//! [`digest`]: whether two answers hold the same metadata.
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// A digest of a JSON value, whatever stands between its parts and in whatever order the members of its objects are: two
/// replicas of a catalog may differ in that. Nothing of it is kept: metadata may have tens of megabytes.
pub(super) fn digest(value: &RawValue) -> String {
    let sum = serde_json::from_str::<Sum>(value.get());
    // What is nested too deeply is compared as a text.
    let Sum(sum) = sum.unwrap_or_else(|_| Sum::of('t', value.get().as_bytes()));
    blake3::Hash::from(sum).to_hex()[..32].to_owned()
}

/// The digest of a value.
struct Sum([u8; 32]);

impl Sum {
    fn of(kind: char, bytes: &[u8]) -> Self {
        Self(*blake3::Hasher::new().update(&[kind as u8]).update(bytes).finalize().as_bytes())
    }
}

impl<'de> Deserialize<'de> for Sum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Values)
    }
}

struct Values;

impl<'de> Visitor<'de> for Values {
    type Value = Sum;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Sum, E> {
        Ok(Sum::of('n', &[]))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Sum, E> {
        Ok(Sum::of('b', &[u8::from(value)]))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Sum, E> {
        Ok(Sum::of('u', &value.to_le_bytes()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Sum, E> {
        Ok(Sum::of('i', &value.to_le_bytes()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Sum, E> {
        Ok(Sum::of('f', &value.to_le_bytes()))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Sum, E> {
        Ok(Sum::of('s', value.as_bytes()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Sum, A::Error> {
        let mut all = blake3::Hasher::new();
        all.update(b"a");
        while let Some(Sum(value)) = values.next_element()? {
            all.update(&value);
        }
        Ok(Sum(*all.finalize().as_bytes()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Sum, A::Error> {
        let mut all = Vec::new();
        while let Some((Sum(name), Sum(value))) = members.next_entry()? {
            all.push([name, value]);
        }
        all.sort_unstable();
        Ok(Sum::of('o', all.as_flattened().as_flattened()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_space_make_no_difference_and_everything_else_does() {
        let of = |text: &str| digest(&RawValue::from_string(text.to_owned()).unwrap());
        let one = r#"{"a":[1,-2,2.5,null,true],"b":{"c":"x","d":"12345678901234567890"}}"#;
        let same = r#"{ "b": {"d":"12345678901234567890", "c":"\u0078"}, "a": [1, -2, 2.5, null, true] }"#;
        assert_eq!(of(one), of(same));
        let others = [
            ("1,-2", "-2,1"),
            ("-2", "2"),
            ("2.5", "2.25"),
            ("null", "0"),
            ("null,", ""),
            ("true", "false"),
            (r#""x""#, r#""y""#),
            (r#""c""#, r#""e""#),
            (r#""12345678901234567890""#, "12345678901234567890"),
        ];
        for (was, is) in others {
            assert_ne!(of(one), of(&one.replace(was, is)), "{was} {is}");
        }
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert_ne!(of(&deep(1000)), of(&deep(1001)));
    }
}
