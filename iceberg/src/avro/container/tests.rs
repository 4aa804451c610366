use super::*;
use crate::avro::{put_bytes, text, walk};

const SCHEMA: &str = r#"{"type":"record","name":"r","fields":[{"name":"p","type":"string","field-id":1,"odd":"kept"},{"name":"n","type":"long"}]}"#;

fn file(codec: &str, blocks: &[&[&str]]) -> Vec<u8> {
    let mut out = container(SCHEMA, &[("own", "kept")], 0, b"");
    let name = out.windows(4).position(|w| w == b"null").unwrap();
    out[name - 1] = (codec.len() * 2) as u8;
    out.splice(name..name + 4, codec.bytes());
    let sync = out[out.len() - SYNC_BYTES..].to_vec();
    for block in blocks {
        let mut content = Vec::new();
        for value in *block {
            put_bytes(&mut content, value.as_bytes());
            put_long(&mut content, 42);
        }
        let packed = Codec::by_name(Some(codec.as_bytes())).unwrap().compress(content).unwrap();
        put_long(&mut out, block.len() as i64);
        put_long(&mut out, packed.len() as i64);
        out.extend_from_slice(&packed);
        out.extend_from_slice(&sync);
    }
    out
}

fn values(bytes: &[u8]) -> Result<Vec<String>, AvroError> {
    let file = Container::parse(bytes)?;
    let mut out = Vec::new();
    file.records(|content, at| {
        walk(&file.schema, file.schema.root(), content, at, |field, item| {
            if field.id == Some(1) {
                out.push(text(&file.schema, &item, content)?.to_owned());
            }
            Ok(())
        })
    })?;
    Ok(out)
}

#[test]
fn a_rewrite_changes_what_it_is_told_to_and_nothing_else() {
    for codec in ["null", "deflate", "snappy", "zstandard"] {
        let bytes = file(codec, &[&["a", "bb"], &["ccc"]]);
        let container = Container::parse(&bytes).unwrap();
        assert_eq!(container.meta("own"), Some(&b"kept"[..]));
        let out = container
            .rewrite(|content, at, edits| {
                walk(&container.schema, container.schema.root(), content, at, |field, item| {
                    if field.id == Some(1) {
                        let mut by = Vec::new();
                        put_bytes(
                            &mut by,
                            format!("<{}>", text(&container.schema, &item, content)?).as_bytes(),
                        );
                        edits.replace(item.range, by);
                    }
                    Ok(())
                })
            })
            .unwrap();
        assert_eq!(values(&out).unwrap(), ["<a>", "<bb>", "<ccc>"], "{codec}");
        assert!(out.starts_with(&bytes[..container.body]), "{codec}");
        assert_eq!(out, file(codec, &[&["<a>", "<bb>", "<ccc>"]]), "{codec}");
    }
}

/// As PyIceberg writes them: a block for each record.
#[test]
fn small_blocks_become_larger_ones_and_large_ones_stay() {
    let small = ["x".repeat(1 << 10), "y".repeat(1 << 10)];
    let large = "z".repeat(BLOCK_BYTES);
    let mut blocks: Vec<&[&str]> = Vec::new();
    let (one, other, big) = ([&*small[0]], [&*small[1]], [&*large]);
    for _ in 0..100 {
        blocks.extend([&one[..], &other[..]]);
    }
    blocks.extend([&big[..], &big[..], &[][..], &one[..]]);
    for codec in ["null", "deflate", "snappy", "zstandard"] {
        let bytes = file(codec, &blocks);
        let container = Container::parse(&bytes).unwrap();
        let end =
            |content: &[u8], at| walk(&container.schema, container.schema.root(), content, at, |_, _| Ok(()));
        let out = container.rewrite(|content, at, _| end(content, at)).unwrap();
        assert_eq!(values(&out).unwrap(), values(&bytes).unwrap(), "{codec}");
        let mut found = Vec::new();
        let written = Container::parse(&out).unwrap();
        written
            .blocks(&written.whole(), &Room::default(), |count, content| {
                found.push((count, content.len()));
                Ok::<_, AvroError>(())
            })
            .unwrap();
        // 3 full ones of 64, the rest with the first large one, the second large one, the last.
        let counts: Vec<u64> = found.iter().map(|(count, _)| *count).collect();
        assert_eq!(counts, [64, 64, 64, 9, 1, 1], "{codec}");
        assert!(found.iter().rev().skip(1).all(|(_, bytes)| *bytes >= BLOCK_BYTES), "{codec}");
    }
}

#[test]
fn the_parts_are_the_whole_whoever_rewrites_them() {
    let names: Vec<String> = (0..3000).map(|n| format!("{n} {}", "x".repeat(200 + n % 50))).collect();
    let blocks: Vec<[&str; 1]> = names.iter().map(|name| [name.as_str()]).collect();
    let blocks: Vec<&[&str]> = blocks.iter().map(|block| &block[..]).collect();
    for codec in ["null", "deflate", "snappy", "zstandard"] {
        let bytes = file(codec, &blocks);
        let container = Container::parse(&bytes).unwrap();
        let runs = container.runs().unwrap();
        assert!(codec != "null" || runs.len() > 4, "{codec}: {} parts", runs.len());
        assert_eq!(runs.iter().map(|run| run.records).sum::<u64>(), 3000, "{codec}");
        let (room, root) = (Room::default(), container.schema.root());
        let mut out = container.head().to_vec();
        for run in &runs {
            let part = container.rewrite_run(run, &room, |content, at, _| {
                walk(&container.schema, root, content, at, |_, _| Ok(()))
            });
            out.extend(part.unwrap());
        }
        assert_eq!(values(&out).unwrap(), names, "{codec}");
        assert!(Container::parse(&out).unwrap().runs().unwrap().len() <= runs.len(), "{codec}");
    }
    let nothing = file("null", &[]);
    assert!(Container::parse(&nothing).unwrap().runs().unwrap().is_empty());
}

#[test]
fn the_parts_of_a_file_share_its_room() {
    let bytes = file("null", &[&["a", "bb"], &["ccc"]]);
    let container = Container::parse(&bytes).unwrap();
    let room = Room(AtomicUsize::new(8));
    let end =
        |content: &[u8], at| walk(&container.schema, container.schema.root(), content, at, |_, _| Ok(()));
    assert_eq!(
        container.records_of(&container.whole(), &room, end),
        Err(AvroError::TooLarge { limit: 1 }),
        "the second block has five bytes, of which there is room for one"
    );
}

#[test]
fn damage_is_an_error() {
    let bytes = file("deflate", &[&["a", "bb"], &["ccc"]]);
    let body = Container::parse(&bytes).unwrap().body;
    let blocks_end: Vec<usize> = {
        let mut at = body;
        let mut ends = vec![body];
        while at < bytes.len() {
            number(&bytes, &mut at).unwrap();
            sized(&bytes, &mut at).unwrap();
            at += SYNC_BYTES;
            ends.push(at);
        }
        ends
    };
    for cut in 0..bytes.len() {
        if !blocks_end.contains(&cut) {
            assert!(values(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }
    let mut more = bytes;
    more[body] = 6; // three records where there are two
    assert!(values(&more).is_err());
}
