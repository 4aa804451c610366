//! [`Mapping`]: from the locations of tables to paths below a mount, and back.
//!
//! Every location has one path, `objects/<scheme>/<bucket>/<key>`, and every such path one location, so a table
//! may name files anywhere. Keys stay as they are, percent signs included. What a path cannot hold is escaped:
//!
//! | in a location | in a path |
//! |---|---|
//! | an empty component | `~-` |
//! | `.` and `..` as a component | `~2e` and `~2e~2e` |
//! | `~`, `?`, `#`, control characters | `~` and two hexadecimal digits |
//! | more than 255 bytes between two slashes | pieces, each but the last ending in `~+`, one folder in the other; a dot that begins one is `~2e` |
//!
//! (`?` and `#` because readers parse what they open as a URI.)
use crate::location::Location;
use crate::table::TableId;
use std::fmt::Write;
use std::path::Path;

/// Which rules these are. Part of [`Mapping::id`], so that what was rewritten by others is not used.
pub const MAPPING_VERSION: u32 = 1;
/// The folder of all objects, below the mount.
pub const OBJECTS: &str = "objects";
/// The folder of all tables, below the mount.
pub const TABLES: &str = "iceberg";
/// The longest name of one directory entry, in bytes (Linux `NAME_MAX`).
const NAME_MAX_BYTES: usize = 255;
/// Of the name of a rewritten file, how much is the original's, in bytes.
const STEM_MAX_BYTES: usize = 200;

/// From locations to paths below one mount, and back. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    root: std::sync::Arc<str>,
}

/// Why a mapping cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// Tables name their files by URIs, which are text and absolute.
    #[error(
        "tables can be mounted only below an absolute path in UTF-8 without '?', '#' and control characters: {0}"
    )]
    Root(String),
}

impl Mapping {
    /// For a mount at `root`.
    ///
    /// # Errors
    /// [`MappingError::Root`] if no URI can name it.
    pub fn new(root: &Path) -> Result<Self, MappingError> {
        let fault = || MappingError::Root(root.display().to_string());
        let text = root.to_str().filter(|_| root.is_absolute()).ok_or_else(fault)?;
        if text.contains(|c: char| c.is_ascii_control() || matches!(c, '?' | '#')) {
            return Err(fault());
        }
        Ok(Self { root: text.trim_end_matches('/').into() })
    }

    /// Names these rules and this mount, in 16 hexadecimal digits: what was rewritten under another id holds
    /// other paths.
    pub fn id(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&MAPPING_VERSION.to_le_bytes()).update(self.root.as_bytes());
        hasher.finalize().to_hex()[..16].to_owned()
    }

    /// The path of an object below the mount: `objects/<scheme>/<bucket>/<key>`.
    pub fn object_path(&self, location: &Location) -> String {
        let mut path = format!("{OBJECTS}/{}", location.scheme());
        if location.scheme() != "file" {
            path.push('/');
            push_component(&mut path, location.authority(), false);
        }
        path.push('/');
        push_key(&mut path, location.key());
        path
    }

    /// The location that has this path below the mount; `None` if none has.
    pub fn location(&self, path: &str) -> Option<Location> {
        let rest = path.strip_prefix(OBJECTS)?.strip_prefix('/')?;
        let (scheme, rest) = rest.split_once('/')?;
        let mut components = components(rest)?;
        let authority = if scheme == "file" { String::new() } else { components.remove(0) };
        if scheme != "file" && components.is_empty() {
            return None;
        }
        let location: Location = Location::from_parts(scheme, &authority, &components.join("/"))
            .and_then(|location| location.as_str().parse())
            .ok()?;
        // One path only: what merely decodes to it is not it.
        (self.object_path(&location) == path).then_some(location)
    }

    /// The folder of a table below the mount: `iceberg/<namespace>/<table>`, one folder for each level of the
    /// namespace; with `catalog`, `iceberg/<catalog>/<namespace>/<table>`.
    pub fn table_path(&self, catalog: Option<&str>, table: &TableId) -> String {
        let mut path = TABLES.to_owned();
        let levels = catalog.into_iter().chain(table.namespace.iter().map(String::as_str));
        for name in levels.chain([table.name.as_str()]) {
            path.push('/');
            path.push_str(&escape_name(name));
        }
        path
    }

    /// The URI by which rewritten metadata names a path below the mount: `file:///…`, nothing encoded.
    pub fn uri(&self, path: &str) -> String {
        format!("file://{}/{path}", self.root)
    }

    /// The path below the mount that a URI of rewritten metadata names; `None` if it is not below it.
    pub fn path_of<'a>(&self, uri: &'a str) -> Option<&'a str> {
        uri.strip_prefix("file://")?.strip_prefix(&*self.root)?.strip_prefix('/')
    }

    /// The URI of an object: [`object_path`](Self::object_path) as a [`uri`](Self::uri).
    pub fn object_uri(&self, location: &Location) -> String {
        self.uri(&self.object_path(location))
    }
}

