//! [`Version`]: the version that a verb is about.

#[derive(Debug, clap::Args)]
pub struct Version {
    /// The version or tag, as 'icecache log' prints it; without it the newest
    version: Option<String>,
    /// The same as VERSION, as 'mount' and 'fork' have it
    #[arg(long = "version", value_name = "VERSION", conflicts_with = "version")]
    of_flag: Option<String>,
}

impl Version {
    /// The names of its arguments, for those that it excludes.
    pub const ARGUMENTS: [&str; 2] = ["version", "of_flag"];

    /// What was typed.
    pub fn typed(self) -> Option<String> {
        self.version.or(self.of_flag)
    }
}
