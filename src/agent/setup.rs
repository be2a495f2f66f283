//! Which wire field of a vendor each field of the neutral set-up becomes: data that `check` and the documentation use.

use crate::agent::AgentOutput;
use crate::config::settings::{AgentKind, AgentSettings};
use crate::config::vendor::VendorKind;
use crate::message::{AgentStart, FromAgent, Setup, ToAgent};
use crate::time::Micros;

/// One row: the neutral field, and the vendor's field that it becomes; `None`: not supported.
pub type SetupRow = (&'static str, Option<&'static str>);

/// The table of a kind.
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

/// The fields of `setup` that have no effect at this agent as they are set: those that its kind has no word for, and
/// those that it could not carry when it was told of them. What the vendor refuses is known in a call only.
pub fn without_effect(settings: &AgentSettings, setup: &Setup) -> Vec<String> {
    let AgentKind::Vendor(vendor) = &settings.kind else { return Vec::new() };
    let table = table(vendor.kind);
    let lacks = |field: &String| table.iter().any(|(name, wire)| name == field && wire.is_none());
    let mut fields: Vec<String> = setup.set_fields().into_iter().filter(lacks).collect();
    for field in not_applied(settings, setup) {
        if !fields.contains(&field) {
            fields.push(field);
        }
    }
    fields
}

/// What an agent says when it is told of a set-up.
fn not_applied(settings: &AgentSettings, setup: &Setup) -> Vec<String> {
    let Ok(mut agent) = super::build(settings, setup, 0) else { return Vec::new() };
    let now = Micros::ZERO;
    agent.handle_open(now);
    agent.handle_session(
        ToAgent::Start(AgentStart {
            setup: setup.clone(),
            context: Vec::new(),
            session_id: "check".into(),
            conversation_id: "check".into(),
            client_context: None,
            metadata: None,
            greet: true,
            client: None,
        }),
        now,
    );
    let mut fields = Vec::new();
    loop {
        match agent.poll(now) {
            AgentOutput::Idle { .. } => return fields,
            AgentOutput::Event(FromAgent::NotApplied(told)) => fields = told,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::vendor::VendorAgent;

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
            assert_eq!(named, fields, "{}", kind.label());
        }
    }

    /// A set-up that no kind can carry as it stands says so for each kind, before a call is made.
    #[test]
    fn what_a_kind_cannot_carry_as_it_is_set_is_known_without_a_call() {
        let setup: Setup = serde_json::from_value(serde_json::json!({
            "instructions": "Be brief.", "voice": "v", "language": "de", "model": "m", "greeting": {"clip": "hi.wav"},
            "transcribe": false, "turns": {"detect": "relay"}, "tools": ["unknown"],
        }))
        .expect("a set-up");
        let expected = [
            (VendorKind::Openai, "greeting tools"),
            (VendorKind::Live, "greeting language tools transcribe turns"),
            (VendorKind::Elevenlabs, "greeting tools transcribe turns"),
            (VendorKind::Deepgram, "greeting tools transcribe turns"),
            (VendorKind::Gemini, "greeting tools"),
            (VendorKind::Pipecat, "greeting instructions language model tools transcribe turns voice"),
            (VendorKind::Chat, "greeting language tools transcribe turns voice"),
        ];
        for (kind, fields) in expected {
            let settings = AgentSettings::example(AgentKind::Vendor(VendorAgent::example(kind)));
            let mut found = without_effect(&settings, &setup);
            found.sort();
            assert_eq!(found.join(" "), fields, "{}", kind.label());
        }
    }
}