/// A key, or the end of one, as a path; [`unescape_key`] reverses it.
pub(crate) fn escape_key(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    push_key(&mut out, key);
    out
}

/// What [`escape_key`] was given; `None` if nothing gives this.
pub(crate) fn unescape_key(path: &str) -> Option<String> {
    let key = components(path)?.join("/");
    (escape_key(&key) == path).then_some(key)
}

/// A name of any characters as one path component; [`unescape_name`] reverses it. Slashes are escaped too, and a dot that
/// begins it: what begins with one is not shown.
pub fn escape_name(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    push_component(&mut out, name, true);
    out
}

/// What [`escape_name`] was given; `None` if nothing gives this.
pub fn unescape_name(component: &str) -> Option<String> {
    let name: String =
        component.split('/').map(|p| unescape(p.strip_suffix("~+").unwrap_or(p))).collect::<Option<_>>()?;
    (escape_name(&name) == component).then_some(name)
}

/// The name, as [`escape_name`] gives it, that a path begins with, and the rest of the path; `None` if the path ends
/// before the name does.
pub fn split_name(path: &str) -> Option<(&str, &str)> {
    let mut end = 0;
    for piece in path.split('/') {
        end += piece.len();
        if !piece.ends_with("~+") {
            return Some((&path[..end], path.get(end + 1..).unwrap_or_default()));
        }
        end += 1;
    }
    None
}

/// The name of what `location` becomes when it is rewritten: its own name, and a digest of where it was before
/// the extension. So two files of one name stay apart, and one file has the same name in every version.
pub fn rewritten_name(location: &Location) -> String {
    let (stem, extension) = stem_and_extension(location.name());
    named(location, stem, extension)
}

/// The same for what becomes a file of another kind: with this extension in place of its own.
pub fn rewritten_name_as(location: &Location, extension: &str) -> String {
    named(location, stem_and_extension(location.name()).0, extension)
}

fn stem_and_extension(name: &str) -> (&str, &str) {
    match name.rsplit_once('.') {
        Some((stem, extension)) if !stem.is_empty() && extension.len() <= 16 => (stem, extension),
        _ => (name, ""),
    }
}

fn named(location: &Location, stem: &str, extension: &str) -> String {
    let mut out = String::new();
    for c in stem.chars() {
        if out.len() > STEM_MAX_BYTES {
            break;
        }
        push_char(&mut out, c, true);
    }
    let digest = blake3::hash(location.as_str().as_bytes()).to_hex();
    let _ = write!(out, ".{}", &digest[..16]);
    if !extension.is_empty() {
        out.push('.');
        extension.chars().for_each(|c| push_char(&mut out, c, true));
    }
    out
}

fn push_key(out: &mut String, key: &str) {
    for (n, component) in key.split('/').enumerate() {
        if n > 0 {
            out.push('/');
        }
        push_component(out, component, false);
    }
}

/// The components of a key from those of its path.
fn components(path: &str) -> Option<Vec<String>> {
    let mut out: Vec<String> = Vec::new();
    let mut open = false;
    for piece in path.split('/') {
        let (piece, more) = match piece.strip_suffix("~+") {
            Some(piece) => (piece, true),
            None => (piece, false),
        };
        let text = unescape(piece)?;
        match out.last_mut() {
            Some(last) if open => last.push_str(&text),
            _ => out.push(text),
        }
        open = more;
    }
    Some(out)
}

