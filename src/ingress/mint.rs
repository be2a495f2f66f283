//! Client tokens: `POST /v1/tokens`, and `POST /v1/realtime/client_secrets` in OpenAI's form, for whoever shows an API key
//! that may make them.

use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::admit::{self, Refused};
use super::connection::Shared;
use super::credentials::{self, denied};
use super::http::{self, Answer, hint, problem, read_body, refusal_of, status_of};
use super::websocket::Head;
use crate::auth::client_token::Grant;
use crate::auth::{Denied, Principal, Scope, Use};
use crate::config::BUILT_IN_TOOLS;
use crate::config::settings::Settings;
use crate::dialect::openai;
use crate::message::{Error, ErrorCode, Greeting, Setup, Tool};

/// Where client tokens are made.
const PATH: &str = "/v1/tokens";
/// The same for OpenAI's clients.
const OPENAI_PATH: &str = "/v1/realtime/client_secrets";
/// How long OpenAI's are good if nobody says otherwise, and the bounds (its API reference).
const OPENAI_EXPIRES_S: u64 = 600;

/// Whether these requests are answered here.
pub(super) fn serves(path: &str) -> bool {
    path == PATH || path == OPENAI_PATH
}

/// Answers a request for a client token.
pub(super) async fn respond(shared: &Shared, request: Request<Incoming>) -> Answer {
    let openai = request.uri().path() == OPENAI_PATH;
    if request.method() != Method::POST {
        let mut answer =
            problem(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this address takes POST, OPTIONS");
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST, OPTIONS"));
        return answer;
    }
    let head = Head::new(shared, &request);
    let minter = match minter(shared, &head).await {
        Ok(minter) => minter,
        Err(refused) if openai => return openai_error(&refused),
        Err(refused) => return refusal_of(shared, &refused),
    };
    let body = match read_body(shared, request.into_body()).await {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    if openai { for_openai(shared, &minter, &body) } else { for_native(shared, &minter, &body) }
}

/// Whoever may make tokens. An API key is meant for servers: no page gets as far as this without one.
async fn minter(shared: &Shared, head: &Head) -> Result<Principal, Refused> {
    let node = &shared.node;
    let known = credentials::identify(node, head.address, &head.shown, None, Use::Start).await?;
    if !known.principal.is_authenticated() {
        return Err(denied(node, Denied::NoCredentials));
    }
    if known.principal.may_mint { Ok(known.principal) } else { Err(denied(node, Denied::Scope)) }
}

/// The body of `POST /v1/tokens`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
struct Wanted {
    user: Option<String>,
    tenant: Option<String>,
    claims: Map<String, Value>,
    route: Names,
    agent: Names,
    limits: Names,
    max_s: Option<u64>,
    single_use: bool,
    expires_in_s: Option<u64>,
    setup: Setup,
    metadata: Option<Map<String, Value>>,
}

/// One name, or several.
#[derive(Default, Deserialize)]
#[serde(untagged)]
enum Names {
    #[default]
    None,
    One(String),
    Several(Vec<String>),
}

impl Names {
    fn list(self) -> Vec<String> {
        match self {
            Names::None => Vec::new(),
            Names::One(name) => vec![name],
            Names::Several(names) => names,
        }
    }
}

/// What is wrong with a request, and in which field.
type Fault = (&'static str, String);

fn for_native(shared: &Shared, minter: &Principal, body: &[u8]) -> Answer {
    let body = if body.is_empty() { b"{}" } else { body };
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let wanted: Wanted = match serde_path_to_error::deserialize(&mut deserializer) {
        Ok(wanted) => wanted,
        Err(error) => return bad(&error.path().to_string(), &error.inner().to_string()),
    };
    let in_force = shared.node.in_force.load_full();
    let tokens = &in_force.settings.auth.tokens;
    let expires = wanted.expires_in_s.unwrap_or(tokens.expires.as_secs());
    if !(1..=tokens.max_expires.as_secs()).contains(&expires) {
        let most = tokens.max_expires.as_secs();
        return bad("expires_in_s", &format!("must be from 1 to {most} (`auth.tokens.max_expires_s`)"));
    }
    match granted(wanted, minter, &in_force.settings) {
        Err((field, message)) => bad(field, &message),
        Ok(grant) => match make(shared, &grant, expires) {
            Ok((token, expires_at)) => created(json!({ "token": token, "expires_at": expires_at })),
            Err(answer) => answer,
        },
    }
}

fn granted(wanted: Wanted, minter: &Principal, settings: &Settings) -> Result<Grant, Fault> {
    let (routes, limits) = (wanted.route.list(), wanted.limits.list());
    for route in &routes {
        if !settings.routes.iter().any(|rule| rule.name.as_str() == route) {
            return Err(("route", format!("there is no route `{route}`")));
        }
    }
    for set in &limits {
        if !settings.limit_sets.contains_key(set) {
            return Err(("limits", format!("there are no limits `{set}`")));
        }
    }
    if wanted.max_s == Some(0) {
        return Err(("max_s", "must be 1 at least".to_owned()));
    }
    check_setup(&wanted.setup, settings)?;
    let scope = Scope {
        routes: routes.iter().map(|name| name.as_str().into()).collect(),
        agents: wanted.agent.list().iter().map(|name| name.as_str().into()).collect(),
        limits,
        max: wanted.max_s.map(Duration::from_secs),
        setup: wanted.setup,
        metadata: wanted.metadata,
    };
    let tenant = tenant(wanted.tenant, minter)?;
    Ok(Grant { user: wanted.user, tenant, claims: wanted.claims, scope, once: wanted.single_use })
}

/// A key of a tenant makes tokens for that tenant only.
fn tenant(wanted: Option<String>, minter: &Principal) -> Result<Option<String>, Fault> {
    match (&minter.tenant, wanted) {
        (Some(own), Some(other)) if *own != other => {
            Err(("tenant", "this API key makes tokens for its own tenant only".to_owned()))
        }
        (own, wanted) => Ok(wanted.or_else(|| own.clone())),
    }
}

fn check_setup(setup: &Setup, settings: &Settings) -> Result<(), Fault> {
    if matches!(setup.greeting, Some(Greeting::Clip(_))) {
        return Err(("setup.greeting", "a clip is a file of the relay: name it in its configuration".to_owned()));
    }
    let known = |name: &str| settings.tools.contains_key(name) || BUILT_IN_TOOLS.contains(&name);
    let unknown = setup.tools.iter().flatten().find(|tool| matches!(tool, Tool::Named(name) if !known(name)));
    match unknown {
        Some(tool) => Err(("setup.tools", format!("there is no tool `{}`", tool.name()))),
        None => Ok(()),
    }
}

/// A token, and until when a session can be begun with it.
#[allow(clippy::result_large_err, reason = "an answer, moved once")]
fn make(shared: &Shared, grant: &Grant, expires: u64) -> Result<(String, u64), Answer> {
    let node = &shared.node;
    let in_force = node.in_force.load_full();
    let now = node.clock.unix_seconds(Duration::ZERO);
    let token = in_force.gatekeeper.verifier().mint.make(grant, &admit::secret(), now, expires);
    let Some(token) = token else { return Err(problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", "no token")) };
    let most = in_force.settings.auth.max_token_bytes;
    if token.len() > most {
        let detail = format!("a token of {} bytes would not be taken; `auth.max_token_bytes` is {most}", token.len());
        return Err(problem(StatusCode::BAD_REQUEST, "bad_message", &detail));
    }
    node.telemetry.admission().record_minted();
    Ok((token, now + expires))
}

fn created(body: Value) -> Answer {
    let mut answer = http::json(StatusCode::CREATED, "application/json", &body);
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn bad(field: &str, message: &str) -> Answer {
    let detail = if field.is_empty() || field == "." { message.to_owned() } else { format!("`{field}`: {message}") };
    let error = Error { field: Some(field.to_owned()), ..Error::new(ErrorCode::BadMessage, detail) };
    http::refusal(&error)
}

/// `{expires_after?: {anchor, seconds}, session?: {…}}`, as OpenAI's clients send it.
fn for_openai(shared: &Shared, minter: &Principal, body: &[u8]) -> Answer {
    let fault = |param: &str, message: &str| {
        let error = Error { field: Some(param.to_owned()), ..Error::new(ErrorCode::BadMessage, message) };
        openai_error(&Refused::from(error))
    };
    let body = if body.is_empty() { b"{}" } else { body };
    let Ok(Value::Object(wanted)) = serde_json::from_slice::<Value>(body) else {
        return fault("", "the body is no JSON object");
    };
    let most = shared.node.in_force.load().settings.auth.tokens.max_expires.as_secs();
    let seconds = wanted.get("expires_after").and_then(|after| after.get("seconds"));
    let expires = match seconds.map(Value::as_u64) {
        None => OPENAI_EXPIRES_S.min(most),
        Some(Some(seconds)) if (10..=most).contains(&seconds) => seconds,
        Some(_) => return fault("expires_after.seconds", &format!("must be from 10 to {most}")),
    };
    let session = wanted.get("session").cloned().unwrap_or_default();
    let (setup, model, described) = openai::session_of_secret(&format!("sess_{}", admit::secret()), &session);
    if let Err((_, message)) = check_setup(&setup, &shared.node.in_force.load().settings) {
        return fault("session.tools", &message);
    }
    let scope = Scope { agents: model.into_iter().collect(), setup, ..Scope::default() };
    let grant = Grant { user: minter.user.clone(), tenant: minter.tenant.clone(), scope, ..Grant::default() };
    match make(shared, &grant, expires) {
        Ok((token, expires_at)) => {
            let mut answer = created(json!({ "value": token, "expires_at": expires_at, "session": described }));
            *answer.status_mut() = StatusCode::OK;
            answer
        }
        Err(answer) => answer,
    }
}

/// A refusal in the words of OpenAI's API.
pub(super) fn openai_error(refused: &Refused) -> Answer {
    let Some(error) = &refused.error else { return Answer::default() };
    let kind = match error.code {
        ErrorCode::Unauthorized => "authentication_error",
        ErrorCode::Forbidden => "permission_error",
        ErrorCode::RateLimited => "rate_limit_error",
        ErrorCode::Overloaded | ErrorCode::Internal => "server_error",
        _ => "invalid_request_error",
    };
    let code = error.reason.as_deref().unwrap_or(error.code.label());
    let body = json!({ "error": { "message": error.message, "type": kind, "code": code, "param": error.field } });
    hint(http::json(status_of(error.code), "application/json", &body), error)
}
