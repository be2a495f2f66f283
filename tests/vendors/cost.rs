//! What a call cost: each agent by its own table, and what an agent that took over was told again counted apart.

use antiphon::cli::emulate::vendor::script::Script;
use antiphon::config::vendor::VendorKind;
use serde_json::{Value, json};

use crate::Vendor;
use crate::harness::{Caller, Daemon};

fn agent(name: &str, url: &str, price: &str) -> String {
    format!(
        "[agent.{name}]\nkind = \"openai\"\nurl = \"{url}\"\napi_key = \"${{env:TEST_KEY}}\"\n\
         setup = {{ transcribe = true, greeting = {{ say = \"Hello!\" }} }}\n\
         [agent.{name}.price]\ncurrency = \"EUR\"\n{price}\n"
    )
}

fn near(found: &Value, expected: f64) -> bool {
    found.as_f64().is_some_and(|found| (found - expected).abs() < 1e-6)
}

#[tokio::test]
async fn each_agent_of_a_call_is_priced_by_its_own_table_in_record_and_metrics() {
    let expires = Script { expire_s: Some(6.0), ..Script::default() };
    let first = Vendor::start(VendorKind::Openai, Some("secret"), expires).await;
    let second = Vendor::start(VendorKind::Openai, Some("secret"), Script::default()).await;
    let config = [
        "[[route]]\nname = \"all\"\nto = \"first\"\nfallback = \"second\"\n".to_owned(),
        agent("first", &first.url, "output_audio_tokens = 0.001"),
        agent("second", &second.url, "output_text_tokens = 0.01\nreplayed_chars = 0.0001"),
    ]
    .concat();
    let daemon = Daemon::start_with(Some(&config), &[("TEST_KEY", "secret")]).await;
    let mut caller = Caller::connect(&daemon).await;
    caller.say(json!({ "type": "start", "agent": "first" })).await;
    caller.hear_type("usage").await;
    while caller.hear_type("agent").await["status"] != "fallback" {}
    caller.say(json!({ "type": "message", "id": "m", "text": "Tell me more." })).await;
    caller.hear_type("usage").await;
    caller.say(json!({ "type": "end" })).await;
    caller.hear_out().await;

    let record = daemon.call_record().await;
    let [one, two] = &record["agents"].as_array().unwrap()[..] else { panic!("{record}") };
    let used = |agent: &Value, unit: &str| agent["usage"][unit].as_f64().unwrap_or_else(|| panic!("{unit}: {record}"));
    assert!(one["usage"]["replayed_chars"].is_null() && used(two, "replayed_chars") > 10.0, "{record}");
    let costs = (
        used(one, "output_audio_tokens") * 0.001,
        used(two, "output_text_tokens") * 0.01 + used(two, "replayed_chars") * 0.0001,
    );
    assert!(near(&one["cost"]["amount"], costs.0) && near(&two["cost"]["amount"], costs.1), "{costs:?}: {record}");
    assert!(near(&record["cost"]["amount"], costs.0 + costs.1) && record["cost"]["currency"] == "EUR", "{record}");
    for (name, cost) in [("first", costs.0), ("second", costs.1)] {
        let labels = format!("agent=\"{name}\",currency=\"EUR\"");
        let told = daemon.metric("antiphon_agent_cost_total", &labels).await;
        assert!((told - cost).abs() < 1e-6, "{name}: {told} and not {cost}");
    }
    let labels = "agent=\"second\",unit=\"replayed_chars\"";
    assert_eq!(daemon.metric("antiphon_agent_usage_total", labels).await, used(two, "replayed_chars"));
}
