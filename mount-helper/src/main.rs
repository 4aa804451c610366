//! `mount.icecache`: what mount(8) runs for `mount -t icecache`.
fn main() {}
