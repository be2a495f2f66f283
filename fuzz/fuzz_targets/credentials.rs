//! Whatever is shown as a token, published as a key set, or answered by a hook is survived.
//!
//! The input is one byte for the kind, then the text.
#![no_main]

use antiphon::auth::client_token::Mint;
use antiphon::auth::jwt::{Compact, Rules};
use antiphon::auth::keys::KeySet;
use antiphon::route::decision::Decision;
use libfuzzer_sys::fuzz_target;

const RULES: Rules<'static> = Rules { audience: &[], issuer: &[], leeway: 10 };

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(rest);
    match kind % 4 {
        0 => {
            if let Ok(token) = Compact::parse(&text) {
                let _ = RULES.check(&token.claims, 1_800_000_000, false);
            }
        }
        1 => {
            if let Ok(set) = KeySet::parse(&text, None) {
                let _ = set.find(None).map(|key| key.verifies("signed", "c2lnbmF0dXJl"));
            }
        }
        2 => assert!(Mint::new([]).read(&text, 1_800_000_000, 10, false).is_err()),
        _ => {
            let _ = Decision::read(rest);
        }
    }
});
