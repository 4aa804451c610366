//! [`Function`]: what the environment says of the function we are part of.
use super::keeper::When;
use crate::config::Environment;
use crate::error::{Error, ErrorKind, Result};
use std::ffi::OsString;
use std::path::Path;

/// Where the Runtime and the Extensions API are.
pub const API: &str = "AWS_LAMBDA_RUNTIME_API";
/// The program that a managed runtime starts in place of its own, with that as arguments.
pub const WRAPPER: &str = "AWS_LAMBDA_EXEC_WRAPPER";
/// How this sandbox came to be.
const INITIALIZATION: &str = "AWS_LAMBDA_INITIALIZATION_TYPE";
/// Its value where a snapshot is taken after the start, and each sandbox is resumed from that.
const SNAPSHOT: &str = "snap-start";
/// When to save.
pub const FLUSH: &str = "ICECACHE_FLUSH";
/// The folder whose programs are extensions.
const EXTENSIONS: &str = "extensions";

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// `host:port` of the API.
    pub api: String,
    /// When to save.
    pub when: When,
    /// Whether sandboxes are resumed from a snapshot of the start.
    pub resumes: bool,
}

impl Function {
    /// `None` outside of a function.
    pub fn of(environment: &Environment) -> Result<Option<Self>> {
        let invalid = |why: &str| Error::new(ErrorKind::Invalid, why);
        let Some(api) = environment.get(API) else { return Ok(None) };
        let api = api.to_str().ok_or_else(|| invalid("AWS_LAMBDA_RUNTIME_API is no address"))?.to_owned();
        let when = match environment.get(FLUSH) {
            Some(text) => {
                let parsed = text.to_string_lossy().parse();
                parsed.map_err(|why: String| invalid(&format!("{FLUSH}: {why}")))?
            }
            None => When::default(),
        };
        let resumes = environment.get(INITIALIZATION).is_some_and(|how| how == SNAPSHOT);
        Ok(Some(Self { api, when, resumes }))
    }
}

/// What this program is meant to be when it is called by its name alone, or with a command that is no verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// A managed runtime has called us in place of the command that follows.
    Wrapper,
    /// The sandbox has called us as an extension.
    Extension,
}

/// Which part `arguments` (with the program's name) give us.
fn part(arguments: &[OsString], environment: &Environment) -> Option<Part> {
    environment.get(API)?;
    let program = Path::new(arguments.first()?);
    match arguments.get(1) {
        None => {
            let folder = program.parent().and_then(Path::file_name);
            (folder == Some(EXTENSIONS.as_ref())).then_some(Part::Extension)
        }
        // The interpreter's absolute path.
        Some(command) => {
            let called = environment.get(WRAPPER).is_some_and(|wrapper| Path::new(&wrapper) == program);
            (called && Path::new(command).is_absolute()).then_some(Part::Wrapper)
        }
    }
}

/// The words of a command line as a person would have typed them: `exec` before the command of a managed runtime,
/// `extension` where the sandbox calls us as one.
pub fn as_verb(words: Vec<OsString>, environment: &Environment) -> Vec<OsString> {
    let Some(part) = part(&words, environment) else { return words };
    let (verb, rest): (&[&str], _) = match part {
        Part::Wrapper => (&["exec", "--"], words.get(1..)),
        Part::Extension => (&["extension"], None),
    };
    let first = words.first().into_iter().cloned();
    first.chain(verb.iter().map(OsString::from)).chain(rest.unwrap_or_default().iter().cloned()).collect()
}

/// Whether the runtime of this function is started by us.
pub fn is_wrapped(environment: &Environment) -> bool {
    environment
        .get(WRAPPER)
        .is_some_and(|wrapper| Path::new(wrapper).file_name() == Some("icecache".as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part_of(variables: &[(&str, &str)], arguments: &[&str]) -> Option<Part> {
        let environment = Environment::of(false, variables.iter().copied());
        part(&arguments.iter().map(OsString::from).collect::<Vec<_>>(), &environment)
    }

    #[test]
    fn the_part_is_known_by_how_we_are_called() {
        let api = (API, "127.0.0.1:9001");
        let wrapper = (WRAPPER, "/opt/icecache");
        let python = "/var/lang/bin/python3";
        assert_eq!(part_of(&[api, wrapper], &["/opt/icecache", python, "-m"]), Some(Part::Wrapper));
        assert_eq!(part_of(&[api, wrapper], &["/opt/icecache", "flush"]), None);
        assert_eq!(part_of(&[api], &["/opt/icecache", python]), None);
        assert_eq!(part_of(&[wrapper], &["/opt/icecache", python]), None);
        assert_eq!(part_of(&[api, wrapper], &["/opt/extensions/icecache"]), Some(Part::Extension));
        assert_eq!(part_of(&[api], &["/opt/icecache"]), None);
        assert_eq!(part_of(&[], &["/opt/extensions/icecache"]), None);
        assert_eq!(part_of(&[api], &[]), None);
    }

    #[test]
    fn what_a_function_calls_becomes_a_verb() {
        let environment = Environment::of(false, [(API, "127.0.0.1:9001"), (WRAPPER, "/opt/icecache")]);
        let verb = |words: &[&str]| as_verb(words.iter().map(OsString::from).collect(), &environment);
        assert_eq!(
            verb(&["/opt/icecache", "/py", "-m", "x"]),
            ["/opt/icecache", "exec", "--", "/py", "-m", "x"]
        );
        assert_eq!(verb(&["/opt/extensions/icecache"]), ["/opt/extensions/icecache", "extension"]);
        assert_eq!(verb(&["icecache", "status"]), ["icecache", "status"]);
        assert!(is_wrapped(&environment));
    }
}
