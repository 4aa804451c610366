//! The header parser, with right checksums so that the fields behind them are reached.
#![no_main]
use icecache::layer::tar::{BLOCK, Decoder, Dialect, Header, Pax};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut stream = data.to_vec();
    for block in stream.chunks_exact_mut(BLOCK) {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    if let Ok(block) = <&[u8; BLOCK]>::try_from(stream.get(..BLOCK).unwrap_or_default()) {
        // What is parsed and fits a header comes back as it was.
        if let Ok(Some(header)) = Header::parse(block) {
            let again = Header::parse(&header.encode());
            assert!(again.is_ok());
        }
    }
    if let Ok(pax) = Pax::parse(data) {
        assert_eq!(Pax::parse(&pax.encode()).ok(), Some(pax));
    }
    for dialect in [Dialect::Layer, Dialect::Foreign] {
        let mut input = stream.as_slice();
        let mut decoder = Decoder::new(dialect);
        while let Ok(Some(_)) = decoder.next(&mut input) {}
    }
});
