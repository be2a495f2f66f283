//! Who is let in, by every transport, with the real binary; and what comes of what a token or a hook says.

mod harness;

#[path = "auth/issuer.rs"]
mod issuer;
#[path = "auth/ways.rs"]
mod ways;

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use harness::agent::AgentServer;
use harness::peer::{PACKET, Peer};
use harness::redis::RedisServer;
use harness::{Caller, Daemon, PATIENCE, ask, get, header};
use issuer::{Issuer, Service, now};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use ways::{Way, enter, open};

const SECRET: &str = "a-secret-of-the-nodes-that-nobody-may-see";
const KEY: &str = "ak_00112233445566778899aabbccddeeff";

/// A daemon that trusts `issuer`, whose keys are in a file, and knows [`KEY`].
async fn daemon(issuer: &Issuer, more: &str) -> Daemon {
    start(&format!("keys_file = \"{}\"", write(&issuer.jwks()).display()), more, &[]).await
}

async fn start(keys: &str, more: &str, variables: &[(&str, &str)]) -> Daemon {
    let hash = antiphon::auth::api_key::Hash::of(KEY);
    let config = format!(
        "[auth.jwt.main]\n{keys}\nissuer = \"https://idp.example/\"\naudience = \"antiphon\"\n\
         [auth.key.backend]\nhash = \"{hash}\"\nmint = true\n\
         [auth.tokens]\nsecret = \"${{env:TOKEN_SECRET}}\"\n{more}"
    );
    let variables: Vec<_> = variables.iter().copied().chain([("TOKEN_SECRET", SECRET)]).collect();
    Daemon::start_with(Some(&config), &variables).await
}

fn write(text: &str) -> std::path::PathBuf {
    let path = harness::folder().join("file");
    std::fs::write(&path, text).unwrap();
    path
}

/// A route that asks for credentials, and takes them in the query too.
const ROUTE: &str = "[[route]]\nname = \"all\"\nto = \"requested\"\ntoken_in_query = true\n";

/// Makes a client token.
async fn mint(daemon: &Daemon, wanted: Value) -> String {
    let bearer = format!("authorization: Bearer {KEY}");
    let (status, head, body) = ask(daemon.http, "POST", "/v1/tokens", &[&bearer], &wanted.to_string()).await;
    assert_eq!(status, 201, "{body}");
    assert_eq!(header(&head, "cache-control"), Some("no-store"));
    serde_json::from_str::<Value>(&body).unwrap()["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_token_is_taken_in_every_place_of_every_transport_and_a_wrong_one_is_refused_with_its_reason() {
    let issuer = Issuer::new("one");
    let daemon = daemon(&issuer, ROUTE).await;
    let good = issuer.token(json!({}));
    let expired = issuer.token(json!({ "exp": now() - 3600 }));
    for way in ways::ALL {
        assert_eq!(enter(&daemon, way, &good, "echo").await, Ok(()), "{way:?}");
        let (code, reason) = enter(&daemon, way, &expired, "echo").await.expect_err("it is too old");
        assert_eq!(reason, "token_expired", "{way:?}");
        let by_http = [Way::Header, Way::OpenaiHeader, Way::WebrtcHeader, Way::WebrtcStart, Way::Whip, Way::OpenaiCall]
            .contains(&way);
        assert_eq!(code, if by_http { 401 } else { 4401 }, "{way:?}");
    }
    let refused = daemon.metric("antiphon_callers_denied_total", "reason=\"token_expired\"").await;
    assert_eq!(refused, ways::ALL.len() as f64);
    let started = daemon.metric("antiphon_sessions_started_total", "").await;
    assert_eq!(started, ways::ALL.len() as f64, "a refusal begins nothing");
}

#[tokio::test]
async fn each_attack_on_a_token_is_refused_with_a_reason_of_its_own() {
    let issuer = Issuer::new("one");
    let daemon = daemon(&issuer, ROUTE).await;
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = || json!({ "sub": "ann", "iss": "https://idp.example/", "aud": "antiphon", "exp": now() + 60 });
    let public = issuer.jwk()["x"].as_str().unwrap().to_owned();
    let confused = {
        let signed = format!("{}.{}", part(json!({"alg": "HS256", "kid": "one"})), part(claims()));
        let key = jsonwebtoken::EncodingKey::from_secret(public.as_bytes());
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &key, jsonwebtoken::Algorithm::HS256).unwrap();
        format!("{signed}.{signature}")
    };
    let signed = |header: Value| issuer.signed(header, json!({}));
    let stolen = Issuer::new("one");
    let attacks = [
        ("token_unsigned", format!("{}.{}.", part(json!({"alg": "none"})), part(claims()))),
        ("token_algorithm", confused),
        ("token_claims", issuer.token(json!({ "exp": (now() + 60).to_string() }))),
        ("token_claims", issuer.token(json!({ "nbf": "0" }))),
        ("token_expired", issuer.token(json!({ "exp": now() - 60 }))),
        ("token_not_yet_valid", issuer.token(json!({ "nbf": now() + 600 }))),
        ("token_audience", issuer.token(json!({ "aud": "elsewhere" }))),
        ("token_issuer", issuer.token(json!({ "iss": "https://evil.example/" }))),
        ("token_key_id", signed(json!({"alg": "EdDSA", "kid": "../../../dev/null"}))),
        ("token_key_unknown", signed(json!({"alg": "EdDSA", "kid": "two"}))),
        ("token_signature", stolen.token(json!({}))),
        ("token_too_large", issuer.token(json!({ "note": "x".repeat(9000) }))),
        ("token_malformed", "ek_nonsense".to_owned()),
        ("api_key_unknown", "ak_ffffffffffffffffffffffffffffffff".to_owned()),
    ];
    for (reason, token) in &attacks {
        assert_eq!(enter(&daemon, Way::Message, token, "echo").await, Err((4401, (*reason).to_owned())));
    }
    let steered = signed(json!({"alg": "EdDSA", "kid": "one", "jku": "http://127.0.0.1:1/"}));
    assert_eq!(enter(&daemon, Way::Message, &steered, "echo").await, Ok(()), "where a token points is not looked at");
    let nothing = open(&daemon, "/v1/session", &[("authorization", format!("Bearer {}", attacks[0].1))]).await;
    assert_eq!(
        nothing.err().map(|(status, body)| (status, body["reason"].clone())),
        Some((401, json!("token_unsigned")))
    );
}

