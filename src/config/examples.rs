//! The configuration files that come with antiphon.

/// Name, what it shows, and text.
pub const EXAMPLES: [(&str, &str, &str); 5] = [
    ("antiphon", "every key with its default", include_str!("../../config/antiphon.toml")),
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
