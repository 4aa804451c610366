//! The cache over HTTP/1.1: `GET`, `HEAD`, `PUT` and `DELETE` of `/files/<key>`.
//!
//! ```text
//!  connection (server: limits; patient) ──► files: routes ──► conditions, ranges (RFC 9110)
//!                                              │
//!                                              ├──► content: a file, one that fills, or an object
//!                                              └──► origin: what the store says an object is, for a while
//! ```
//!
//! A key is looked for among the files of the cache; then, if there is an origin, among its objects, whose blocks
//! are read through the cache. docs/HTTP.md has what is promised.
mod conditions;
mod content;
mod files;
mod meters;
mod patient;
mod range;
mod reply;
mod server;

pub use files::{Files, Token, unauthorized};
pub use meters::{HttpMeters, HttpTotals};
pub use reply::{Body, text, words};
pub use server::{Answer, Limits, listen, serve};
