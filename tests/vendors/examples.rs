//! The files that come with antiphon, called with only the URL replaced by an emulator's; and the ways in which a key is
//! presented.

use std::sync::Arc;

use antiphon::cli::emulate::vendor::script::Script;
use antiphon::cli::emulate::{AgentMode, AgentProtocol, WsAgent, WsAgentArgs};
use antiphon::config::examples::{EXAMPLES, example};
use antiphon::config::vendor::VendorKind;
use antiphon::media::format::Format;

use crate::Vendor;
use crate::harness::{Daemon, folder};
use crate::person::Person;

/// Example files whose agents are called with a key: the file, the agent in it, its kind.
pub const WITH_KEYS: [(&str, &str, VendorKind); 7] = [
    ("openai", "openai", VendorKind::Openai),
    ("openai-live", "live", VendorKind::Live),
    ("azure-openai", "azure", VendorKind::Openai),
    ("xai", "xai", VendorKind::Openai),
    ("elevenlabs", "elevenlabs", VendorKind::Elevenlabs),
    ("deepgram", "deepgram", VendorKind::Deepgram),
    ("gemini", "gemini", VendorKind::Gemini),
];
/// The variables in which the examples expect these keys.
pub const KEYS: [&str; 6] = [
    "OPENAI_API_KEY",
    "AZURE_OPENAI_API_KEY",
    "XAI_API_KEY",
    "ELEVENLABS_API_KEY",
    "DEEPGRAM_API_KEY",
    "GEMINI_API_KEY",
];

/// Calls an agent of an example and hears its voice.
async fn hears_a_voice(name: &str, agent: &str, daemon: &Daemon) {
    let mut person = Person::call(daemon, agent, Format::OPUS).await;
    person.until("the greeting", |person| person.played_ms() > 500.0).await;
    assert!(person.code().is_none() && person.loudest > 3_000, "{name}: {:?}", person.messages);
    let errors = person.said("error");
    assert!(errors.is_empty(), "{name}: {errors:?}");
}

#[tokio::test]
async fn the_example_files_of_vendors_hold_calls_with_only_the_url_replaced() {
    let pipecat = ("pipecat", "bot", VendorKind::Pipecat);
    for (name, agent, kind) in WITH_KEYS.into_iter().chain([pipecat]) {
        let key = (kind != VendorKind::Pipecat).then_some("secret");
        let vendor = Vendor::start(kind, key, Script::default()).await;
        let url = format!("ANTIPHON_AGENT__{}__URL", agent.to_uppercase());
        let mut variables: Vec<(&str, &str)> = KEYS.iter().map(|key| (*key, "secret")).collect();
        variables.extend([("ELEVENLABS_AGENT_ID", "agent_1"), (url.as_str(), vendor.url.as_str())]);
        let daemon = Daemon::start_with(Some(example(name).unwrap()), &variables).await;
        hears_a_voice(name, agent, &daemon).await;
    }
}

/// An agent server of the kind `websocket` in this process; its URL.
async fn server(protocol: AgentProtocol) -> String {
    let args = WsAgentArgs {
        listen: "127.0.0.1:0".parse().unwrap(),
        mode: AgentMode::Talk,
        format: None,
        protocol,
        close_after: None,
        close_code: 1011,
        stall: None,
        log: false,
    };
    let server = WsAgent::bind(args, Arc::new(|_| {})).await.unwrap();
    let url = server.url();
    tokio::spawn(server.serve());
    url
}

