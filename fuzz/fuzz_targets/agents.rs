//! See `antiphon_fuzz::agents`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| antiphon_fuzz::agents::run(data));
