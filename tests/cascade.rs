//! Two daemons in a row, QUIC between them: one at the edge that callers reach, one at the core that has the agents.

mod harness;

use std::time::Duration;

use harness::program::emulate;
use harness::{Caller, Daemon, PATIENCE, echo_call_with, folder, run_for};
use serde_json::{Value, json};

/// A core whose agent is at `agent`, and the certificate that an edge has to trust.
async fn core(agent: &str) -> (Daemon, String) {
    let files = folder();
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| files.join(name).to_str().unwrap().to_owned());
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let config = format!(
        "[http.tls]\ncert = \"{cert}\"\nkey = \"{key}\"\n[[route]]\nname = \"all\"\nto = \"served\"\n\
         audio.stall_ms = 5000\n[agent.served]\n{agent}\n"
    );
    (Daemon::start_with(Some(&config), &[]).await, cert)
}

/// An edge that brings every call to the core.
async fn edge(core: &Daemon, authority: &str, more: &str) -> Daemon {
    let config = format!(
        "[[route]]\nname = \"edge\"\nto = \"core\"\naudio.stall_ms = 5000\n[agent.core]\nkind = \"quic\"\n\
         url = \"quic://{}\"\nca_file = \"{authority}\"\n{more}\n",
        core.quic.unwrap()
    );
    Daemon::start_with(Some(&config), &[("ANTIPHON_RUNTIME__WORKERS", "1")]).await
}

/// A caller who interrupts an agent behind two daemons.
async fn interrupt_through_both(transport: &str) {
    let (mut agent, agent_url) = emulate(&["--mode", "talk"]).await;
    let (core, authority) = core(&format!("kind = \"websocket\"\nurl = \"{agent_url}\"")).await;
    let edge = edge(&core, &authority, "").await;
    let reply = folder().join("reply.wav");
    let url = format!("http://{}", edge.http);
    let arguments = ["call", "--url", &url, "--transport", transport, "--json", "--out", reply.to_str().unwrap()];
    let output = run_for(3 * PATIENCE, &arguments, &[]).await;
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &report["ok"]), (Some(0), &json!(true)), "{report}");

    let heard = &report["heard"][0];
    assert_eq!(heard["basis"], "reported", "{report}");
    assert!(heard["ms"].as_u64().unwrap() < heard["of_ms"].as_u64().unwrap(), "it was interrupted: {report}");
    agent.event("stopped").await;
    let answer = loop {
        let message = agent.event("message").await["message"].clone();
        if message["type"] == "playout" && message["flush"].is_number() {
            break message;
        }
    };
    // The flush went from the agent to the caller's speaker, and the figure all the way back.
    let told_ms = answer["pos"].as_f64().unwrap() / 24.0;
    let heard_ms = heard["ms"].as_f64().unwrap();
    println!("{transport}: the caller heard {heard_ms} ms, the agent was told {told_ms:.1} ms");
    assert!((told_ms - heard_ms).abs() <= 40.0, "{answer} {heard}");
    let [edge, core] = [edge.call_record().await, core.call_record().await];
    for record in [&edge, &core] {
        assert_eq!(record["interruptions"], 1, "{record}");
        assert_eq!((&record["reason"], &record["stats"]["lost"]), (&json!("client_hangup"), &json!(0)), "{record}");
    }
    assert_eq!((&edge["transport"], &core["transport"]), (&json!(transport), &json!("quic")));
    let _ = std::fs::remove_dir_all(reply.parent().unwrap());
}

#[tokio::test]
async fn an_interruption_travels_through_edge_and_core() {
    tokio::join!(interrupt_through_both("websocket"), interrupt_through_both("webrtc"));
}

#[tokio::test]
async fn many_calls_share_a_connection_and_each_hears_its_own_echo() {
    let (core, authority) = core("kind = \"echo\"\ndelay_ms = 100").await;
    let formats = "audio_in = \"pcm16/16000\"\naudio_out = \"pcm16/16000\"\nsessions_per_connection = 4";
    let edge = edge(&core, &authority, formats).await;
    let calls = (0..8).map(|_| echo_call_with(&edge, "core", Duration::from_secs(2)));
    for report in futures_util::future::join_all(calls).await {
        assert_eq!(report.wrong, 0, "{report:?}");
    }
    while core.metric("antiphon_sessions_ended_total", "transport=\"quic\"").await < 8.0 {
        tokio::task::yield_now().await;
    }
    let connections = core.metric("antiphon_connections_accepted_total", "listener=\"quic\"").await;
    assert_eq!(connections, 2.0, "four calls on each");
}

#[tokio::test]
async fn a_core_that_goes_away_is_told_to_the_caller_and_is_found_again_when_it_is_back() {
    let (core, authority) = core("kind = \"echo\"\ndelay_ms = 100").await;
    let edge = edge(&core, &authority, "").await;
    let (mut caller, _) = Caller::call(&edge, "core").await;
    while caller.hear_type("agent").await["status"] != "ready" {}
    let place = core.quic.unwrap().to_string();
    drop(core);
    let status = loop {
        let agent = caller.hear_type("agent").await;
        if agent["status"] != "connecting" {
            break agent;
        }
    };
    assert_eq!(status["status"], "down", "{status}");
    let config = "[[route]]\nname = \"all\"\nto = \"echo\"\n".to_owned();
    let tls = [("ANTIPHON_HTTP__TLS__CERT", authority.as_str()), ("ANTIPHON_HTTP__TLS__KEY", &key(&authority))];
    let variables = [&tls[..], &[("ANTIPHON_LISTEN__QUIC", place.as_str())]].concat();
    let _back = Daemon::start_with(Some(&config), &variables).await;
    let mut tries = 0;
    loop {
        let (mut caller, _) = Caller::call(&edge, "core").await;
        let status = loop {
            let agent = caller.hear_type("agent").await;
            if agent["status"] != "connecting" {
                break agent["status"].clone();
            }
        };
        if status == "ready" {
            break;
        }
        tries += 1;
        assert!(tries < 100, "it is not found again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn key(certificate: &str) -> String {
    certificate.replace("cert.pem", "key.pem")
}