#[tokio::test]
async fn callers_without_credentials_come_in_from_this_machine_only() {
    let issuer = Issuer::new("one");
    let more = format!("[http]\ntrusted_proxies = [\"127.0.0.1\"]\n{ROUTE}");
    let daemon = daemon(&issuer, &more).await;
    let (mut caller, _) = Caller::call(&daemon, "echo").await;
    caller.say(json!({ "type": "end" })).await;
    for (name, value) in [("x-forwarded-for", "203.0.113.9"), ("forwarded", "for=127.0.0.1"), ("via", "1.1 proxy")] {
        let mut caller = open(&daemon, "/v1/session", &[(name, value.to_owned())]).await.ok().unwrap();
        caller.say(json!({ "type": "start", "agent": "echo" })).await;
        let refused = ways::began(&mut caller, "started").await;
        assert_eq!(refused, Err((4401, "no_credentials".to_owned())), "{name}");
    }
}

#[tokio::test]
async fn a_flood_of_made_up_keys_does_not_reach_the_issuer_and_new_keys_are_found() {
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    let keys = old.jwks();
    let service = Service::start(move |_| (200, keys.clone())).await;
    let daemon = start(&format!("keys_url = \"{}jwks\"", service.url), ROUTE, &[]).await;
    assert_eq!(enter(&daemon, Way::Header, &old.token(json!({})), "echo").await, Ok(()));
    let storm = (0..50).map(|number| {
        let (old, daemon) = (&old, &daemon);
        async move {
            let made_up = old.signed(json!({"alg": "EdDSA", "kid": format!("made-up-{number}")}), json!({}));
            enter(daemon, Way::Message, &made_up, "echo").await
        }
    });
    let begun = Instant::now();
    let refused = futures_util::future::join_all(storm).await;
    for outcome in &refused {
        let reason = outcome.as_ref().unwrap_err().1.as_str();
        assert!(["token_key_unknown", "too_many_failures"].contains(&reason), "{reason}");
    }
    assert_eq!(service.asked(), 1, "the issuer was asked again within {:?}", begun.elapsed());
    assert_eq!(daemon.metric("antiphon_key_fetches_total", "result=\"fetched\"").await, 1.0);
    // What a node reads that begins now has both keys, and keeps them when the issuer is down.
    let both = json!({ "keys": [old.jwk(), new.jwk()] }).to_string();
    service.answer(move |_| (200, both.clone()));
    let other = start(&format!("keys_url = \"{}jwks\"", service.url), ROUTE, &[]).await;
    assert_eq!(enter(&other, Way::Message, &new.token(json!({})), "echo").await, Ok(()));
    service.answer(|_| (503, String::new()));
    assert_eq!(enter(&other, Way::Message, &old.token(json!({})), "echo").await, Ok(()));
}

