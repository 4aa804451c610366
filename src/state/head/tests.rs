//! HEAD documents: bytes, refusals, history.
use super::*;
use std::collections::{BTreeSet, HashSet};

pub(crate) fn layer(key: &str) -> LayerRef {
    LayerRef {
        key: key.into(),
        bytes: 1234,
        raw_bytes: 5678,
        digest: Digest([0xab; 32]),
        entries: 3,
        table: None,
        dictionary: None,
        version: 0,
        base: None,
        refers: Vec::new(),
        time: "2026-11-21T14:00:00.000000001Z".parse().expect("time"),
        writer: Uuid::from_u128(7),
        changed: 2,
        removed: 1,
        fuzzy: 0,
        inline: None,
        extra: Map::new(),
    }
}

fn head() -> Head {
    Head::empty("work", Uuid::from_u128(7), "box").next(Uuid::from_u128(7), "box", layer("layers/1.tar.zst"))
}

fn reseal(edit: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut value: Value = serde_json::from_slice(&head().to_bytes().expect("bytes")).expect("json");
    edit(&mut value);
    let sum = checksum(&mut value);
    value["checksum"] = sum.into();
    serde_json::to_vec(&value).expect("bytes")
}

#[test]
fn golden_document() {
    let bytes = head().to_bytes().expect("bytes");
    assert_eq!(String::from_utf8_lossy(&bytes), include_str!("golden.json").trim_end());
    let mut parsed = Head::parse(&bytes).expect("parses");
    parsed.checksum.clear();
    assert_eq!(parsed, head());
}

