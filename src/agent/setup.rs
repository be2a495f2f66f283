//! Which wire field of a vendor each field of the neutral set-up becomes: data that `check` and the documentation use.

use crate::config::vendor::VendorKind;
use crate::message::Setup;

/// One row: the neutral field, and the vendor's field that it becomes; `None`: not supported.
pub type SetupRow = (&'static str, Option<&'static str>);

/// The table of a kind; empty for a kind that is not served.
pub fn table(kind: VendorKind) -> &'static [SetupRow] {
    match kind {
        VendorKind::Deepgram => crate::agent::deepgram::SETUP,
        VendorKind::Elevenlabs => crate::agent::elevenlabs::SETUP,
        VendorKind::Gemini => crate::agent::gemini::SETUP,
        VendorKind::Openai => crate::agent::openai::opening::SETUP,
        VendorKind::Pipecat => crate::agent::pipecat::SETUP,
        VendorKind::Chat => crate::agent::chat::SETUP,
        VendorKind::Live => crate::agent::live::opening::SETUP,
    }
}

/// The fields of `setup` that are set and that the kind does not support.
pub fn unsupported(kind: VendorKind, setup: &Setup) -> Vec<String> {
    let table = table(kind);
    let lacks = |field: &String| table.iter().any(|(name, wire)| name == field && wire.is_none());
    setup.set_fields().into_iter().filter(lacks).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_has_a_row_for_each_field_of_the_set_up() {
        let all: Setup = serde_json::from_value(serde_json::json!({
            "instructions": "", "voice": "", "language": "", "model": "", "greeting": "agent", "transcribe": true,
            "turns": {"detect": "server"}, "tools": [],
        }))
        .expect("a set-up");
        let fields = all.set_fields();
        for kind in VendorKind::ALL {
            let table = table(kind);
            let named: Vec<&str> = table.iter().map(|(field, _)| *field).collect();
            assert!(table.is_empty() || named == fields, "{}: {named:?} is not {fields:?}", kind.label());
        }
    }
}
