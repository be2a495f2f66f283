//! `antiphon route explain`: where a call goes, and why.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use crate::cli::answer::{Answer, ConfigArgs};
use crate::config::settings::Settings;
use crate::ids::{AgentName, ConversationId, SessionId};
use crate::route::{RouteRequest, Router};
use crate::session::Transport;

/// Says which route takes a call, why the ones before it do not, and which agents it gets.
///
/// The call is described by the options; what is not given is absent. Exit code: 0 it gets a plan, 1 it is refused,
/// 2 the configuration is wrong.
#[derive(Clone, Debug, clap::Args)]
pub struct ExplainArgs {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The agent asked for.
    #[arg(long)]
    pub agent: Option<String>,
    /// websocket, webrtc, quic or webtransport.
    #[arg(long, default_value = "websocket", value_parser = parse_transport)]
    pub transport: Transport,
    /// A claim of the token, as NAME=VALUE; dots go deeper; the value is read as JSON if it can be. May be repeated.
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = parse_pair)]
    pub claims: Vec<(String, String)>,
    /// The tenant, instead of the claim that `[auth.claims]` names.
    #[arg(long)]
    pub tenant: Option<String>,
    /// The user, instead of the claim that `[auth.claims]` names.
    #[arg(long)]
    pub user: Option<String>,
    /// A header of the request, as NAME=VALUE. May be repeated.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_pair)]
    pub headers: Vec<(String, String)>,
    /// The request's path.
    #[arg(long, default_value = "/v1/session")]
    pub path: String,
    /// The `Host` header.
    #[arg(long)]
    pub host: Option<String>,
    /// The `Origin` header.
    #[arg(long)]
    pub origin: Option<String>,
    /// The node's region, instead of `[node] region`.
    #[arg(long)]
    pub region: Option<String>,
    /// The conversation, for `sticky = "conversation"`.
    #[arg(long)]
    pub conversation: Option<String>,
    /// The session, for `sticky = "session"`.
    #[arg(long, default_value = "example")]
    pub session: String,
    /// The client's `context`, as JSON.
    #[arg(long, value_name = "JSON", value_parser = parse_json)]
    pub context: Option<Value>,
    /// The call comes from another machine.
    #[arg(long)]
    pub remote: bool,
}

fn parse_transport(text: &str) -> Result<Transport, String> {
    serde_json::from_value(Value::from(text)).map_err(|_| "one of websocket, webrtc, quic, webtransport".to_owned())
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn parse_json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// Explains and prints.
pub fn run(args: &ExplainArgs) -> ExitCode {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    explain(args, now).print()
}

/// Explains; `now` is Unix time in seconds.
pub fn explain(args: &ExplainArgs, now: u64) -> Answer {
    let settings = match Settings::load(&args.config.config) {
        Ok(settings) => settings,
        Err(errors) => return Answer::bad(errors.to_string(), 2),
    };
    let explanation = Router::new(&settings).explain(&request(args, &settings), now);
    let code = u8::from(explanation.outcome.is_err());
    Answer { text: explanation.to_string(), error: String::new(), code }
}

fn request(args: &ExplainArgs, settings: &Settings) -> RouteRequest {
    let mut claims = Map::new();
    for (path, text) in &args.claims {
        let value = serde_json::from_str(text).unwrap_or_else(|_| Value::from(text.as_str()));
        insert(&mut claims, path, value);
    }
    let claims = if claims.is_empty() { Value::Null } else { Value::Object(claims) };
    let of_claim = |name: &str| Some(crate::route::setup::lookup(&claims, name)?.as_str()?.to_owned());
    let tenant = args.tenant.clone().or_else(|| of_claim(&settings.auth.tenant_claim));
    let user = args.user.clone().or_else(|| of_claim(&settings.auth.user_claim));
    let forwarded = ["forwarded", "x-forwarded-for", "via"];
    RouteRequest {
        agent: args.agent.as_deref().map(AgentName::from),
        authenticated: tenant.is_some() || user.is_some() || !claims.is_null(),
        tenant,
        user,
        claims,
        path: args.path.clone(),
        host: args.host.clone(),
        origin: args.origin.clone(),
        headers: args.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect(),
        region: args.region.clone().or_else(|| settings.node.region.clone()),
        conversation_id: args.conversation.as_deref().map(ConversationId::from),
        loopback: !args.remote,
        forwarded: args.headers.iter().any(|(name, _)| forwarded.contains(&name.to_ascii_lowercase().as_str())),
        context: args.context.clone().unwrap_or(Value::Null),
        ..RouteRequest::new(args.transport, SessionId::from(args.session.as_str()))
    }
}

fn insert(table: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => drop(table.insert(path.to_owned(), value)),
        Some((first, rest)) => {
            let inner = table.entry(first.to_owned()).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}
