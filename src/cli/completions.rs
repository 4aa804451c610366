//! `icecache completions SHELL`.
use super::{Cli, Context, Exit, exec, kept};
use crate::Result;
use crate::config::keys;
use crate::serve::directory::Stray;
use clap::builder::PossibleValuesParser;
use clap::{Command, CommandFactory};
use clap_complete::Shell;

#[derive(Debug, clap::Args)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub fn run(self, context: &Context) -> Result<Exit> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut offered(&Cli::command()), "icecache", &mut script);
        context.output.data(&script);
        Ok(Exit::Done)
    }
}

/// The command line for people: without the verbs that are for ourselves alone, which a script would offer though the
/// help hides them.
fn offered(all: &Command) -> Command {
    let verbs = all.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned();
    Command::new("icecache")
        .version(env!("CARGO_PKG_VERSION"))
        .args(all.get_arguments().cloned())
        .subcommands(verbs.map(with_words))
}

/// Where a word is expected a script offers files, unless it knows the words.
fn with_words(command: Command) -> Command {
    let command = command.mut_args(|arg| match words(arg.get_id().as_str()) {
        Some(words) => arg.value_parser(PossibleValuesParser::new(words)),
        None => arg,
    });
    command.mut_subcommands(with_words)
}

fn words(argument: &str) -> Option<&'static [&'static str]> {
    match argument {
        "mode" => Some(exec::MODES),
        "stray" => Some(Stray::WORDS),
        "unreadable" => Some(kept::Unreadable::WORDS),
        setting => keys::find(setting)?.words(),
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;

    #[test]
    fn scripts_offer_what_there_is_to_type() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut offered(&Cli::command()), "icecache", &mut script);
            let script = String::from_utf8(script).expect("UTF-8");
            let offers = |verb: &str| {
                let forms = [format!("icecache,{verb})"), format!("({verb})"), format!("-a \"{verb}\"")];
                forms.iter().any(|form| script.contains(form))
            };
            for verb in Cli::command().get_subcommands() {
                assert_eq!(offers(verb.get_name()), !verb.is_hide_set(), "{shell}: {}", verb.get_name());
            }
            for words in ["auto mount directory", "fork merge fail read-only", "keep delete", "run fail"] {
                // One on a line in fish.
                let lines =
                    words.split(' ').map(|word| format!("{word}\\t''")).collect::<Vec<_>>().join("\n");
                assert!(script.contains(words) || script.contains(&lines), "{shell}: {words}");
            }
        }
    }
}
