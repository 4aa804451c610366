//! Dictionaries: what they are, what is read with them, and what without.
use super::*;
use crate::layer::frame::PREAMBLE_BYTES;
use crate::layer::tests::{Items, append, small};
use crate::layer::{Kind, LayerIndex, LayerReader, LayerWriter, Metadata, PackOptions, References};
use crate::path::RelPath;

const GOLDEN: &[u8] = include_bytes!("../../../tests/golden/layer-v3-dictionary.tar.zst");
const GOLDEN_DICTIONARY: &[u8] = include_bytes!("../../../tests/golden/layer-v3.dict");

/// Many files that have much in common.
fn documents(count: u32) -> Items {
    let text = |n: u32| {
        let (a, b) = (n.wrapping_mul(2_654_435_761), n.wrapping_mul(40_503));
        format!(
            "{{\n  \"name\": \"package-{n}\",\n  \"version\": \"{}.{}.{}\",\n  \"license\": \"MIT\",\n  \
             \"repository\": {{ \"type\": \"git\", \"url\": \"https://example.org/package-{a:x}.git\" }},\n  \
             \"dependencies\": {{ \"left\": \"^{}.0.0\", \"right\": \"~{}.{}.1\" }}\n}}\n",
            a % 9,
            b % 31,
            n % 17,
            a % 5,
            b % 7,
            a % 11
        )
    };
    let meta = Metadata { mode: 0o644, ..Metadata::default() };
    (0..count)
        .map(|n| {
            let bytes = text(n).into_bytes();
            let path = RelPath::new(format!("packages/{n}/package.json").as_bytes()).expect("path");
            let kind = Kind::File { size: bytes.len() as u64, fuzzy: false, refs: References::none() };
            (Entry { path, kind, meta: meta.clone() }, Some(bytes))
        })
        .collect()
}

fn samples(items: &Items) -> Vec<Vec<u8>> {
    let content = |bytes: &Option<Vec<u8>>| bytes.clone().unwrap_or_default();
    items.iter().map(|(entry, bytes)| sample(entry, &content(bytes)).expect("sample")).collect()
}

fn trained() -> Dictionary {
    Dictionary::train(&samples(&documents(800))).expect("trains")
}

fn pack(items: &Items, dictionary: Option<&Dictionary>) -> Vec<u8> {
    let mut writer =
        LayerWriter::with_dictionary(Vec::new(), PackOptions { level: 3, threads: 2 }, dictionary.cloned());
    append(&mut writer, items);
    writer.finish().expect("finish").0
}

fn read(layer: &[u8], dictionary: Option<&Dictionary>) -> Result<Items, LayerError> {
    drain(LayerReader::new(layer)?.with_dictionary(dictionary))
}

fn drain<R: io::Read + Send>(mut reader: LayerReader<R>) -> Result<Items, LayerError> {
    let mut items = Items::new();
    while let Some(entry) = reader.next_entry()? {
        let content = match entry.kind {
            Kind::File { .. } => {
                let mut bytes = Vec::new();
                reader.read_content(&mut bytes, 64 << 20)?;
                Some(bytes)
            }
            _ => None,
        };
        items.push((entry, content));
    }
    Ok(items)
}

#[test]
fn a_few_files_become_smaller_and_come_back() {
    let dictionary = trained();
    let few = documents(1003).split_off(1000);
    let (plain, with) = (pack(&few, None), pack(&few, Some(&dictionary)));
    assert!(with.len() + 100 < plain.len(), "{} and {}", with.len(), plain.len());
    assert_eq!(read(&with, Some(&dictionary)).expect("reads"), few);
    // A reader that has a dictionary at hand reads ordinary layers, too.
    assert_eq!(read(&plain, Some(&dictionary)).expect("reads"), few);
    // Plain zstd needs what the layer needs, and no more.
    let raw = |dictionary: &[u8]| {
        let mut raw = Vec::new();
        let mut zstd = zstd::Decoder::with_dictionary(&with[..], dictionary)?;
        io::Read::read_to_end(&mut zstd, &mut raw).map(|_| raw)
    };
    assert_eq!(raw(dictionary.bytes()).expect("zstd -D"), zstd::decode_all(&plain[..]).expect("zstd"));
    assert!(raw(&[]).is_err());
}

