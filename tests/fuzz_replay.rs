//! The fuzz targets without a fuzzer: the kept corpus, and inputs made here, on stable Rust.

use npfs_tests::{Rng, fuzz, pattern, within};
use std::path::Path;

/// Every kept input of a target.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut inputs = Vec::new();
    for entry in std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
    {
        inputs.push(std::fs::read(entry.expect("an entry").path()).expect("an input"));
    }
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    inputs
}

#[test]
fn grant() {
    within(120, || {
        for input in corpus("grant") {
            fuzz::grant(&input);
        }
        for seed in 0..5000 {
            fuzz::grant(&pattern(seed, npfs_ringbuf::Grant::SIZE));
        }
    });
}

#[test]
fn consumer() {
    within(300, || {
        for input in corpus("consumer") {
            fuzz::consumer(&input);
        }
        let mut rng = Rng::new(7);
        for seed in 0..600 {
            let len = rng.below(900);
            fuzz::consumer(&pattern(seed, len));
        }
    });
}
