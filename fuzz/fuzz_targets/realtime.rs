//! See `antiphon_fuzz::realtime`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| antiphon_fuzz::realtime::run(data));