#[tokio::test]
async fn until_its_keys_are_there_an_issuer_lets_nobody_in_and_says_when_to_come_again() {
    let issuer = Issuer::new("one");
    let service = Service::start(|_| (503, String::new())).await;
    let daemon = start(&format!("keys_url = \"{}jwks\"", service.url), ROUTE, &[]).await;
    let refused =
        open(&daemon, "/v1/session", &[("authorization", format!("Bearer {}", issuer.token(json!({}))))]).await;
    let (status, body) = refused.err().unwrap();
    assert_eq!((status, &body["reason"]), (503, &json!("keys_unavailable")));
    let keys = issuer.jwks();
    service.answer(move |_| (200, keys.clone()));
    let begun = Instant::now();
    while enter(&daemon, Way::Header, &issuer.token(json!({})), "echo").await.is_err() {
        assert!(begun.elapsed() < PATIENCE, "the keys are not read");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_client_token_is_good_on_every_node_for_what_it_was_made_for() {
    let issuer = Issuer::new("one");
    let more = format!(
        "[[route]]\nname = \"gold\"\nmatch = {{ claim.tier = \"gold\", tenant = \"acme\" }}\nto = \"echo\"\n{ROUTE}"
    );
    let (one, two) = (daemon(&issuer, &more).await, daemon(&issuer, &more).await);
    let wanted = json!({ "user": "bob", "tenant": "acme", "claims": { "tier": "gold" }, "route": "gold", "agent": ["a", "b"], "max_s": 60 });
    let token = mint(&one, wanted).await;
    assert!(token.starts_with("ek_"));
    for node in [&one, &two] {
        for way in [Way::Header, Way::Subprotocol, Way::WebrtcStart, Way::Quic] {
            assert_eq!(enter(node, way, &token, "b").await, Ok(()), "{way:?}");
        }
        assert_eq!(enter(node, Way::Message, &token, "c").await, Err((4401, "token_scope".to_owned())));
    }
    let elsewhere = mint(&one, json!({ "route": "gold" })).await;
    assert_eq!(enter(&two, Way::Message, &elsewhere, "echo").await, Err((4401, "token_scope".to_owned())));
    let once = mint(&one, json!({ "single_use": true })).await;
    assert_eq!(enter(&one, Way::Message, &once, "nobody").await.unwrap_err().0, 4404, "not used up by a refusal");
    assert_eq!(enter(&one, Way::Message, &once, "echo").await, Ok(()));
    for way in [Way::Message, Way::Header, Way::Quic, Way::OpenaiSubprotocol] {
        assert_eq!(enter(&one, way, &once, "echo").await.unwrap_err().1, "token_used", "{way:?}");
    }
    assert_eq!(enter(&one, Way::WebrtcHeader, &once, "echo").await, Err((401, "token_used".to_owned())));
}

#[tokio::test]
async fn a_token_for_one_session_is_used_up_on_all_nodes_at_once_and_not_by_a_refusal() {
    let redis = RedisServer::start(&[]).await;
    let issuer = Issuer::new("one");
    let more = format!(
        "[redis]\nurl = \"{}\"\n[limit.few]\nunit = \"sessions\"\nkey = [\"user\"]\nrate = 1\n[limits.few]\nuse = [\"few\"]\n\
         {ROUTE}",
        redis.url()
    );
    let (one, two) = (daemon(&issuer, &more).await, daemon(&issuer, &more).await);
    let wanted = json!({ "user": "bob", "limits": "few", "single_use": true });
    let (first, second) = (mint(&one, wanted.clone()).await, mint(&one, wanted).await);
    let mut caller = open(&one, "/v1/session", &[]).await.ok().unwrap();
    caller.say(json!({ "type": "start", "agent": "echo", "token": first })).await;
    caller.hear_type("started").await;
    assert_eq!(enter(&one, Way::Message, &second, "echo").await.unwrap_err().0, 4429, "he has a session already");
    caller.say(json!({ "type": "end" })).await;
    caller.hear_out().await;
    // His place is free on the other node as soon as that knows of it.
    let on_the_other = async |token: &str| {
        let begun = Instant::now();
        loop {
            match enter(&two, Way::Message, token, "echo").await {
                Err((4429, _)) => assert!(begun.elapsed() < PATIENCE),
                outcome => return outcome,
            }
        }
    };
    assert_eq!(on_the_other(&first).await, Err((4401, "token_used".to_owned())), "on another node");
    assert_eq!(on_the_other(&second).await, Ok(()), "the refusal has not used it up");
}

#[tokio::test]
async fn whom_a_node_does_not_let_in_it_brings_to_no_other_node() {
    let redis = RedisServer::start(&[]).await;
    let issuer = Issuer::new("one");
    // Whatever reaches for the node with the session comes here.
    let other = Service::start(|_| (500, String::new())).await;
    let more = format!(
        "[redis]\nurl = \"{}\"\n[node]\nelsewhere = \"forward\"\nurl = \"{}\"\n{ROUTE}",
        redis.url(),
        other.url.trim_end_matches('/')
    );
    let (one, two) = (daemon(&issuer, &more).await, daemon(&issuer, &more).await);
    let begun = Instant::now();
    while two.metric("antiphon_cluster_nodes", "").await < 2.0 {
        assert!(begun.elapsed() < PATIENCE);
    }
    let good = issuer.token(json!({}));
    let mut caller = open(&one, "/v1/session", &[]).await.ok().unwrap();
    caller.say(json!({ "type": "start", "agent": "echo", "token": good })).await;
    let started = caller.hear_type("started").await;
    let resume = async |token: &str| {
        let mut caller = open(&two, "/v1/session", &[]).await.ok().unwrap();
        caller.say(json!({ "type": "start", "resume": started["resume_token"], "have": 0, "token": token })).await;
        caller.hear_type("error").await
    };
    let wrong = Issuer::new("one").token(json!({}));
    assert_eq!(resume(&wrong).await["reason"], "token_signature");
    assert_eq!(other.asked(), 0, "nobody is asked for somebody like that");
    assert_eq!(resume(&good).await["code"], "misdirected");
    assert_eq!(other.asked(), 1);
}

#[tokio::test]
async fn only_a_key_that_may_makes_tokens_and_a_wrong_request_names_the_field() {
    let issuer = Issuer::new("one");
    let daemon = daemon(&issuer, ROUTE).await;
    let post = async |token: Option<&str>, body: &str| {
        let bearer = token.map(|token| format!("authorization: Bearer {token}"));
        let (status, _, body) = ask(daemon.http, "POST", "/v1/tokens", bearer.as_deref().as_slice(), body).await;
        (status, serde_json::from_str::<Value>(&body).unwrap())
    };
    let (status, body) = post(None, "{}").await;
    assert_eq!((status, &body["reason"]), (401, &json!("no_credentials")));
    let (status, body) = post(Some(&issuer.token(json!({}))), "{}").await;
    assert_eq!((status, &body["reason"]), (403, &json!("token_scope")));
    let token = mint(&daemon, json!({})).await;
    let (status, body) = post(Some(&token), "{}").await;
    assert_eq!((status, &body["reason"]), (403, &json!("token_scope")), "a client token makes no others");
    for (wrong, field) in [
        (json!({ "expires_in_s": 1_000_000 }), "expires_in_s"),
        (json!({ "route": "nowhere" }), "route"),
        (json!({ "limits": ["none"] }), "limits"),
        (json!({ "max_s": 0 }), "max_s"),
        (json!({ "max_s": "long" }), "max_s"),
        (json!({ "setup": { "greeting": { "clip": "/etc/passwd" } } }), "setup.greeting"),
        (json!({ "setup": { "tools": ["none"] } }), "setup.tools"),
    ] {
        let (status, body) = post(Some(KEY), &wrong.to_string()).await;
        assert_eq!((status, &body["field"]), (400, &json!(field)), "{body}");
    }
    let (status, body) = post(Some(KEY), &json!({ "metadata": { "note": "x".repeat(9000) } }).to_string()).await;
    assert!(status == 400 && body["detail"].as_str().unwrap().contains("max_token_bytes"), "{body}");
    let (status, _) = post(Some(KEY), &"x".repeat(200_000)).await;
    assert_eq!(status, 413);
    let (status, head, _) = ask(daemon.http, "GET", "/v1/tokens", &[], "").await;
    assert_eq!((status, header(&head, "allow")), (405, Some("POST, OPTIONS")));
}

#[tokio::test]
async fn a_session_ends_with_its_token_after_a_warning() {
    let issuer = Issuer::new("one");
    let daemon = daemon(&issuer, ROUTE).await;
    let expires = now() + 4;
    let token = issuer.token(json!({ "exp": expires }));
    let header = [("authorization", format!("Bearer {token}"))];
    let mut caller = open(&daemon, "/v1/session", &header).await.ok().unwrap();
    caller.say(json!({ "type": "start", "agent": "echo" })).await;
    let started = caller.hear_type("started").await;
    assert!(started["expires_at"].as_u64().unwrap().abs_diff(expires) <= 1, "{started}");
    let (messages, code) = caller.hear_out().await;
    let ending = messages.iter().find(|message| message["type"] == "ending").expect("a warning");
    assert_eq!((&ending["reason"], code), (&json!("token_expired"), 4401));
    assert_eq!(messages.last().unwrap()["reason"], "token_expired");
    assert_eq!(daemon.call_record().await["reason"], "token_expired");
}

#[tokio::test]
async fn claims_choose_the_route_fill_templates_and_pick_the_credential_of_the_tenant() {
    let agent = AgentServer::bind().await;
    let issuer = Issuer::new("one");
    let more = format!(
        "[auth.claims]\ntenant = \"org.id\"\n\
         [agent.voice]\nkind = \"websocket\"\nurl = \"{}\"\nsetup.instructions = \"Serve {{claim.name}} of {{claim.org.id}}.\"\n\
         [[route]]\nname = \"paying\"\nmatch = {{ claim.subscription = \"active\" }}\nto = \"voice\"\n\
         [[route]]\nname = \"others\"\nto = \"echo\"\n",
        agent.url()
    );
    let daemon = daemon(&issuer, &more).await;
    let token = issuer.token(json!({ "name": "Ada", "org": { "id": "acme" }, "subscription": "active" }));
    let calling = async {
        let mut caller =
            open(&daemon, "/v1/session", &[("authorization", format!("Bearer {token}"))]).await.ok().unwrap();
        caller.say(json!({ "type": "start" })).await;
        caller.hear_type("started").await;
        caller
    };
    let (mut caller, mut link) = tokio::join!(calling, agent.accept());
    let start = link.begin().await;
    assert_eq!(start["setup"]["instructions"], "Serve Ada of acme.");
    caller.say(json!({ "type": "end" })).await;
    let record = daemon.call_record().await;
    assert_eq!((&record["route"], &record["tenant"]), (&json!("paying"), &json!("acme")));
    assert!(record["setup"]["auth_ms"].is_number());
    let (status, _, body) =
        ask(daemon.http, "GET", "/v1/agents", &[&format!("authorization: Bearer {token}")], "").await;
    let agents: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &agents["agents"][0]["name"]), (200, &json!("clip")), "{body}");
}

