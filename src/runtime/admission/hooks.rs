//! Pre-call hooks: the operator's service is asked before a call is taken, by a signed POST on the control runtime.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use hyper::StatusCode;
use hyper::body::Bytes;
use serde::Serialize;
use serde_json::Value;

use crate::config::settings::HookSettings;
use crate::route::decision::Decision;
use crate::runtime::clock::Clock;
use crate::telemetry::HookOutcome;
use crate::time::Micros;
use crate::upstream::exchange::{Call, Exchanges};

/// Bytes of an answer at most.
const MAX_ANSWER: usize = 64 << 10;
/// Answers that are kept at most; beyond it no more are kept until some are too old.
const MAX_KEPT: usize = 4096;

/// What a hook is told of a call.
#[derive(Clone, Debug, Serialize)]
pub struct Question<'a> {
    /// The session that will be.
    pub session_id: &'a str,
    /// What an answer holds for; it is used again for a call of which all of this is the same.
    #[serde(flatten)]
    pub about: About<'a>,
}

/// What decides.
#[derive(Clone, Debug, Serialize)]
pub struct About<'a> {
    /// The route that takes the call.
    pub route: &'a str,
    /// The agent asked for.
    pub agent: Option<&'a str>,
    /// The conversation that is gone on with.
    pub conversation_id: Option<&'a str>,
    /// From the token.
    pub tenant: Option<&'a str>,
    /// From the token.
    pub user: Option<&'a str>,
    /// Of the token; `null` without one.
    pub claims: &'a Value,
    /// The client's.
    pub context: &'a Value,
    /// The token's and the client's.
    pub metadata: &'a Value,
    /// How the client connects.
    pub transport: &'a str,
    /// This node's.
    pub region: Option<&'a str>,
}

/// What came of asking.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The answer, or why there is none.
    pub answer: Result<Arc<Decision>, String>,
    /// For the metrics.
    pub outcome: HookOutcome,
    /// How long it took.
    pub took: Duration,
}

/// Asks, and keeps answers for as long as their hook's `cache_s`.
#[derive(Debug)]
pub struct Hooks {
    exchanges: Exchanges,
    clock: Clock,
    kept: Mutex<HashMap<Key, (Micros, Arc<Decision>)>>,
}

type Key = [u8; SHA256_OUTPUT_LEN];

impl Hooks {
    /// Nothing is kept yet.
    pub fn new(exchanges: Exchanges, clock: Clock) -> Hooks {
        Hooks { exchanges, clock, kept: Mutex::default() }
    }

    /// Asks the hook, unless its answer is known.
    pub async fn ask(&self, name: &str, hook: &HookSettings, question: &Question<'_>) -> Asked {
        let begun = self.clock.now();
        let key = key(name, hook, &question.about);
        if let Some(decision) = self.kept(&key, begun) {
            return Asked { answer: Ok(decision), outcome: HookOutcome::Cached, took: Duration::ZERO };
        }
        let answer = self.post(hook, question).await.map(Arc::new);
        let now = self.clock.now();
        let outcome = match &answer {
            Ok(decision) if decision.refused.is_some() => HookOutcome::Refused,
            Ok(_) => HookOutcome::Allowed,
            Err(_) => HookOutcome::Failed,
        };
        if let (Ok(decision), false) = (&answer, hook.cache.is_zero()) {
            self.keep(key, now + hook.cache, decision.clone(), now);
        }
        Asked { answer, outcome, took: now - begun }
    }

    /// Whether [`Hooks::ask`] has the answer at once.
    pub fn knows(&self, name: &str, hook: &HookSettings, question: &Question<'_>) -> bool {
        self.kept(&key(name, hook, &question.about), self.clock.now()).is_some()
    }

    async fn post(&self, hook: &HookSettings, question: &Question<'_>) -> Result<Decision, String> {
        let body = serde_json::to_vec(question).map(Bytes::from).map_err(|error| error.to_string())?;
        let now = self.clock.unix_seconds(Duration::ZERO);
        let mut call = Call::post(hook.url.clone(), body, hook.secret.as_ref(), now, hook.timeout, MAX_ANSWER);
        call.headers.push(("idempotency-key".to_owned(), question.session_id.to_owned().into()));
        let answer = self.exchanges.run(call).await.map_err(|error| error.message)?;
        match answer.status {
            StatusCode::FORBIDDEN => Ok(Decision::refusal(&answer.body)),
            status if status.is_success() => Decision::read(&answer.body),
            status => Err(format!("it was answered by {status}")),
        }
    }

