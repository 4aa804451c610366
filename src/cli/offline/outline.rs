//! [`Outline`]: what an archive makes, entry by entry, without making it.
//!
//! A restore writes beneath its directory or not at all. An archive that it would refuse is refused when it
//! is imported: as a version it would be lost.
use crate::layer::{Entry, Kind, LayerError};
use crate::path::RelPath;
use std::collections::BTreeMap;

/// What stands after the entries so far.
#[derive(Debug, Default)]
pub(super) struct Outline {
    /// Whether a path is a directory. Those that no entry makes are directories, too.
    paths: BTreeMap<RelPath, bool>,
    /// Hard links and their targets: made when everything else stands.
    links: Vec<(RelPath, RelPath)>,
}

impl Outline {
    /// Adds an entry. Whether it makes anything: of a file that was named to it twice GNU tar writes a link to itself,
    /// which stands already.
    ///
    /// # Errors
    /// [`LayerError::Refused`] if its path, or that of its target, leads through something that is not a
    /// directory, or if its target is none to link to.
    pub(super) fn add(&mut self, entry: &Entry) -> Result<bool, LayerError> {
        let path = &entry.path;
        if self.is_led_astray(path) {
            return Err(LayerError::refused("a part of its path is not a directory", path));
        }
        let is_itself = matches!(&entry.kind, Kind::HardLink { target } if target == path);
        if is_itself && self.paths.get(path) == Some(&false) {
            return Ok(false);
        }
        let is_dir = matches!(entry.kind, Kind::Directory);
        if !is_dir {
            // It takes the place of what was there, and of all below that.
            let below = |p: &RelPath| p.starts_with(path) && p != path;
            let hidden: Vec<RelPath> = self
                .paths
                .range(path.clone()..)
                .map(|(p, _)| p)
                .skip_while(|p| *p == path)
                .take_while(|p| below(p))
                .cloned()
                .collect();
            for path in hidden {
                self.paths.remove(&path);
            }
        }
        self.paths.insert(path.clone(), is_dir);
        if let Kind::HardLink { target } = &entry.kind {
            self.check(path, target)?;
            self.links.push((path.clone(), target.clone()));
        }
        Ok(true)
    }

    /// To be called when all entries are added: looks at the targets of links once more.
    pub(super) fn finish(&self) -> Result<(), LayerError> {
        self.links.iter().try_for_each(|(path, target)| self.check(path, target))
    }

    fn check(&self, link: &RelPath, target: &RelPath) -> Result<(), LayerError> {
        if self.is_led_astray(target) {
            let what = format!("its target's path leads through something else than directories: {target}");
            return Err(LayerError::refused(what, link));
        }
        match self.paths.get(target) {
            Some(false) if target != link => Ok(()),
            Some(true) => Err(LayerError::refused("hard link to a directory", link)),
            _ => Err(LayerError::refused(format!("hard link to a file that is not there: {target}"), link)),
        }
    }

    /// Whether something above a path is not a directory.
    fn is_led_astray(&self, path: &RelPath) -> bool {
        path.ancestors().any(|dir| self.paths.get(&dir) == Some(&false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::Metadata;

    fn path(p: &str) -> RelPath {
        RelPath::new(p).expect("path")
    }

    fn add(outline: &mut Outline, p: &str, kind: Kind) -> Result<bool, String> {
        let entry = Entry { path: path(p), kind, meta: Metadata::default() };
        outline.add(&entry).map_err(|e| e.to_string())
    }

    fn symlink() -> Kind {
        Kind::Symlink { target: b"elsewhere".to_vec() }
    }

    fn link(target: &str) -> Kind {
        Kind::HardLink { target: path(target) }
    }

    #[test]
    fn ways_through_links_and_files_are_refused_with_the_name() {
        let mut outline = Outline::default();
        add(&mut outline, "l", symlink()).expect("a link");
        for (p, kind) in [("l/x", Kind::Directory), ("l/x/y", symlink()), ("h", link("l/passwd"))] {
            let error = add(&mut outline, p, kind).expect_err(p);
            assert!(error.contains("refused") && error.ends_with(p), "{error}");
        }
        assert!(add(&mut outline, "h", link("missing")).expect_err("missing").ends_with(": h"));
        add(&mut outline, "d", Kind::Directory).expect("a directory");
        assert!(add(&mut outline, "h", link("d")).is_err());
    }

    #[test]
    fn a_link_to_itself_is_passed_over_if_something_stands_there() {
        let mut outline = Outline::default();
        assert!(add(&mut outline, "a", link("a")).expect_err("nothing there").ends_with(": a"));
        let mut outline = Outline::default();
        assert_eq!(add(&mut outline, "a", Kind::Fifo), Ok(true));
        assert_eq!(add(&mut outline, "a", link("a")), Ok(false));
        assert_eq!(add(&mut outline, "b", link("a")), Ok(true));
        outline.finish().expect("sound");
        assert_eq!(add(&mut outline, "d", Kind::Directory), Ok(true));
        assert!(add(&mut outline, "d", link("d")).is_err(), "a directory has no other name");
    }

    #[test]
    fn what_a_later_entry_replaces_does_not_count() {
        let mut outline = Outline::default();
        add(&mut outline, "a", symlink()).expect("a link");
        add(&mut outline, "a", Kind::Directory).expect("a directory in its place");
        add(&mut outline, "a/pipe", Kind::Fifo).expect("in the directory");
        add(&mut outline, "not/made/by/an/entry", Kind::Fifo).expect("directories are implied");
        add(&mut outline, "h", link("a/pipe")).expect("a link");
        outline.finish().expect("sound");
        add(&mut outline, "a", Kind::Fifo).expect("in place of the directory");
        assert!(outline.finish().expect_err("its target is gone").to_string().ends_with(": h"));
    }
}