#[tokio::test]
async fn a_hook_is_asked_once_and_what_it_says_is_what_the_agent_and_the_record_get() {
    let agent = AgentServer::bind().await;
    let issuer = Issuer::new("one");
    let hook = Service::start(|_| {
        let answer = json!({
            "agent": "voice", "vars": { "first_name": "Ada" }, "max_s": 77, "metadata": { "order": 17 }, "url": "ws://evil/",
            "setup": { "voice": "cedar", "temperature": 2, "greeting": { "clip": "/etc/passwd" } },
        });
        (200, answer.to_string())
    })
    .await;
    let more = format!(
        "[hook.crm]\nurl = \"{}\"\nsecret = \"${{env:HOOK_SECRET}}\"\ncache_s = 60\n\
         [agent.voice]\nkind = \"websocket\"\nurl = \"{}\"\nsetup.instructions = \"Greet {{vars.first_name}}.\"\n\
         [[route]]\nname = \"all\"\nto = \"requested\"\nadmit = \"crm\"\n",
        hook.url,
        agent.url()
    );
    let keys = format!("keys_file = \"{}\"", write(&issuer.jwks()).display());
    let daemon = start(&keys, &more, &[("HOOK_SECRET", "the-secret-of-the-hook")]).await;
    let begin = json!({ "type": "start", "agent": "echo", "context": { "mood": "calm" }, "metadata": { "campaign": "x", "order": 1 } });
    for round in 0..2 {
        let calling = async {
            let bearer = [("authorization", format!("Bearer {}", issuer.token(json!({ "jti": round }))))];
            let mut caller = open(&daemon, "/v1/session", &bearer).await.ok().unwrap();
            caller.say(begin.clone()).await;
            (caller.hear_type("started").await, caller)
        };
        let ((started, mut caller), mut link) = tokio::join!(calling, agent.accept());
        assert_eq!(started["agent"]["name"], "voice");
        assert_eq!(started["setup"], json!({ "voice": "cedar" }), "and nothing of the operator's words");
        assert!(
            started["expires_at"].as_u64().unwrap().abs_diff(now() + 60) <= 5,
            "the token ends before the hook's max_s"
        );
        let start = link.begin().await;
        assert_eq!(
            (&start["setup"]["instructions"], &start["setup"]["voice"]),
            (&json!("Greet Ada."), &json!("cedar"))
        );
        assert_eq!(start["metadata"], json!({ "campaign": "x", "order": 17 }));
        caller.say(json!({ "type": "end" })).await;
        caller.hear_out().await;
    }
    assert_eq!(hook.asked(), 2, "the claims of the two tokens differ");
    let request = hook.requests.lock().unwrap()[0].clone();
    let body: Value = serde_json::from_str(&request.body).unwrap();
    assert_eq!(
        (&body["user"], &body["route"], &body["transport"]),
        (&json!("ann"), &json!("all"), &json!("websocket"))
    );
    assert_eq!((&body["context"]["mood"], &body["metadata"]["campaign"]), (&json!("calm"), &json!("x")));
    let signature = header(&request.head, "antiphon-signature").expect("a signature").to_owned();
    let (time, tag) = signature.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, b"the-secret-of-the-hook");
    let own = aws_lc_rs::hmac::sign(&key, format!("{time}.{}", request.body).as_bytes());
    assert_eq!(tag, own.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    assert_eq!(daemon.metric("antiphon_hook_fields_dropped_total", "hook=\"crm\"").await, 6.0);
    let record = daemon.call_record().await;
    assert!(record["setup"]["hook_ms"].as_f64() > Some(0.0), "{record}");
}

