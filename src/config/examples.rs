//! The configuration files that come with antiphon.

/// Name, what it shows, and text.
pub const EXAMPLES: [(&str, &str, &str); 13] = [
    ("antiphon", "every key with its default", include_str!("../../config/antiphon.toml")),
    ("openai", "OpenAI Realtime", include_str!("../../config/examples/openai.toml")),
    ("openai-live", "OpenAI Live", include_str!("../../config/examples/openai-live.toml")),
    ("azure-openai", "OpenAI Realtime at Azure", include_str!("../../config/examples/azure-openai.toml")),
    ("xai", "xAI, which speaks the wire of OpenAI Realtime", include_str!("../../config/examples/xai.toml")),
    ("elevenlabs", "ElevenLabs Conversational AI", include_str!("../../config/examples/elevenlabs.toml")),
    ("deepgram", "Deepgram Voice Agent", include_str!("../../config/examples/deepgram.toml")),
    ("gemini", "Gemini Live", include_str!("../../config/examples/gemini.toml")),
    ("pipecat", "a Pipecat bot over WebSocket", include_str!("../../config/examples/pipecat.toml")),
    ("own-websocket", "your own agent server over WebSocket", include_str!("../../config/examples/own-websocket.toml")),
    (
        "edge-and-core",
        "two antiphons in a row, QUIC between them",
        include_str!("../../config/examples/edge-and-core.toml"),
    ),
    (
        "failover",
        "two agents by weight, a third and a spoken apology when they fail",
        include_str!("../../config/examples/failover.toml"),
    ),
    (
        "tenants",
        "one route per kind of customer, with keys and limits",
        include_str!("../../config/examples/tenants.toml"),
    ),
];

/// The text of an example.
pub fn example(name: &str) -> Option<&'static str> {
    EXAMPLES.iter().find(|(known, _, _)| *known == name).map(|(_, _, text)| *text)
}
