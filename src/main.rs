//! icecache
fn main() {}