fn push_char(out: &mut String, c: char, slash: bool) {
    if c.is_ascii_control() || matches!(c, '~' | '?' | '#') || (slash && c == '/') {
        let _ = write!(out, "~{:02x}", c as u32);
    } else {
        out.push(c);
    }
}

fn push_component(out: &mut String, component: &str, slash: bool) {
    match component {
        "" => return out.push_str("~-"),
        "." => return out.push_str("~2e"),
        ".." => return out.push_str("~2e~2e"),
        _ => {}
    }
    let is_escaped =
        |byte: u8| byte.is_ascii_control() || matches!(byte, b'~' | b'?' | b'#') || (slash && byte == b'/');
    // Nearly all of them.
    let is_hidden = slash && component.starts_with('.');
    if component.len() <= NAME_MAX_BYTES - 2 && !is_hidden && !component.bytes().any(is_escaped) {
        return out.push_str(component);
    }
    let mut start = out.len();
    let mut piece = String::with_capacity(4);
    for c in component.chars() {
        piece.clear();
        push_char(&mut piece, c, slash);
        if slash && c == '.' && out.len() == start {
            "~2e".clone_into(&mut piece);
        }
        // Two bytes are left for the mark that it goes on.
        if out.len() - start + piece.len() > NAME_MAX_BYTES - 2 {
            out.push_str("~+/");
            start = out.len();
            // What goes on is a name of its own, and may be neither hidden nor the folder above.
            if c == '.' {
                "~2e".clone_into(&mut piece);
            }
        }
        out.push_str(&piece);
    }
}

