//! [`Family`]: one metric with all its values, and the text of many.
use crate::metrics::{LATENCY_MS, Latency};
use std::fmt::Write;
use std::time::Duration;

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows while the process lives.
    Counter,
    /// It is what it is now.
    Gauge,
    /// Counts by upper end, with their sum.
    Histogram,
}

impl Kind {
    /// As the format writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Names and values of labels.
pub type Labels = Vec<(&'static str, String)>;

/// One metric with all its values.
#[derive(Debug)]
pub struct Family {
    /// Its name, with its unit.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// A sentence.
    pub help: &'static str,
    samples: Vec<Sample>,
}

#[derive(Debug)]
struct Sample {
    /// `_bucket`, `_sum`, `_count`, or nothing.
    suffix: &'static str,
    labels: Labels,
    value: f64,
}

impl Family {
    /// One number.
    pub fn one(name: &'static str, kind: Kind, help: &'static str, value: u64) -> Self {
        Self::labelled(name, kind, help, [(Labels::new(), value)])
    }

    /// A time that is what it is now.
    pub fn seconds(name: &'static str, help: &'static str, value: Duration) -> Self {
        let samples = vec![Sample { suffix: "", labels: Labels::new(), value: value.as_secs_f64() }];
        Self { name, kind: Kind::Gauge, help, samples }
    }

    /// Counters that one label tells apart.
    pub fn by(name: &'static str, help: &'static str, label: &'static str, values: &[(&str, u64)]) -> Self {
        let values = values.iter().map(|(which, value)| (vec![(label, (*which).to_owned())], *value));
        Self::labelled(name, Kind::Counter, help, values)
    }

    /// Numbers with their labels.
    pub fn labelled(
        name: &'static str,
        kind: Kind,
        help: &'static str,
        values: impl IntoIterator<Item = (Labels, u64)>,
    ) -> Self {
        let sample = |(labels, value)| Sample { suffix: "", labels, value: value as f64 };
        Self { name, kind, help, samples: values.into_iter().map(sample).collect() }
    }

    /// Times by upper end.
    pub fn latency(name: &'static str, help: &'static str, latency: &Latency) -> Self {
        let (mut samples, mut count) = (Vec::new(), 0);
        let ends = LATENCY_MS.iter().map(|ms| format!("{}", *ms as f64 / 1000.0)).chain(["+Inf".to_owned()]);
        for (end, n) in ends.zip(latency.counts) {
            count += n;
            samples.push(Sample { suffix: "_bucket", labels: vec![("le", end)], value: count as f64 });
        }
        let sum = latency.sum.as_secs_f64();
        samples.push(Sample { suffix: "_sum", labels: Labels::new(), value: sum });
        samples.push(Sample { suffix: "_count", labels: Labels::new(), value: count as f64 });
        Self { name, kind: Kind::Histogram, help, samples }
    }
}

/// The text of them.
pub fn encode(families: &[Family]) -> String {
    let mut out = String::new();
    for family in families {
        let Family { name, kind, help, samples } = family;
        let _infallible = write!(out, "# HELP {name} {help}\n# TYPE {name} {}\n", kind.word());
        for Sample { suffix, labels, value } in samples {
            let labels: Vec<String> =
                labels.iter().map(|(l, which)| format!("{l}=\"{}\"", escaped(which))).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            let _infallible = writeln!(out, "{name}{suffix}{labels} {value}");
        }
    }
    out
}

/// The value of a label as the format has it: a path may hold anything.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_that_of_the_format() {
        let mut latency = Latency::default();
        latency.add(Duration::from_millis(3));
        let labels = vec![("dir", "/a \"b\"\\\n".to_owned()), ("name", "n".to_owned())];
        let text = encode(&[
            Family::labelled("x_info", Kind::Gauge, "What.", [(labels, 1)]),
            Family::latency("x_seconds", "How long.", &latency),
        ]);
        assert!(text.starts_with(
            "# HELP x_info What.\n# TYPE x_info gauge\nx_info{dir=\"/a \\\"b\\\"\\\\\\n\",name=\"n\"} 1\n"
        ));
        assert!(text.contains("x_seconds_bucket{le=\"0.002\"} 0\nx_seconds_bucket{le=\"0.005\"} 1\n"));
        assert!(text.ends_with("x_seconds_bucket{le=\"+Inf\"} 1\nx_seconds_sum 0.003\nx_seconds_count 1\n"));
    }
}