#[tokio::test]
async fn a_hook_refuses_on_every_transport_before_anybody_is_dialled_and_its_failure_does_what_the_route_says() {
    let agent = AgentServer::bind().await;
    let issuer = Issuer::new("one");
    let hook = Service::start(|request| match request.body.contains("\"user\":\"ann\"") {
        true => (200, json!({ "allow": false, "message": "Active subscription required" }).to_string()),
        false => (500, "oops".to_owned()),
    })
    .await;
    let more = format!(
        "[hook.strict]\nurl = \"{0}\"\ncache_s = 60\n[hook.lenient]\nurl = \"{0}\"\non_error = \"continue\"\n\
         [agent.voice]\nkind = \"websocket\"\nurl = \"{1}\"\n\
         [[route]]\nname = \"lenient\"\nmatch = {{ agent = \"lenient\" }}\nto = \"echo\"\nadmit = \"lenient\"\n\
         [[route]]\nname = \"strict\"\nto = \"voice\"\nadmit = \"strict\"\ntoken_in_query = true\n",
        hook.url,
        agent.url()
    );
    let daemon = daemon(&issuer, &more).await;
    let (ann, bob) = (issuer.token(json!({})), issuer.token(json!({ "sub": "bob" })));
    for way in ways::ALL {
        let (code, reason) = enter(&daemon, way, &ann, "voice").await.unwrap_err();
        assert_eq!(reason, "hook_refused", "{way:?}");
        assert!([0, 403, 4401].contains(&code), "{way:?}: {code}");
    }
    assert_eq!(enter(&daemon, Way::Message, &bob, "voice").await, Err((1013, "hook_failed".to_owned())));
    assert_eq!(enter(&daemon, Way::WebrtcHeader, &bob, "voice").await, Err((0, "hook_failed".to_owned())));
    assert_eq!(enter(&daemon, Way::Whip, &bob, "voice").await, Err((503, "hook_failed".to_owned())));
    assert_eq!(enter(&daemon, Way::Message, &bob, "lenient").await, Ok(()));
    assert!(
        timeout(Duration::from_millis(200), agent.accept()).await.is_err(),
        "an agent was dialled for a refused call"
    );
    let mut caller = open(&daemon, "/v1/session", &[]).await.ok().unwrap();
    caller.say(json!({ "type": "start", "agent": "voice", "token": ann })).await;
    let error = caller.hear_type("error").await;
    assert_eq!((&error["message"], &error["code"]), (&json!("Active subscription required"), &json!("forbidden")));
    let answers = daemon.metric("antiphon_hook_seconds_count", "hook=\"strict\",result=\"cached\"").await;
    assert!(answers >= 1.0, "a refusal is kept too");
}