fn unescape(piece: &str) -> Option<String> {
    if piece == "~-" {
        return Some(String::new());
    }
    if piece.is_empty() {
        return None;
    }
    let mut out = String::with_capacity(piece.len());
    let mut rest = piece;
    while let Some(at) = rest.find('~') {
        out.push_str(&rest[..at]);
        let digits = rest.get(at + 1..at + 3)?;
        out.push(char::from(u8::from_str_radix(digits, 16).ok()?));
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping() -> Mapping {
        Mapping::new(Path::new("/mnt/lake/")).expect("a mapping")
    }

    #[track_caller]
    fn maps(location: &str, path: &str) {
        let location: Location = location.parse().expect("a location");
        assert_eq!(mapping().object_path(&location), path);
        assert_eq!(mapping().location(path), Some(location));
    }

    #[test]
    fn objects_have_one_path_each() {
        maps("s3://b/wh/t/data/d=a%2Fb/x.parquet", "objects/s3/b/wh/t/data/d=a%2Fb/x.parquet");
        maps("s3a://b/a//b/", "objects/s3/b/a/~-/b/~-");
        maps("s3://b/./../...", "objects/s3/b/~2e/~2e~2e/...");
        maps("s3://b/a~b?c#d\u{0}\n", "objects/s3/b/a~7eb~3fc~23d~00~0a");
        maps("s3://b", "objects/s3/b/~-");
        maps("hdfs://nn:8020/x", "objects/hdfs/nn:8020/x");
        maps("hdfs:/x", "objects/hdfs/~-/x");
        maps("file:///x/ü y", "objects/file/x/ü y");
        maps("/", "objects/file/~-");
    }

    #[test]
    fn long_components_become_folders() {
        let long = "é".repeat(300);
        let location: Location = format!("s3://b/{long}/x").parse().unwrap();
        let path = mapping().object_path(&location);
        assert!(path.split('/').all(|c| c.len() <= NAME_MAX_BYTES), "{path}");
        assert_eq!(mapping().location(&path), Some(location));
    }

    #[test]
    fn what_no_location_has_as_its_path_has_none() {
        for path in [
            "objects",
            "objects/s3",
            "objects/s3/b",
            "objects/S3/b/k",
            "objects/s3a/b/k",
            "objects/s3/b/a//b",
            "objects/s3/b/~2E",
            "objects/s3/b/~61",
            "objects/s3/b/a~+/b",
            "objects/s3/b/..",
            "objects/s3/b/a~",
            "objects/s3/b/a~+",
            "other/s3/b/k",
            "objects/s3/~-/k",
            "objects/s3/b/~é",
        ] {
            assert_eq!(mapping().location(path), None, "{path}");
        }
    }

    #[test]
    fn no_piece_of_a_long_name_is_hidden_or_leads_upward() {
        for rest in [".", "..", ".x", ".x.y"] {
            let name = format!("{}{rest}", "a".repeat(NAME_MAX_BYTES - 2));
            let path = mapping().object_path(&format!("s3://b/{name}/f").parse().unwrap());
            assert!(!path.contains("/."), "{path}");
            assert_eq!(mapping().location(&path).unwrap().as_str(), format!("s3://b/{name}/f"));
        }
    }

    #[test]
    fn tables_have_a_folder_for_each_level() {
        let id = TableId { namespace: vec!["a".into(), "b/c".into()], name: "..".into() };
        assert_eq!(mapping().table_path(None, &id), "iceberg/a/b~2fc/~2e~2e");
        assert_eq!(mapping().table_path(Some("prod"), &id), "iceberg/prod/a/b~2fc/~2e~2e");
        let long = [&"ü".repeat(200), &format!(".{}.x", "y".repeat(251))];
        for name in ["a", "b/c", ".", "..", "", "~x", ".dev", "..x", "a.b", long[0], long[1]] {
            assert_eq!(unescape_name(&escape_name(name)).as_deref(), Some(name));
            assert!(escape_name(name).split('/').all(|piece| !piece.starts_with('.')), "{name}");
        }
        assert_eq!(escape_name(".dev"), "~2edev");
        assert_eq!(unescape_name(".dev"), None);
        assert_eq!(unescape_name("a/b"), None);
        let long = escape_name(&"x".repeat(600));
        assert_eq!(split_name(&long), Some((&*long, "")));
        assert_eq!(split_name(&format!("{long}/metadata/v1")), Some((&*long, "metadata/v1")));
        assert_eq!(split_name("a/b/c"), Some(("a", "b/c")));
        assert_eq!(split_name(&long[..255]), None);
    }

    #[test]
    fn uris_name_paths_below_the_mount() {
        let uri = mapping().uri("iceberg/db/t");
        assert_eq!(uri, "file:///mnt/lake/iceberg/db/t");
        assert_eq!(mapping().path_of(&uri), Some("iceberg/db/t"));
        assert_eq!(mapping().path_of("file:///mnt/lakes/x"), None);
        assert_eq!(mapping().path_of("s3://b/x"), None);
        assert_eq!(Mapping::new(Path::new("/")).unwrap().uri("x"), "file:///x");
        assert!(Mapping::new(Path::new("mnt")).is_err());
        assert!(Mapping::new(Path::new("/a?b")).is_err());
        assert_ne!(mapping().id(), Mapping::new(Path::new("/mnt/sea")).unwrap().id());
    }

    #[test]
    fn rewritten_names_tell_files_of_one_name_apart() {
        let one: Location = "s3://b/t/metadata/snap-1.avro".parse().unwrap();
        let two: Location = "s3://b/u/metadata/snap-1.avro".parse().unwrap();
        assert_ne!(rewritten_name(&one), rewritten_name(&two));
        let name = rewritten_name(&one);
        assert!(name.starts_with("snap-1.") && name.ends_with(".avro"), "{name}");
        assert_eq!(rewritten_name_as(&one, "avro"), name);
        assert_eq!(rewritten_name_as(&one, "parquet"), name.replace(".avro", ".parquet"));
        assert!(rewritten_name_as(&"s3://b/deletes".parse().unwrap(), "parquet").ends_with(".parquet"));
        let long: Location = format!("s3://b/{}.{}", "~".repeat(900), "x".repeat(16)).parse().unwrap();
        assert!(rewritten_name(&long).len() <= NAME_MAX_BYTES);
        assert!(!rewritten_name(&"s3://b/t/".parse().unwrap()).contains('/'));
    }
}
