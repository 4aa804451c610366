use super::*;
use crate::layer::Entry;

fn row(path: &str, kind: Kind) -> Row {
    let path = RelPath::new(path).expect("valid path");
    Row { entry: Entry { path, kind, meta: Metadata::default() }, offset: 0, length: 512 }
}

fn file(path: &str, size: u64) -> Row {
    row(path, Kind::File { size, fuzzy: false, refs: References::none() })
}

fn dir(path: &str) -> Row {
    row(path, Kind::Directory)
}

fn gone(path: &str) -> Row {
    row(path, Kind::Whiteout)
}

fn link(path: &str, target: &str) -> Row {
    row(path, Kind::HardLink { target: RelPath::new(target).expect("valid path") })
}

fn tree(layers: Vec<Vec<Row>>) -> Result<Tree, LayerError> {
    let mut tree = Tree::default();
    for layer in layers {
        tree.lay(layer.into_iter().map(Ok))?;
    }
    Ok(tree)
}

/// Paths in order, with the sizes of files.
fn shown(tree: &Tree) -> Vec<String> {
    let node = |node| match tree.what(node) {
        What::Directory => format!("{}/", tree.path(node)),
        What::File(file) => format!("{}={}", tree.path(node), tree.file(file).size),
        What::Special(_) => format!("{}@", tree.path(node)),
    };
    tree.walk().skip(1).map(node).collect()
}

#[test]
fn newer_layers_replace_and_remove() -> Result<(), LayerError> {
    let base = vec![dir("a"), file("a/x", 1), file("a/y", 2), dir("b"), dir("b/c"), file("b/c/d", 3)];
    let changed = vec![dir("a"), gone("a/x"), file("a/z", 4), gone("b"), file("e", 5)];
    assert_eq!(shown(&tree(vec![base.clone(), changed])?), ["a/", "a/y=2", "a/z=4", "e=5"]);
    // A directory removed and made anew in one layer; what is below is the new one's.
    let anew = vec![gone("b"), dir("b"), file("b/n", 6)];
    assert_eq!(shown(&tree(vec![base.clone(), anew])?), ["a/", "a/x=1", "a/y=2", "b/", "b/n=6"]);
    // What is no directory hides what was below it, and a directory may come back there.
    let hidden = vec![file("b", 7)];
    let back = vec![dir("b"), file("b/q", 8)];
    let laid = tree(vec![base, hidden, back])?;
    assert_eq!(shown(&laid), ["a/", "a/x=1", "a/y=2", "b/", "b/q=8"]);
    assert_eq!(laid.child(ROOT, b"c"), None);
    Ok(())
}

#[test]
fn names_of_one_file_outlive_the_first() -> Result<(), LayerError> {
    let base = vec![file("a", 1), link("b", "a"), link("c", "a")];
    let laid = tree(vec![base, vec![file("a", 9)]])?;
    assert_eq!(shown(&laid), ["a=9", "b=1", "c=1"]);
    let what = |name: &[u8]| laid.child(ROOT, name).map(|node| laid.what(node));
    assert_eq!(what(b"b"), what(b"c"));
    Ok(())
}

#[test]
fn names_come_in_order_whatever_the_order_of_rows() -> Result<(), LayerError> {
    let laid = tree(vec![vec![file("m", 1)], vec![file("z", 2)], vec![file("a", 3), file("n", 4)]])?;
    assert_eq!(shown(&laid), ["a=3", "m=1", "n=4", "z=2"]);
    Ok(())
}

#[test]
fn what_makes_no_tree_is_refused() {
    assert!(tree(vec![vec![file("a", 1), file("a/b", 2)]]).is_err());
    assert!(tree(vec![vec![link("b", "a")]]).is_err());
    assert!(tree(vec![vec![file("a", 1)], vec![link("b", "a")]]).is_err(), "of another layer");
    assert!(tree(vec![vec![dir("a"), link("b", "a")]]).is_err(), "a directory");
}