#[tokio::test]
async fn a_hook_is_asked_while_a_webrtc_peer_shakes_hands_and_what_it_says_meanwhile_is_heard() {
    let issuer = Issuer::new("one");
    let hook = Service::start(|request| match request.body.contains("\"user\":\"ann\"") {
        true => (200, json!({ "agent": "echo", "setup": { "voice": "cedar" } }).to_string()),
        false => (403, "{}".to_owned()),
    })
    .await;
    let more = format!(
        "[hook.crm]\nurl = \"{}\"\ntimeout_ms = 60000\n[[route]]\nname = \"all\"\nto = \"requested\"\nadmit = \"crm\"\n",
        hook.url
    );
    let daemon = daemon(&issuer, &more).await;
    let begin = |claims| json!({ "agent": "echo", "token": issuer.token(claims) });
    for (claims, told) in [(json!({}), "started"), (json!({ "sub": "bob" }), "error")] {
        hook.held.send_replace(true);
        let mut peer = Peer::signal_with(&daemon, begin(claims)).await;
        assert!(peer.answer["started"].is_null(), "it is not decided yet: {}", peer.answer);
        peer.until(|peer| peer.open && peer.connected.is_some()).await;
        peer.speak(Duration::from_millis(400)).await;
        assert!(peer.told.is_empty(), "nobody has decided: {:?}", peer.told);
        hook.held.send_replace(false);
        peer.until(|peer| peer.was_told(told)).await;
        if told == "started" {
            peer.until(|peer| peer.heard.iter().any(|(.., payload, _)| payload == &PACKET)).await;
            peer.close().await;
        } else {
            assert_eq!(peer.told[0]["reason"], "hook_refused", "{:?}", peer.told);
            peer.until(|peer| peer.closed).await;
        }
    }
    let record = daemon.call_record().await;
    assert!(record["setup"]["hook_ms"].as_f64() > Some(400.0), "{record}");
    // Nobody waits for an answer to somebody who has left.
    hook.held.send_replace(true);
    let mut peer = Peer::signal_with(&daemon, begin(json!({ "sub": "carl" }))).await;
    peer.until(|peer| peer.open && peer.connected.is_some()).await;
    peer.close().await;
    let begun = Instant::now();
    while daemon.metric("antiphon_handshakes_refused_total", "reason=\"gone\"").await < 1.0 {
        assert!(begun.elapsed() < PATIENCE);
    }
    assert_eq!(hook.asked(), 3);
}