#[tokio::test]
async fn the_other_example_files_hold_calls_with_only_the_urls_replaced() {
    let (plain, native) = (server(AgentProtocol::Plain).await, server(AgentProtocol::Native).await);
    let calls = [
        ("own-websocket", "mine", vec![("ANTIPHON_AGENT__MINE__URL", plain.as_str())]),
        ("failover", "main", vec![("ANTIPHON_AGENT__MAIN__URL", &native), ("ANTIPHON_AGENT__TRIAL__URL", &native)]),
        // Nobody is there: the next one answers, down to the apology.
        (
            "failover",
            "",
            vec![
                ("ANTIPHON_AGENT__MAIN__URL", "ws://127.0.0.1:9/"),
                ("ANTIPHON_AGENT__TRIAL__URL", "ws://127.0.0.1:9/"),
            ],
        ),
        ("tenants", "eu", vec![("ANTIPHON_AGENT__EU__URL", &native)]),
    ];
    for (name, agent, mut variables) in calls {
        variables.extend([("AGENT_KEY", "secret"), ("AGENT_KEY_ACME", "secret")]);
        let daemon = Daemon::start_with(Some(example(name).unwrap()), &variables).await;
        let agent = if agent.is_empty() { "main" } else { agent };
        hears_a_voice(name, agent, &daemon).await;
    }
}

#[test]
fn an_example_file_is_short_enough_to_be_read() {
    for (name, _, text) in EXAMPLES.iter().filter(|(name, ..)| *name != "antiphon") {
        assert!(text.lines().count() <= 25, "{name} has {} lines", text.lines().count());
    }
}

/// Clouds that speak the wire of OpenAI Realtime: by their URL, query, headers, and way to present a key.
#[tokio::test]
async fn clouds_get_their_url_query_headers_and_key_as_they_want_them() {
    let folder = folder();
    let (token, count) = (folder.join("token.sh"), folder.join("count"));
    std::fs::write(&token, format!("#!/bin/sh\necho run >> {}\necho secret\n", count.display())).unwrap();
    let vendor = Vendor::start(VendorKind::Openai, Some("secret"), Script::default()).await;
    let agent = |name: &str, more: &str| {
        format!(
            "[agent.{name}]\nkind = \"openai\"\nurl = \"{}\"\n{more}\nsetup.greeting = {{ say = \"Hello!\" }}\n",
            vendor.url.replace("/v1/realtime", &format!("/{name}/v1/realtime"))
        )
    };
    let key = "api_key = \"${env:TEST_KEY}\"\n";
    let config = [
        "[[route]]\nname = \"all\"\nto = \"requested\"\n".to_owned(),
        agent(
            "azure",
            &format!(
                "{key}auth = \"api-key\"\nquery = {{ api-version = \"2025-08-28\", deployment = \"voice\" }}\n\
                 headers = {{ x-ms-client-request-id = \"antiphon\" }}"
            ),
        ),
        agent("xai", &format!("{key}auth = \"bearer\"\nmodel = \"grok-voice\"")),
        agent("usual", &format!("{key}model = \"gpt-realtime\"")),
        agent(
            "minted",
            &format!("auth = {{ token_command = [\"/bin/sh\", \"{}\"], refresh_s = 600 }}", token.display()),
        ),
    ]
    .concat();
    let daemon = Daemon::start_with(Some(&config), &[("TEST_KEY", "secret")]).await;
    for name in ["azure", "xai", "usual", "minted", "minted"] {
        hears_a_voice(name, name, &daemon).await;
    }
    let request = |name: &str| {
        let path = format!("/{name}/");
        let is = |line: &&serde_json::Value| line["target"].as_str().is_some_and(|target| target.contains(&path));
        vendor.logged("/event", "request").iter().find(is).unwrap_or_else(|| panic!("{name}")).clone()
    };
    assert_eq!(request("azure")["key_in"], "api-key");
    let target = request("azure")["target"].as_str().unwrap().to_owned();
    assert!(target.ends_with("/realtime?api-version=2025-08-28&deployment=voice"), "{target}");
    assert_eq!(request("azure")["headers"]["x-ms-client-request-id"], "antiphon");
    assert_eq!(request("xai")["key_in"], "authorization");
    assert!(request("xai")["target"].as_str().unwrap().ends_with("?model=grok-voice"));
    assert_eq!(request("usual")["key_in"], "authorization");
    assert_eq!(request("minted")["key_in"], "authorization");
    let runs = std::fs::read_to_string(&count).unwrap();
    assert_eq!(runs.lines().count(), 1, "a token is used until it is too old");
    assert!(!daemon.log().contains("secret"), "a key is in the log");
    let _ = std::fs::remove_dir_all(folder);
}