    fn kept(&self, key: &Key, now: Micros) -> Option<Arc<Decision>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(key).filter(|(until, _)| *until > now).map(|(_, decision)| decision.clone())
    }

    fn keep(&self, key: Key, until: Micros, decision: Arc<Decision>, now: Micros) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_KEPT {
            kept.retain(|_, (until, _)| *until > now);
        }
        if kept.len() < MAX_KEPT {
            kept.insert(key, (until, decision));
        }
    }
}

fn key(name: &str, hook: &HookSettings, about: &About<'_>) -> Key {
    let mut context = Context::new(&SHA256);
    for part in [name, hook.url.as_str()] {
        context.update(part.as_bytes());
        context.update(&[0]);
    }
    context.update(&serde_json::to_vec(about).unwrap_or_default());
    let mut key = Key::default();
    key.copy_from_slice(context.finish().as_ref());
    key
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::settings::OnError;

    async fn answering(answers: Vec<&'static str>) -> (HookSettings, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hook = HookSettings {
            url: format!("http://{}/hook", listener.local_addr().unwrap()).parse().unwrap(),
            secret: Some("hidden".to_owned().into()),
            timeout: Duration::from_secs(5),
            on_error: OnError::Refuse,
            cache: Duration::from_secs(60),
        };
        let serving = tokio::spawn(async move {
            let mut requests = Vec::new();
            for answer in answers {
                let (mut tcp, _) = listener.accept().await.unwrap();
                let (mut request, mut count) = (vec![0; 8192], 0);
                while !request[..count].ends_with(b"}") {
                    count += tcp.read(&mut request[count..]).await.unwrap();
                }
                tcp.write_all(answer.as_bytes()).await.unwrap();
                requests.push(String::from_utf8(request[..count].to_vec()).unwrap());
            }
            requests
        });
        (hook, serving)
    }

    fn question<'a>(session_id: &'a str, user: &'a str) -> Question<'a> {
        let about = About {
            route: "r",
            agent: None,
            conversation_id: None,
            tenant: None,
            user: Some(user),
            claims: &Value::Null,
            context: &Value::Null,
            metadata: &Value::Null,
            transport: "websocket",
            region: None,
        };
        Question { session_id, about }
    }

    #[tokio::test]
    async fn an_answer_is_used_again_for_the_same_caller_only() {
        let ann = "HTTP/1.1 200 OK\r\ncontent-length: 23\r\n\r\n{\"vars\":{\"name\":\"Ann\"}}";
        let bob = "HTTP/1.1 403 Forbidden\r\ncontent-length: 20\r\n\r\n{\"message\":\"Pay up\"}";
        let (hook, serving) = answering(vec![ann, bob]).await;
        let hooks = Hooks::new(Exchanges::on(tokio::runtime::Handle::current()), Clock::start());
        for (session, outcome) in [("s1", HookOutcome::Allowed), ("s2", HookOutcome::Cached)] {
            let asked = hooks.ask("crm", &hook, &question(session, "ann")).await;
            assert_eq!((asked.answer.unwrap().vars["name"].as_str(), asked.outcome), (Some("Ann"), outcome));
        }
        let asked = hooks.ask("crm", &hook, &question("s3", "bob")).await;
        assert_eq!((asked.answer.unwrap().refused.as_deref(), asked.outcome), (Some("Pay up"), HookOutcome::Refused));
        let requests = serving.await.unwrap();
        assert!(requests[0].contains("antiphon-signature: t=") && requests[0].contains("idempotency-key: s1\r\n"));
        assert!(requests[0].contains(r#""user":"ann""#) && !requests[0].contains("hidden"), "{}", requests[0]);
    }

    #[tokio::test]
    async fn what_is_no_answer_is_a_failure_and_not_kept() {
        let (hook, serving) = answering(vec![
            "HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        ])
        .await;
        let hooks = Hooks::new(Exchanges::on(tokio::runtime::Handle::current()), Clock::start());
        for what in ["500", "no JSON"] {
            let asked = hooks.ask("crm", &hook, &question("s", "ann")).await;
            assert!(asked.answer.unwrap_err().contains(what) && asked.outcome == HookOutcome::Failed);
        }
        assert_eq!(hooks.ask("crm", &hook, &question("s", "ann")).await.outcome, HookOutcome::Allowed);
        serving.await.unwrap();
    }
}