#[tokio::test]
async fn one_address_cannot_take_all_places_of_webrtc_answers() {
    let daemon = Daemon::start(&[("ANTIPHON_HTTP__MAX_HANDSHAKES_PER_ADDRESS", "2")]).await;
    let mut first = Peer::signal(&daemon, "echo").await;
    let _second = Peer::signal(&daemon, "echo").await;
    let (.., sdp, _) = Peer::offer().await;
    for path in ["/whip?agent=echo", "/v1/realtime/calls?model=echo"] {
        let (status, head, _) = ask(daemon.http, "POST", path, &["content-type: application/sdp"], &sdp).await;
        assert_eq!((status, header(&head, "retry-after")), (429, Some("15")), "{path}: {head}");
    }
    assert_eq!(daemon.metric("antiphon_handshakes_refused_total", "reason=\"address_handshakes\"").await, 2.0);
    first.until(|peer| peer.connected.is_some()).await;
    Peer::signal(&daemon, "echo").await;
}

#[tokio::test]
async fn whoever_fails_too_often_waits_alone() {
    let issuer = Issuer::new("one");
    let more = format!("[http]\ntrusted_proxies = [\"127.0.0.0/8\"]\n{ROUTE}");
    let daemon = daemon(&issuer, &more).await;
    let from = |address: &str, token: &str| {
        vec![("authorization", format!("Bearer {token}")), ("x-forwarded-for", address.to_owned())]
    };
    let mut reasons = Vec::new();
    for number in 0..40 {
        let made_up = format!("ak_{number:032x}");
        let refused = open(&daemon, "/v1/session", &from("203.0.113.9", &made_up)).await.err().unwrap();
        reasons.push((refused.0, refused.1["reason"].as_str().unwrap().to_owned()));
    }
    assert_eq!(reasons[0], (401, "api_key_unknown".to_owned()));
    assert_eq!(reasons[39], (429, "too_many_failures".to_owned()));
    let good = issuer.token(json!({}));
    let refused = open(&daemon, "/v1/session", &from("203.0.113.9", &good)).await.err().unwrap();
    assert_eq!(refused.0, 429);
    assert!(open(&daemon, "/v1/session", &from("198.51.100.4", &good)).await.is_ok());
    // What the client itself wrote before its proxy's entry is not believed.
    let forged = from("198.51.100.4, 203.0.113.9", &good);
    assert_eq!(open(&daemon, "/v1/session", &forged).await.err().unwrap().0, 429);
}

#[tokio::test]
async fn a_proxy_that_speaks_the_proxy_protocol_is_believed_and_nobody_else_can_speak_it() {
    let issuer = Issuer::new("one");
    let more = format!("[http]\nproxy_form = \"proxy\"\ntrusted_proxies = [\"127.0.0.1\"]\n{ROUTE}");
    let daemon = daemon(&issuer, &more).await;
    let header = |command: u8, source: [u8; 4]| {
        let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
        bytes.extend([command, 0x11, 0, 12]);
        bytes.extend(source);
        bytes.extend([127, 0, 0, 1, 0x12, 0x67, 0, 80]);
        bytes
    };
    let get = async |first: Vec<u8>| {
        let mut tcp = TcpStream::connect(daemon.http).await.unwrap();
        let request = format!("GET /v1/agents HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", daemon.http);
        tcp.write_all(&[&first[..], request.as_bytes()].concat()).await.unwrap();
        let mut answer = String::new();
        let _ = timeout(PATIENCE, tcp.read_to_string(&mut answer)).await.expect("it hangs");
        answer
    };
    let remote = get(header(0x21, [203, 0, 113, 9])).await;
    assert!(
        remote.starts_with("HTTP/1.1 200") && remote.contains("\"agents\":[]"),
        "a caller from elsewhere: {remote}"
    );
    let local = get(header(0x20, [0; 4])).await;
    assert!(local.contains("echo"), "the proxy itself: {local}");
    assert_eq!(get(Vec::new()).await, "", "without the header nothing is served");
}