#[test]
fn without_it_the_error_says_which_one() {
    let dictionary = trained();
    let other = Dictionary::train(&samples(&documents(700))).expect("trains");
    assert_ne!(dictionary.digest(), other.digest());
    let few = documents(3);
    let layer = pack(&few, Some(&dictionary));
    let named = blake3::Hash::from_bytes(dictionary.digest()).to_hex().to_string();
    for wrong in [None, Some(&other)] {
        match read(&layer, wrong) {
            Err(LayerError::Dictionary { which }) => assert_eq!(which, named),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(LayerReader::lenient(&layer[..]).and_then(drain), Err(LayerError::Dictionary { .. })));

    // A part of it: there is no preamble in it, so the frames speak.
    let tail = LayerIndex::tail_bytes(&layer).expect("tail") as usize;
    let (index, mut rows) =
        LayerIndex::read(&layer[layer.len() - tail..], layer.len() as u64).expect("index");
    let span = rows.next().expect("a row").expect("valid").span();
    let range = index.range(span.clone());
    let section = || {
        let bytes = &layer[range.start as usize..range.end as usize];
        LayerReader::section(bytes, &index, span.clone()).expect("section")
    };
    assert_eq!(drain(section().with_dictionary(Some(&dictionary))).expect("reads"), few[..1]);
    for wrong in [None, Some(&other)] {
        let error = drain(section().with_dictionary(wrong)).expect_err("cannot be read");
        assert!(matches!(&error, LayerError::Dictionary { which } if which.starts_with("number")), "{error}");
    }
}

#[test]
fn what_the_preamble_says_of_it_is_checked() {
    let dictionary = trained();
    let layer = pack(&documents(2), Some(&dictionary));
    for at in 16..PREAMBLE_BYTES {
        let mut bad = layer.clone();
        bad[at] ^= 1;
        assert!(read(&bad, Some(&dictionary)).is_err(), "flipped at {at}");
    }
}

#[test]
fn garbage_is_no_dictionary() {
    let good = trained().bytes().to_vec();
    assert_eq!(Dictionary::new(good.clone()).expect("good").bytes(), good);
    let number = |id: u32| [&good[..4], &id.to_le_bytes(), &good[8..]].concat();
    let torn = good[..40].to_vec();
    let scrambled = [&good[..8], &[0xff; 300]].concat();
    let long = [&good[..], &vec![0; DICTIONARY_BYTES_MAX]].concat();
    for bad in [Vec::new(), b"text".to_vec(), good[4..].to_vec(), number(0), torn, scrambled, long] {
        assert!(matches!(Dictionary::new(bad), Err(LayerError::Corrupt { .. })));
    }
    assert!(Dictionary::train(&samples(&documents(3))).is_err(), "of three files");
}

#[test]
fn golden_bytes_of_a_layer_with_a_dictionary() {
    let dictionary = Dictionary::new(GOLDEN_DICTIONARY.to_vec()).expect("reads");
    assert_eq!(read(GOLDEN, Some(&dictionary)).expect("reads"), small());
    assert!(pack(&small(), Some(&dictionary)) == GOLDEN, "the frames differ: is the zstd library another?");
}

/// Writes the golden files; run by hand when the format gets a new version.
#[test]
#[ignore = "writes the golden files"]
fn write_golden_files() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    let bytes = zstd::dict::from_samples(&samples(&documents(800)), 4 << 10).expect("trains");
    let dictionary = Dictionary::new(bytes).expect("reads");
    std::fs::write(format!("{golden}/layer-v3.dict"), dictionary.bytes()).expect("write");
    let layer = pack(&small(), Some(&dictionary));
    std::fs::write(format!("{golden}/layer-v3-dictionary.tar.zst"), layer).expect("write");
}
