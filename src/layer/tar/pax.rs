//! [`Pax`]: the records of an extended header, keys and values as bytes.
use crate::clock::Timestamp;
use crate::layer::LayerError;

/// Records in their order: `LENGTH KEY=VALUE\n`, where only LENGTH says where a value ends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pax {
    records: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Pax {
    /// Appends a record.
    pub fn push(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.records.push((key.into(), value.into()));
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The last value of a key: later records overrule earlier ones.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.records.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_slice())
    }

    /// All records in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.records.iter().map(|(k, v)| (k.as_slice(), v.as_slice()))
    }

    /// These records after those of `defaults`.
    #[must_use]
    pub fn over(self, defaults: &Self) -> Self {
        let mut records = defaults.records.clone();
        records.extend(self.records);
        Self { records }
    }

    /// The bytes of the extended header.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (key, value) in &self.records {
            let rest = key.len() + value.len() + 3; // space, '=', newline
            let mut len = rest + 1;
            while len != rest + digits(len) {
                len = rest + digits(len);
            }
            out.extend_from_slice(len.to_string().as_bytes());
            out.push(b' ');
            out.extend_from_slice(key);
            out.push(b'=');
            out.extend_from_slice(value);
            out.push(b'\n');
        }
        out
    }

    /// Reads an extended header.
    pub fn parse(mut bytes: &[u8]) -> Result<Self, LayerError> {
        let bad = || LayerError::corrupt("malformed extended header");
        let mut pax = Self::default();
        while !bytes.is_empty() {
            if bytes.iter().all(|b| *b == 0) {
                break; // some writers count their padding
            }
            let space = bytes.iter().take(20).position(|b| *b == b' ').ok_or_else(bad)?;
            let len = usize::try_from(decimal(&bytes[..space]).ok_or_else(bad)?).map_err(|_| bad())?;
            if len <= space + 1 || len > bytes.len() || bytes[len - 1] != b'\n' {
                return Err(bad());
            }
            let record = &bytes[space + 1..len - 1];
            let eq = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
            pax.push(&record[..eq], &record[eq + 1..]);
            bytes = &bytes[len..];
        }
        Ok(pax)
    }
}

fn digits(n: usize) -> usize {
    n.checked_ilog10().unwrap_or(0) as usize + 1
}

/// Plain decimal digits, nothing else.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |n, b| {
        if !b.is_ascii_digit() {
            return None;
        }
        n.checked_mul(10)?.checked_add(u64::from(b - b'0'))
    })
}

/// `SECONDS[.FRACTION]`, negative before 1970; trailing zeros are not written.
pub(super) fn time_to_text(t: Timestamp) -> String {
    let (sign, sec, nsec) = if t.sec < 0 && t.nsec > 0 {
        ("-", (t.sec + 1).unsigned_abs(), 1_000_000_000 - t.nsec)
    } else {
        (if t.sec < 0 { "-" } else { "" }, t.sec.unsigned_abs(), t.nsec)
    };
    if nsec == 0 {
        return format!("{sign}{sec}");
    }
    let text = format!("{sign}{sec}.{nsec:09}");
    text.trim_end_matches('0').to_owned()
}

/// The reverse of [`time_to_text`]; digits beyond nanoseconds are dropped.
pub(super) fn time_from_text(text: &[u8]) -> Option<Timestamp> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match text.iter().position(|b| *b == b'.') {
        Some(i) => (&text[..i], &text[i + 1..]),
        None => (text, &b""[..]),
    };
    let sec = i64::try_from(decimal(whole)?).ok()?;
    let mut nsec = 0u32;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    for i in 0..9 {
        nsec = nsec * 10 + u32::from(fraction.get(i).map_or(0, |b| b - b'0'));
    }
    Some(match (negative, nsec) {
        (false, _) => Timestamp { sec, nsec },
        (true, 0) => Timestamp { sec: -sec, nsec: 0 },
        (true, _) => Timestamp { sec: -sec - 1, nsec: 1_000_000_000 - nsec },
    })
}
