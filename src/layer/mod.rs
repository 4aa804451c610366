//! The archive format alone: what a layer is, how it is written and read. No policy, no remote.
//!
//! A layer is a `tar.zst` that plain `tar --zstd -x` extracts (docs/FORMAT.md).
