//! [`Layout`]: which server has which slots of a cluster.
use super::key::SLOTS;
use super::options::Address;
use ::redis::Value;
use std::ops::RangeInclusive;

/// The most ranges that are believed; a cluster has at most as many as slots.
const RANGES_MAX: usize = SLOTS as usize;

/// Who has what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// One server has everything.
    Single(Address),
    /// Ranges of slots, ascending, and whose they are.
    Cluster(Vec<(RangeInclusive<u16>, Address)>),
}

impl Layout {
    /// What `CLUSTER SLOTS` has answered at `asked`: for each range its first and last slot, then servers, each
    /// with host and port, the one that is written to first. `None` if it is something else.
    pub fn parse(answer: &Value, asked: &Address) -> Option<Self> {
        let Value::Array(entries) = answer else { return None };
        if entries.len() > RANGES_MAX {
            return None;
        }
        let mut ranges = entries
            .iter()
            .map(|entry| {
                let Value::Array(entry) = entry else { return None };
                let [first, last, Value::Array(master), ..] = &entry[..] else { return None };
                let (first, last) = (slot(first)?, slot(last)?);
                let [host, port, ..] = &master[..] else { return None };
                let host = match host {
                    Value::BulkString(host) => std::str::from_utf8(host).ok()?,
                    Value::SimpleString(host) => host,
                    Value::Nil => "",
                    _ => return None,
                };
                // A node that does not know its own address means the one at which it was asked.
                let host = if host.is_empty() || host == "?" { &asked.host } else { host };
                let port = number(port).and_then(|port| u16::try_from(port).ok())?;
                (first <= last).then(|| (first..=last, Address { host: host.to_owned(), port }))
            })
            .collect::<Option<Vec<_>>>()?;
        ranges.sort_by_key(|(range, _)| *range.start());
        Some(Self::Cluster(ranges))
    }

    /// All servers, each once.
    pub fn addresses(&self) -> Vec<&Address> {
        let mut addresses: Vec<_> = match self {
            Self::Single(address) => vec![address],
            Self::Cluster(ranges) => ranges.iter().map(|(_, address)| address).collect(),
        };
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    /// The server of a slot; of a cluster there may be none.
    pub fn address(&self, slot: u16) -> Option<&Address> {
        match self {
            Self::Single(address) => Some(address),
            Self::Cluster(ranges) => {
                let (range, address) =
                    ranges.get(ranges.partition_point(|(range, _)| *range.end() < slot))?;
                range.contains(&slot).then_some(address)
            }
        }
    }
}

fn number(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        Value::BulkString(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        _ => None,
    }
}

fn slot(value: &Value) -> Option<u16> {
    number(value).and_then(|slot| u16::try_from(slot).ok()).filter(|slot| *slot < SLOTS)
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn range(first: i64, last: i64, host: Value, port: i64) -> Value {
        let master = Value::Array(vec![host, Value::Int(port), text("id"), Value::Array(vec![])]);
        let replica = Value::Array(vec![text("10.0.0.9"), Value::Int(1), text("id")]);
        Value::Array(vec![Value::Int(first), Value::Int(last), master, replica])
    }

    #[test]
    fn a_slot_belongs_to_whose_range_it_is_in() {
        let asked = Address { host: "seed".into(), port: 9 };
        let answer = Value::Array(vec![
            range(11_000, 16_383, text("10.0.0.2"), 7002),
            range(0, 5000, Value::Nil, 7000),
            range(5001, 9000, text("10.0.0.2"), 7002),
        ]);
        let layout = Layout::parse(&answer, &asked).expect("a layout");
        let at = |slot| layout.address(slot).map(Address::to_string);
        assert_eq!(at(0).as_deref(), Some("seed:7000"));
        assert_eq!(at(5000).as_deref(), Some("seed:7000"));
        assert_eq!(at(5001).as_deref(), Some("10.0.0.2:7002"));
        assert_eq!(at(9001), None, "nobody has it");
        assert_eq!(at(16_383).as_deref(), Some("10.0.0.2:7002"));
        assert_eq!(layout.addresses().len(), 2);
        let single = Layout::Single(asked.clone());
        assert_eq!((single.address(77), single.addresses()), (Some(&asked), vec![&asked]));
    }

    #[test]
    fn what_is_no_layout_is_refused() {
        let asked = Address { host: "seed".into(), port: 9 };
        for answer in [
            Value::Okay,
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![range(0, 16_384, text("h"), 1)]),
            Value::Array(vec![range(-1, 5, text("h"), 1)]),
            Value::Array(vec![range(6, 5, text("h"), 1)]),
            Value::Array(vec![range(0, 5, text("h"), 70_000)]),
            Value::Array(vec![range(0, 5, Value::Int(1), 7)]),
        ] {
            assert_eq!(Layout::parse(&answer, &asked), None, "{answer:?}");
        }
    }
}
