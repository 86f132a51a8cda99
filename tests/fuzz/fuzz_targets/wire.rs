//! `npfs_tests::fuzz::wire` on any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| npfs_tests::fuzz::wire(input));