/// A document without the field is not of that layout, and none is written.
#[test]
fn golden_field_of_the_archive_log() {
    let mut head = head();
    let plain = head.to_bytes().expect("bytes");
    head.log = true;
    let bytes = head.to_bytes().expect("bytes");
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.ends_with(r#","log":true}"#), "{text}");
    assert!(Head::parse(&bytes).expect("parses").log && !Head::parse(&plain).expect("parses").log);
    assert!(!String::from_utf8_lossy(&plain).contains("log"));
    let next = head.next(Uuid::from_u128(8), "b", layer("layers/2.tar.zst"));
    assert!(next.log && next.fork("work.fork-b").log);
    let mut merged = next.merged(0..1, LayerRef { version: 1, ..layer("layers/m.tar.zst") }, Tag("t".into()));
    assert_eq!(merged.retain(merged.kept((1, VERSIONS_MAX), None), &HashSet::new(), merged.time), 1);
    assert!(merged.unneeded.is_empty() && merged.held.is_empty());
}

/// Documents of before get it with their next version.
#[test]
fn golden_field_of_the_history() {
    let begun = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001);
    let mut head = head();
    let plain = String::from_utf8_lossy(&head.to_bytes().expect("bytes")).into_owned();
    assert!(!plain.contains("history"), "{plain}");
    assert!(!head.is_of_another_history(Some(begun)), "nothing is known of it");
    head = head.next(Uuid::from_u128(8), "b", layer(&layer_key(begun)));
    let text = String::from_utf8_lossy(&head.to_bytes().expect("bytes")).into_owned();
    assert!(text.contains(r#","history":"01900000-0000-7000-8000-000000000001""#), "{text}");
    let later = head.next(Uuid::from_u128(8), "b", layer(&layer_key(Uuid::from_u128(2)))).fork("work.fork-b");
    assert_eq!(later.history, Some(begun));
    assert!(later.is_of_another_history(Some(Uuid::from_u128(2))));
    assert!(!later.is_of_another_history(Some(begun)) && !later.is_of_another_history(None));
}

/// `golden.json` is what was written before layers had a table.
#[test]
fn golden_document_with_a_table() {
    let mut head = head();
    head.layers[0].table = Some(Tail { bytes: 96, digest: [0xcd; 32] }.into());
    let bytes = head.to_bytes().expect("bytes");
    assert_eq!(String::from_utf8_lossy(&bytes), include_str!("golden-table.json").trim_end());
    let mut parsed = Head::parse(&bytes).expect("parses");
    parsed.checksum.clear();
    assert_eq!(parsed, head);
}

/// A layer that HEAD itself holds.
fn with_inline(bytes: &[u8]) -> Head {
    let key = layer_key(Uuid::from_u128(5));
    let digest = Digest(*blake3::hash(bytes).as_bytes());
    let inline = Some(Inline(bytes::Bytes::copy_from_slice(bytes)));
    let layer = LayerRef { bytes: bytes.len() as u64, digest, inline, ..layer(&key) };
    Head::empty("work", Uuid::from_u128(7), "box").next(Uuid::from_u128(7), "box", layer)
}

#[test]
fn golden_document_with_a_layer_in_it() {
    // Written before there was a history.
    let head = Head { history: None, ..with_inline(b"a layer\xff") };
    let bytes = head.to_bytes().expect("bytes");
    assert_eq!(String::from_utf8_lossy(&bytes), include_str!("golden-inline.json").trim_end());
    let mut parsed = Head::parse(&bytes).expect("parses");
    parsed.checksum.clear();
    assert_eq!(parsed, head);
    // It is held and lighter like any other.
    let mut merged = head.next(Uuid::from_u128(8), "b", layer("layers/2.tar.zst")).merged(
        0..1,
        LayerRef { version: 1, ..layer("layers/m.tar.zst") },
        Tag("t".into()),
    );
    assert_eq!(merged.inlined().count(), 1);
    merged.lighten(|_| false);
    assert_eq!(merged.inlined().count(), 1);
    merged.lighten(|key| key == layer_key(Uuid::from_u128(5)));
    assert_eq!(merged.inlined().count(), 0);
    assert_eq!(merged.held[0].digest, head.layers[0].digest);
}

/// What stands in HEAD is read in place of an object: it must be the one that is listed, and a layer's key, since HEAD is
/// an object, too.
#[test]
fn a_layer_in_a_document_is_what_the_document_says() {
    let long = with_inline(&vec![7; INLINE_BYTES_MAX]);
    assert!(Head::parse(&long.to_bytes().expect("as long as it may be")).is_ok());
    assert!(with_inline(&vec![7; INLINE_BYTES_MAX + 1]).to_bytes().is_err());
    let wrong = |edit: &dyn Fn(&mut LayerRef)| {
        let mut head = with_inline(b"a layer");
        edit(&mut head.layers[0]);
        assert!(matches!(head.to_bytes(), Err(HeadError::Invalid(_))), "{head:?}");
    };
    wrong(&|layer| layer.bytes += 1);
    wrong(&|layer| layer.digest = Digest([1; 32]));
    wrong(&|layer| layer.key = "work/HEAD".into());
    wrong(&|layer| layer.key = "layers/1.tar.zst".into());
    for text in ["YQ", "Y Q==", "YQ==YQ==", &"A".repeat(INLINE_BYTES_MAX * 2)] {
        let bytes = reseal(|v| v["layers"][0]["inline"] = text.into());
        assert!(matches!(Head::parse(&bytes), Err(HeadError::Invalid(_))), "{}", text.len());
    }
}

#[test]
fn unknown_fields_survive_a_rewrite_and_are_under_the_checksum() {
    let bytes = reseal(|v| {
        v["labels"] = serde_json::json!({"v1": 1});
        v["layers"][0]["hint"] = serde_json::json!({"at": 100});
        let digest = "cd".repeat(32);
        v["layers"][0]["table"] = serde_json::json!({"bytes": 96, "digest": digest, "depth": 7});
    });
    let read = Head::parse(&bytes).expect("parses");
    let next = read.next(Uuid::from_u128(8), "other", layer("layers/2.tar.zst"));
    let again = Head::parse(&next.to_bytes().expect("bytes")).expect("parses");
    assert_eq!(again.extra["labels"]["v1"], 1);
    assert_eq!(again.layers[0].extra["hint"]["at"], 100);
    assert_eq!(again.layers[0].table.as_ref().expect("kept").extra["depth"], 7);
    assert_eq!((again.version, again.parent), (2, 1));
    let tampered = String::from_utf8(bytes).expect("text").replace("\"at\":100", "\"at\":101");
    assert!(matches!(Head::parse(tampered.as_bytes()), Err(HeadError::Checksum)));
}

#[test]
fn another_order_and_spacing_of_fields_is_the_same_document() {
    let value: Value = serde_json::from_slice(&head().to_bytes().expect("bytes")).expect("json");
    let pretty = serde_json::to_vec_pretty(&value).expect("bytes");
    Head::parse(&pretty).expect("parses");
}

#[test]
fn refuses_what_is_not_whole_known_and_consistent() {
    let refused = |edit: fn(&mut Value)| Head::parse(&reseal(edit)).expect_err("refused");
    assert!(matches!(Head::parse(b""), Err(HeadError::Foreign(_))));
    assert!(matches!(Head::parse(b"{}"), Err(HeadError::Foreign(_))));
    assert!(matches!(Head::parse(b"<html>"), Err(HeadError::Foreign(_))));
    assert!(matches!(refused(|v| v["format"] = "x".into()), HeadError::Foreign(_)));
    assert!(matches!(refused(|v| v["format_version"] = 2.into()), HeadError::Version(2)));
    let mut bytes = head().to_bytes().expect("bytes");
    let at = bytes.windows(4).position(|w| w == b"1234").expect("there");
    bytes[at] = b'9';
    assert!(matches!(Head::parse(&bytes), Err(HeadError::Checksum)));
    bytes.truncate(bytes.len() / 2);
    assert!(matches!(Head::parse(&bytes), Err(HeadError::Foreign(_))));
    let edits: [fn(&mut Value); 16] = [
        |v| v["layers"][0]["table"] = serde_json::json!({"bytes": 1235, "digest": "cd".repeat(32)}),
        |v| v["layers"][0]["table"] = serde_json::json!({"bytes": 0, "digest": "cd".repeat(32)}),
        |v| v["layers"][0]["table"] = serde_json::json!({"bytes": 96}),
        |v| v["version"] = 0.into(),
        |v| v["parent"] = 1.into(),
        |v| v["layers"] = serde_json::json!([]),
        |v| v["layers"][0]["version"] = 0.into(),
        |v| v["layers"][0]["version"] = 2.into(),
        |v| v["layers"][0]["bytes"] = u64::MAX.into(),
        |v| v["layers"][0]["key"] = "../x".into(),
        |v| v["layers"][0]["digest"] = "abc".into(),
        |v| v["name"] = "../x".into(),
        |v| v["tags"] = serde_json::json!({"v1": 2}),
        |v| v["tags"] = serde_json::json!({"v1": 0}),
        |v| v["tags"] = serde_json::json!({"17": 1}),
        |v| v["formerly"] = serde_json::json!(["x".repeat(1025)]),
    ];
    for edit in edits {
        assert!(matches!(refused(edit), HeadError::Invalid(_)));
    }
    let two = |second: LayerRef| {
        let mut two = head().next(Uuid::from_u128(7), "box", layer("layers/2.tar.zst"));
        two.layers[1] = second;
        two.to_bytes()
    };
    let with = |key: &str, version| LayerRef { version, ..layer(key) };
    assert!(two(with("layers/2.tar.zst", 2)).is_ok());
    assert!(matches!(two(with("layers/2.tar.zst", 1)), Err(HeadError::Invalid(_))));
    assert!(matches!(two(with("layers/1.tar.zst", 2)), Err(HeadError::Invalid(_))));
}

#[test]
fn names_that_would_leave_their_place_are_refused() {
    for name in ["", ".", "..", ".x", "a/b", "layers", "a\nb", &"x".repeat(201)] {
        assert!(check_name(name).is_err(), "{name:?}");
    }
    for name in ["work", "a b", "größe", "x.fork-box-20261121T140000Z"] {
        assert!(check_name(name).is_ok(), "{name:?}");
    }
}

#[test]
fn history_and_earlier_versions() {
    let two = head().next(Uuid::from_u128(8), "b", layer("layers/2.tar.zst"));
    assert_eq!(two.versions().iter().map(|(l, _)| l.version).collect::<Vec<_>>(), [2, 1]);
    let one = two.at(1).expect("version 1");
    assert_eq!((one.version, one.parent, one.layers.len()), (1, 0, 1));
    assert_eq!(two.at(3), None);
    let fork = two.fork("work.fork-b");
    assert_eq!(fork.forked_from.as_ref().map(|f| (f.name.as_str(), f.version)), Some(("work", 2)));
    assert_eq!((fork.name.as_str(), fork.version), ("work.fork-b", 2));
}

#[test]
fn tags_stay_with_their_versions() {
    let stored = |text: &str| Tag(text.into());
    let one = head().tagged("good", Some(1), stored("e1"));
    let read = Head::parse(&one.to_bytes().expect("bytes")).expect("parses");
    assert_eq!((read.tags["good"], &read.formerly), (1, &vec![stored("e1")]));
    assert!(read.is_version_of(&head()) && read.was(1, &stored("e1")) && !read.was(1, &stored("e2")));
    let two =
        one.next(Uuid::from_u128(8), "b", layer("layers/2.tar.zst")).tagged("new", Some(2), stored("e2"));
    assert_eq!(two.tags.keys().collect::<Vec<_>>(), ["good", "new"]);
    assert_eq!(two.formerly, [stored("e2")]);
    assert!(!two.is_version_of(&one) && !two.was(1, &stored("e1")));
    let earlier = two.at(1).expect("version 1");
    assert_eq!(earlier.tags.keys().collect::<Vec<_>>(), ["good"]);
    assert!(earlier.to_bytes().is_ok() && earlier.formerly.is_empty());
    let fork = two.fork("work.fork-b");
    assert_eq!((fork.tags.len(), fork.formerly.len()), (2, 0));
    let many = (0..100).fold(two, |head, n| head.tagged("new", Some(1), stored(&n.to_string())));
    assert_eq!(many.formerly.len(), 64);
    assert!(many.was(2, &stored("99")) && many.to_bytes().is_ok());
    assert!(many.tagged("good", None, stored("x")).tags.keys().eq(["new"]));
}

#[test]
fn a_tag_is_a_plain_word_and_no_number() {
    for tag in ["", "17", "a b", "a/b", "ä", "a\n", &"x".repeat(129)] {
        assert!(check_tag(tag).is_err(), "{tag:?}");
    }
    for tag in ["v1", "1.0", "release_2-x", "-", &"x".repeat(128)] {
        assert!(check_tag(tag).is_ok(), "{tag:?}");
    }
}

#[test]
fn merged_layers_leave_every_kept_version_its_chain() {
    let writer = Uuid::from_u128(7);
    let mut head = head();
    for n in 2..=6 {
        head = head.next(writer, "box", layer(&format!("layers/{n}.tar.zst")));
    }
    let keys = |head: &Head| head.layers.iter().map(|l| l.key.clone()).collect::<Vec<_>>();
    let (before, at_three) = (head.clone(), head.at(3).expect("version 3"));
    let mut merged = head.merged(1..4, LayerRef { version: 4, ..layer("layers/m.tar.zst") }, Tag("t".into()));
    assert_eq!(
        keys(&merged),
        ["layers/1.tar.zst", "layers/m.tar.zst", "layers/5.tar.zst", "layers/6.tar.zst"]
    );
    assert!(merged.is_version_of(&before) && merged.was(6, &Tag("t".into())));
    // All are kept: version 4 is the merged one's, the others have their own layers.
    assert_eq!(merged.retain(merged.kept((9, VERSIONS_MAX), None), &HashSet::new(), merged.time), 1);
    assert_eq!(merged.unneeded.iter().map(|u| u.key.as_str()).collect::<Vec<_>>(), ["layers/4.tar.zst"]);
    assert_eq!(
        merged.versions().iter().map(|(l, n)| (l.version, *n)).collect::<Vec<_>>(),
        [(6, 4), (5, 3), (4, 2), (3, 3), (2, 2), (1, 1)]
    );
    assert_eq!(keys(&merged.at(3).expect("version 3")), keys(&at_three));
    assert_eq!(keys(&merged.at(4).expect("version 4")), ["layers/1.tar.zst", "layers/m.tar.zst"]);
    let read = Head::parse(&merged.to_bytes().expect("bytes")).expect("reads");
    assert_eq!((&read.layers, &read.held, &read.unneeded), (&merged.layers, &merged.held, &merged.unneeded));
    // Two are kept, one that has a tag, and what somebody still reads.
    let mut few = merged.clone();
    few.tags.insert("good".into(), 2);
    let local = ["layers/3.tar.zst".to_owned()].into();
    assert_eq!(few.retain(few.kept((2, VERSIONS_MAX), None), &local, few.time), 0);
    assert_eq!(few.retain(few.kept((2, VERSIONS_MAX), None), &HashSet::new(), few.time), 1);
    assert_eq!(few.versions().iter().map(|(l, _)| l.version).collect::<Vec<_>>(), [6, 5, 4, 2, 1]);
    assert!(few.at(3).is_none());
    // The next version goes on from there.
    let next = few.next(writer, "box", layer("layers/7.tar.zst"));
    assert_eq!((next.version, next.layers.len(), next.held.len()), (7, 5, few.held.len()));
}

#[test]
fn several_versions_need_what_each_of_them_needs() {
    let writer = Uuid::from_u128(7);
    let mut head = head();
    for n in 2..=9 {
        head = head.next(writer, "box", layer(&format!("layers/{n}.tar.zst")));
    }
    head.layers[4].refers = vec!["layers/2.tar.zst".into()];
    for (run, version) in [(1..4, 4), (2..4, 6), (1..3, 6)] {
        let key = format!("layers/m{}-{version}.tar.zst", head.held.len());
        head = head.merged(run, LayerRef { version, ..layer(&key) }, Tag("t".into()));
    }
    head.check_layers().expect("valid");
    let alone = |version: u64| -> BTreeSet<String> {
        let chain = head.chain(version).into_iter().flatten();
        chain.flat_map(|layer| layer.refers.iter().cloned().chain([layer.key.clone()])).collect()
    };
    for some in 0u32..1 << 11 {
        let versions: Vec<u64> = (0..11).filter(|n| some & (1 << n) != 0).collect();
        let each: BTreeSet<String> = versions.iter().copied().flat_map(alone).collect();
        assert_eq!(head.needed(versions.iter().copied()), each, "{versions:?}");
    }
    assert!(head.kept((9, 2), None).len() == 2, "no more than the most");
}

/// What was written could not be read by anybody.
#[test]
fn a_document_that_is_too_long_is_not_written() {
    let mut head = head();
    let long = "k".repeat(KEY_BYTES_MAX - 20);
    let held = |n: u64| LayerRef { base: Some(0), version: 1, ..layer(&format!("layers/{long}{n}")) };
    head.held = (0..HEAD_BYTES_MAX as u64 / KEY_BYTES_MAX as u64).map(held).collect();
    assert!(matches!(head.to_bytes(), Err(HeadError::Invalid(why)) if why.contains("longer")));
    head.held.truncate(10);
    assert!(head.to_bytes().is_ok());
}

#[test]
fn what_is_gone_is_listed_no_longer() {
    let mut head = head();
    let since = head.time;
    let unneeded =
        |n: usize| Unneeded { key: format!("layers/u{n}.tar.zst"), bytes: 1, since, extra: Map::new() };
    head.unneeded = vec![unneeded(1), unneeded(2)];
    let gone = ["layers/u1.tar.zst".to_owned(), "layers/other".to_owned()].into();
    let pruned = head.pruned(&gone, Tag("t".into()));
    assert_eq!(pruned.unneeded, [unneeded(2)]);
    assert!(pruned.is_version_of(&head) && pruned.was(1, &Tag("t".into())) && pruned.to_bytes().is_ok());
    // Where they are never deleted the list has an end.
    head.unneeded = (0..UNNEEDED_MAX + 5).map(unneeded).collect();
    head.retain([1], &HashSet::new(), since);
    assert_eq!((head.unneeded.len(), &head.unneeded[0]), (UNNEEDED_MAX, &unneeded(5)));
}

#[test]
fn what_somebody_still_reads_keeps_what_it_refers_to() {
    let mut head = head();
    let of_before = |n: u64, refers: &[&str]| LayerRef {
        base: Some(0),
        version: 1,
        refers: refers.iter().map(|key| (*key).to_owned()).collect(),
        ..layer(&format!("layers/h{n}.tar.zst"))
    };
    head.held = vec![of_before(1, &["layers/h2.tar.zst"]), of_before(2, &[]), of_before(3, &[])];
    let local = ["layers/h1.tar.zst".to_owned()].into();
    assert_eq!(head.retain([1], &local, head.time), 1);
    assert_eq!(head.unneeded[0].key, "layers/h3.tar.zst");
    assert!(head.lends(&["layers/h2.tar.zst".to_owned()]) && !head.lends(&["layers/h3.tar.zst".to_owned()]));
}

#[test]
fn a_layer_may_refer_only_to_what_is_listed() {
    let mut head = head().next(Uuid::from_u128(7), "box", layer("layers/2.tar.zst"));
    head.layers[1].refers = vec!["layers/1.tar.zst".into()];
    assert!(head.to_bytes().is_ok());
    head.layers[1].refers = vec!["layers/9.tar.zst".into()];
    assert!(matches!(head.to_bytes(), Err(HeadError::Invalid(_))));
    head.held = vec![LayerRef { base: Some(0), version: 1, ..layer("layers/9.tar.zst") }];
    assert!(head.to_bytes().is_ok());
    assert!(head.needed([2]).contains("layers/9.tar.zst"));
}

/// A layer that is held for what others refer to is not yet a version that can be had.
#[test]
fn a_version_whose_layers_lack_what_they_refer_to_is_none() {
    let mut head = head();
    for n in 2..=5 {
        head = head.next(Uuid::from_u128(7), "box", layer(&format!("layers/{n}.tar.zst")));
    }
    head.layers[2].refers = vec!["layers/2.tar.zst".into()];
    // 3 builds on 2, which is in the merged layer as well; later ones refer to it.
    let merged =
        LayerRef { version: 4, refers: vec!["layers/3.tar.zst".into()], ..layer("layers/m.tar.zst") };
    let mut head = head.merged(1..4, merged, Tag("t".into()));
    let versions = |head: &Head| head.versions().iter().map(|(l, _)| l.version).collect::<Vec<_>>();
    assert_eq!(versions(&head), [5, 4, 3, 2, 1]);
    // What it refers to goes, and the version that it builds on can be had from another layer.
    head.held.retain(|held| held.key != "layers/2.tar.zst");
    let second = LayerRef { base: Some(1), version: 2, ..layer("layers/again.tar.zst") };
    head.held.push(second);
    head.check_layers().expect("valid");
    assert_eq!(versions(&head), [5, 4, 2, 1]);
    assert!(head.chain(3).is_none() && head.at(3).is_none() && head.at(2).is_some());
    assert_eq!(head.kept((3, VERSIONS_MAX), None), BTreeSet::from([5, 4, 2]));
}
