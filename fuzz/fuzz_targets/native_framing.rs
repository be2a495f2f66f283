//! See `antiphon_fuzz::native`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| antiphon_fuzz::native::run(data));
