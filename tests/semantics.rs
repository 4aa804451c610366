//! Tests quote the promise they prove. A quotation that stands nowhere in docs/SEMANTICS.md is a test without a
//! promise, or a promise that was changed behind a test's back.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;

/// White space of any kind and amount is one blank.
fn plain(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The documentation comments of a source file, each run of lines as one text.
fn comments(source: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    for line in source.lines() {
        match line.trim_start().strip_prefix("///") {
            Some(text) => {
                let last = found.last_mut().unwrap();
                last.push_str(text);
                last.push('\n');
            }
            None => found.push(String::new()),
        }
    }
    found.retain(|c| !c.is_empty());
    found.iter().map(|c| plain(c)).collect()
}

/// What a comment quotes after naming SEMANTICS.
fn quotations(comment: &str) -> Vec<String> {
    let Some((_, rest)) = comment.split_once("SEMANTICS,") else { return Vec::new() };
    rest.split('"').skip(1).step_by(2).map(|q| q.trim_end_matches('.').to_owned()).collect()
}

/// Everything that is quoted from the contract is written there.
#[test]
fn every_quotation_stands_in_the_contract() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let contract = plain(&std::fs::read_to_string(root.join("docs/SEMANTICS.md")).unwrap());
    let (mut count, mut missing) = (0, Vec::new());
    for entry in std::fs::read_dir(root.join("tests")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "rs") {
            continue;
        }
        for quotation in comments(&std::fs::read_to_string(&path).unwrap()).iter().flat_map(|c| quotations(c))
        {
            count += 1;
            if !contract.contains(&quotation) {
                missing.push(format!("{}: {quotation}", path.file_name().unwrap().display()));
            }
        }
    }
    assert!(count > 50, "only {count} quotations found: the check is void");
    assert!(missing.is_empty(), "not in docs/SEMANTICS.md:\n{}", missing.join("\n"));
}

/// The check sees a quotation over two lines, and one that is not there.
#[test]
fn selftest() {
    let found = comments(
        "x\n    /// SEMANTICS, Cut: \"one\n    /// two.\" and \"three\"\nfn f() {}\n/// \"not ours\"\n",
    );
    let quoted: Vec<String> = found.iter().flat_map(|c| quotations(c)).collect();
    assert_eq!(quoted, ["one two", "three"]);
}
