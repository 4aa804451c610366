//! What several integration tests share. Used by `mod support;`, and by examples through `#[path]`.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)] // no test uses all of it; a test may panic
pub mod s3server;
