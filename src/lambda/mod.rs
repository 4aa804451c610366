//! AWS Lambda: the end of an invocation is when a directory is saved.
//!
//! ```text
//!  exec (as wrapper, entry point or bootstrap)          /opt/extensions/icecache (extension)
//!    │ restored, then the runtime is started              │ restored, then registered
//!    ▼                                                    ▼
//!  proxy: what the runtime asks of the Runtime API      extension: INVOKE … runtimeDone (telemetry)
//!    │                                                    │
//!    └──────────────► keeper: when to save ◄──────────────┘
//!                        │
//!                        ▼
//!                     Keep: a save, by whoever has the directory
//! ```
//!
//! The API is AWS's, of which docs/lambda.md says what is used.
pub mod claim;
mod client;
pub mod environment;
pub mod extension;
pub mod keeper;
mod local;
pub mod proxy;
mod reply;
mod telemetry;

pub use claim::{Expected, Offer};
pub use environment::Function;
pub use keeper::{Keep, Keeper, When};
pub use proxy::Proxy;
