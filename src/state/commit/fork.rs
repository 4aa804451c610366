//! Names of forks.
use crate::state::head::NAME_BYTES_MAX;

/// The longest part of a host's name that is taken over, in bytes.
const HOST_MAX: usize = 40;
/// Room for `.fork-`, `-`, the time and a counter, in bytes.
const FIXED_MAX: usize = 32;

/// `<name>.fork-<host>-<utc time>`, from the second attempt on with a number behind.
pub(super) fn fork_name(name: &str, host: &str, time: jiff::Timestamp, attempt: u32) -> String {
    let mut end = name.len().min(NAME_BYTES_MAX - HOST_MAX - FIXED_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let host: String = host.chars().map(plain).take(HOST_MAX).collect();
    let time = time.strftime("%Y%m%dT%H%M%SZ");
    let again = if attempt > 1 { format!("-{attempt}") } else { String::new() };
    format!("{}.fork-{host}-{time}{again}", &name[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::head::check_name;

    #[test]
    fn names_tell_host_and_time_and_stay_valid() {
        let time = "2026-11-21T14:00:05.5Z".parse().expect("time");
        assert_eq!(fork_name("work", "box.lan", time, 1), "work.fork-box-lan-20261121T140005Z");
        assert_eq!(fork_name("work", "box", time, 2), "work.fork-box-20261121T140005Z-2");
        for (name, host) in [("ü".repeat(100), "h"), ("x".repeat(200), &*"../".repeat(99))] {
            check_name(&fork_name(&name, host, time, 99)).expect("valid");
        }
    }
}
