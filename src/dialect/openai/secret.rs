//! What a server asks for its client's session when it has an ephemeral key made (`POST /v1/realtime/client_secrets`).

use serde_json::Value;

use super::effective;
use crate::ids::AgentName;
use crate::media::format::Format;
use crate::message::{AudioFormats, Setup};

/// The neutral set-up, the agent that is meant, and the session as the server is told of it.
pub fn session_of_secret(id: &str, asked: &Value) -> (Setup, Option<AgentName>, Value) {
    let pcm = Format::pcm16(24_000);
    let model = asked["model"].as_str().filter(|model| !model.is_empty());
    let audio = AudioFormats { uplink: pcm, downlink: pcm, flow: None };
    let audio = effective::formats(asked, audio).unwrap_or(audio);
    let setup = effective::setup(asked);
    let session = effective::session(id, model.unwrap_or("default"), Some(audio), &setup);
    (setup, model.map(AgentName::from), session)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_session_is_taken_apart_and_described() {
        let asked = json!({"type": "realtime", "model": "support", "instructions": "Be kind.",
            "audio": {"output": {"voice": "marin"}}});
        let (setup, agent, session) = session_of_secret("sess_1", &asked);
        assert_eq!(
            (agent, setup.set_fields()),
            (Some("support".into()), vec!["instructions".to_owned(), "voice".to_owned()])
        );
        assert_eq!((&session["id"], &session["model"]), (&json!("sess_1"), &json!("support")));
        assert_eq!(session["audio"]["output"]["voice"], "marin");
        let (setup, agent, session) = session_of_secret("sess_1", &Value::Null);
        assert_eq!((agent, setup), (None, Setup::default()));
        assert_eq!(session["object"], "realtime.session");
    }
}
