//! The `icecache` command.
use std::process::ExitCode;

fn main() -> ExitCode {
    icecache::cli::main()
}