#[tokio::test]
async fn one_address_cannot_take_all_handshakes() {
    let daemon = Daemon::start(&[("ANTIPHON_HTTP__MAX_HANDSHAKES_PER_ADDRESS", "3")]).await;
    let mut idle = Vec::new();
    for _ in 0..3 {
        idle.push(TcpStream::connect(daemon.http).await.unwrap());
    }
    let begun = Instant::now();
    while daemon.metric("antiphon_connections", "listener=\"http\"").await < 3.0 {
        assert!(begun.elapsed() < PATIENCE);
    }
    let mut refused = TcpStream::connect(daemon.http).await.unwrap();
    assert_eq!(timeout(PATIENCE, refused.read(&mut [0; 16])).await.unwrap().unwrap_or(0), 0);
    assert_eq!(daemon.metric("antiphon_handshakes_refused_total", "reason=\"address_handshakes\"").await, 1.0);
    drop(idle);
    let begun = Instant::now();
    loop {
        let mut tcp = TcpStream::connect(daemon.http).await.unwrap();
        tcp.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        if tcp.read_to_end(&mut answer).await.is_ok() && answer.starts_with(b"HTTP/1.1 200") {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "what was given back cannot be taken");
    }
}

#[tokio::test]
async fn a_resume_needs_the_same_caller_and_no_fresh_client_token() {
    let issuer = Issuer::new("one");
    let keys = format!("keys_file = \"{}\"", write(&issuer.jwks()).display());
    let daemon = start(&keys, ROUTE, &[("ANTIPHON_AUTH__LEEWAY_S", "0")]).await;
    let token = mint(&daemon, json!({ "user": "bob", "single_use": true, "expires_in_s": 1 })).await;
    let mut caller = open(&daemon, "/v1/session", &[]).await.ok().unwrap();
    caller.say(json!({ "type": "start", "agent": "echo", "token": token })).await;
    let resume = caller.hear_type("started").await["resume_token"].clone();
    drop(caller);
    for (shown, reason) in [(json!(null), ""), (json!(issuer.token(json!({}))), "")] {
        let mut other = open(&daemon, "/v1/session", &[]).await.ok().unwrap();
        other.say(json!({ "type": "start", "resume": resume, "token": shown })).await;
        let error = other.hear_type("error").await;
        assert_eq!((&error["code"], error["reason"].as_str().unwrap_or_default()), (&json!("resume_failed"), reason));
    }
    // Older than its second, and used up: it proves who it is all the same.
    tokio::time::sleep(Duration::from_millis(2200)).await;
    let mut back = open(&daemon, "/v1/session", &[("authorization", format!("Bearer {token}"))]).await.ok().unwrap();
    back.say(json!({ "type": "start", "resume": resume })).await;
    assert_eq!(back.hear_type("started").await["resumed"], false);
}

#[tokio::test]
async fn no_secret_is_ever_logged() {
    let issuer = Issuer::new("one");
    let hook = Service::start(|_| (500, String::new())).await;
    let more = format!(
        "[hook.crm]\nurl = \"{}\"\nsecret = \"${{env:HOOK_SECRET}}\"\non_error = \"continue\"\n{ROUTE}admit = \"crm\"\n",
        hook.url
    );
    let keys = format!("keys_file = \"{}\"", write(&issuer.jwks()).display());
    let variables = [("HOOK_SECRET", "the-secret-of-the-hook"), ("ANTIPHON_LOG__LEVEL", "trace")];
    let daemon = start(&keys, &more, &variables).await;
    let (good, wrong) = (issuer.token(json!({})), issuer.token(json!({ "aud": "elsewhere" })));
    for way in ways::ALL {
        let _ = enter(&daemon, way, &good, "echo").await;
        let _ = enter(&daemon, way, &wrong, "echo").await;
    }
    let client = mint(&daemon, json!({ "user": "bob" })).await;
    enter(&daemon, Way::Query, &client, "echo").await.unwrap();
    let (_, _, metrics) = get(daemon.control, "/metrics").await;
    let log = daemon.log();
    assert!(log.len() > 10_000, "a trace was asked for");
    let secret_parts = [&good, &wrong, &client].map(|token| token.rsplit('.').next().unwrap());
    for secret in [SECRET, KEY, "the-secret-of-the-hook"].into_iter().chain(secret_parts) {
        for (what, text) in [("log", &log), ("metrics", &metrics)] {
            let line = text.lines().find(|line| line.contains(secret));
            assert!(line.is_none(), "{secret} is in the {what}: {}", line.unwrap());
        }
    }
}
