//! `icecache tag --remote URL --name NAME TAG [VERSION] [--delete]`.
use super::flags::{Flags, RemoteScope};
use super::offline::{self, Choice, Tagged};
use super::output::safe;
use super::version::Version;
use super::{Context, Exit};
use crate::Result;

#[derive(Debug, clap::Args)]
pub struct Tag {
    /// The tag: 1 to 128 of A-Z a-z 0-9 . _ -, no number
    tag: String,
    #[command(flatten)]
    version: Version,
    /// Take the tag away; its version stays
    #[arg(long, conflicts_with_all = Version::ARGUMENTS)]
    delete: bool,
    #[command(flatten)]
    flags: Flags<RemoteScope>,
}

impl Tag {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let remote = self.flags.remote(context)?;
        let choice = (!self.delete).then(|| Choice::of(self.version.typed()));
        let tagged = offline::tag(&remote, &self.tag, choice.as_ref())?;
        if context.output.json {
            context.output.value(&tagged)?;
        } else if let Some(version) = tagged.version {
            context.output.line(&version.to_string());
        }
        context.output.say(&safe(&sentence(&tagged)));
        Ok(Exit::Done)
    }
}

fn sentence(tagged: &Tagged) -> String {
    let Tagged { tag, version, before } = tagged;
    match (version, before) {
        (Some(version), Some(before)) if version != before => {
            format!("tag {tag} names version {version}, before it was {before}")
        }
        (Some(version), _) => format!("tag {tag} names version {version}"),
        (None, _) => format!("tag {tag} was taken away"),
    }
}
