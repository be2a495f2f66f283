//! `antiphon token`: makes and looks at credentials.

use std::io::Read;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::auth::api_key::{Hash, MIN_LENGTH, PREFIX};
use crate::auth::client_token::{self, Grant, Mint};
use crate::auth::jwt::Compact;
use crate::auth::{Denied, Principal, Scope, Use};
use crate::cli::answer::{Answer, ConfigArgs};
use crate::config::settings::Settings;
use crate::message::Setup;
use crate::runtime::admission::Gatekeeper;
use crate::runtime::admission::keyring::Keyrings;
use crate::telemetry::Telemetry;
use crate::upstream::exchange::Exchanges;

/// Makes and looks at credentials.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum TokenCommand {
    /// Make a client token, signed with `auth.tokens.secret`
    Mint(MintArgs),
    /// Show what a token says, and whether it would be let in now
    Inspect(InspectArgs),
    /// Make an API key, and print it with what goes into the configuration
    Key(KeyArgs),
    /// Print the hash of an API key that is read from standard input
    Hash,
}

/// What the token is good for.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct MintArgs {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The user.
    #[arg(long)]
    pub user: Option<String>,
    /// The tenant.
    #[arg(long)]
    pub tenant: Option<String>,
    /// A claim, as NAME=VALUE; the value is read as JSON if it can be. May be repeated.
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = parse_claim)]
    pub claims: Vec<(String, Value)>,
    /// A route that may take the call; any if absent. May be repeated.
    #[arg(long)]
    pub route: Vec<String>,
    /// An agent that may be asked for; any if absent. May be repeated.
    #[arg(long)]
    pub agent: Vec<String>,
    /// A set of limits beside the route's. May be repeated.
    #[arg(long)]
    pub limits: Vec<String>,
    /// The longest that the call may last, in seconds.
    #[arg(long, value_name = "SECONDS")]
    pub max_s: Option<u64>,
    /// How long a call can be begun with it, in seconds, instead of `auth.tokens.expires_s`.
    #[arg(long, value_name = "SECONDS")]
    pub expires_s: Option<u64>,
    /// Good for one call.
    #[arg(long)]
    pub single_use: bool,
}

/// Which token.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct InspectArgs {
    /// Which configuration; without one only what the token says is shown.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The token; read from standard input if absent, where no list of processes shows it.
    #[arg(value_name = "TOKEN")]
    pub token: Option<String>,
}

/// For what.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct KeyArgs {
    /// Its name in the configuration.
    #[arg(value_name = "NAME", default_value = "backend")]
    pub name: String,
}

fn parse_claim(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    Ok((name.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| value.into())))
}

/// Does what is asked, and prints.
pub async fn run(command: TokenCommand) -> ExitCode {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let answer = match command {
        TokenCommand::Mint(args) => mint(&args, &random(), now),
        TokenCommand::Inspect(args) => match args.token.clone().map_or_else(read_line, Ok) {
            Ok(token) => inspect(&args, &token, now).await,
            Err(error) => Answer::bad(error, 2),
        },
        TokenCommand::Key(args) => key(&args, &format!("{PREFIX}{}{}", random(), random())),
        TokenCommand::Hash => read_line().map_or_else(|error| Answer::bad(error, 2), |key| hash(&key)),
    };
    answer.print()
}

fn random() -> String {
    format!("{:032x}", rand::random::<u128>())
}

fn read_line() -> Result<String, String> {
    let mut text = String::new();
    let read = std::io::stdin().take(64 << 10).read_to_string(&mut text);
    read.map_err(|error| format!("error: standard input: {error}"))?;
    Ok(text.trim().to_owned())
}

/// A client token with this id.
pub fn mint(args: &MintArgs, id: &str, now: u64) -> Answer {
    let settings = match Settings::load(&args.config.config) {
        Ok(settings) => settings,
        Err(errors) => return Answer::bad(errors.to_string(), 2),
    };
    let tokens = &settings.auth.tokens;
    let expires = args.expires_s.unwrap_or(tokens.expires.as_secs());
    let most = tokens.max_expires.as_secs();
    if !(1..=most).contains(&expires) {
        return Answer::bad(format!("error: --expires-s must be from 1 to {most} (`auth.tokens.max_expires_s`)"), 1);
    }
    let unknown_route =
        args.route.iter().find(|name| !settings.routes.iter().any(|rule| rule.name.as_str() == name.as_str()));
    let unknown_limits = args.limits.iter().find(|name| !settings.limit_sets.contains_key(*name));
    if let Some((what, name)) =
        unknown_route.map(|name| ("route", name)).or(unknown_limits.map(|name| ("limits", name)))
    {
        return Answer::bad(format!("error: there is no {what} `{name}` in the configuration"), 1);
    }
    let scope = Scope {
        routes: args.route.iter().map(|name| name.as_str().into()).collect(),
        agents: args.agent.iter().map(|name| name.as_str().into()).collect(),
        limits: args.limits.clone(),
        max: args.max_s.map(Duration::from_secs),
        setup: Setup::default(),
        metadata: None,
    };
    let claims: Map<String, Value> = args.claims.iter().cloned().collect();
    let grant = Grant { user: args.user.clone(), tenant: args.tenant.clone(), claims, scope, once: args.single_use };
    match Mint::new(&tokens.secrets).make(&grant, id, now, expires) {
        Some(token) => Answer::good(token),
        None => {
            let text =
                "error: no secret to sign with: set `auth.tokens.secret` in the configuration, the same as the nodes";
            Answer::bad(text, 1)
        }
    }
}

/// What a token says, and with a configuration whether it would be let in.
pub async fn inspect(args: &InspectArgs, token: &str, now: u64) -> Answer {
    let compact = match Compact::parse(token.strip_prefix(client_token::PREFIX).unwrap_or(token)) {
        Ok(compact) => Some(compact),
        // An API key, or nothing at all.
        Err(Denied::Malformed) => None,
        Err(why) => return Answer::bad(format!("error: {}: {} {}", why.label(), why.meaning(), why.remedy()), 1),
    };
    let mut shown = match &compact {
        Some(compact) => json!({
            "form": if token.starts_with(client_token::PREFIX) { "client token" } else { "jwt" },
            "algorithm": compact.algorithm, "key": compact.key, "claims": compact.claims,
        }),
        None => json!({ "form": "api key or unknown", "hash": Hash::of(token).to_string() }),
    };
    if args.config.config.is_empty() {
        return Answer::good(pretty(&shown));
    }
    let settings = match Settings::load(&args.config.config) {
        Ok(settings) => settings,
        Err(errors) => return Answer::bad(errors.to_string(), 2),
    };
    let keyrings = Keyrings::new(Exchanges::on(tokio::runtime::Handle::current()), Telemetry::new());
    let gatekeeper = Gatekeeper::new(&settings.auth, &keyrings);
    match gatekeeper.identify(token, Use::Start, now).await {
        Ok(principal) => {
            shown["let_in"] = describe(&principal);
            Answer::good(pretty(&shown))
        }
        Err(why) => {
            shown["refused"] = why.label().into();
            let error = format!("error: {}: {} {}", why.label(), why.meaning(), why.remedy());
            Answer { text: pretty(&shown), error, code: 1 }
        }
    }
}

fn describe(principal: &Principal) -> Value {
    json!({
        "as": &*principal.name(), "user": principal.user, "tenant": principal.tenant, "claims": principal.claims,
        "session_ends_at": principal.until, "may_mint": principal.may_mint,
    })
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// A new key, and what goes into the configuration.
pub fn key(args: &KeyArgs, key: &str) -> Answer {
    let text = format!(
        "{key}\n\n# The key is shown once; the configuration has its hash:\n[auth.key.{}]\nhash = \"{}\"\n",
        args.name,
        Hash::of(key)
    );
    Answer::good(text)
}

/// The hash of a key.
pub fn hash(key: &str) -> Answer {
    if key.len() < MIN_LENGTH || key.contains(char::is_whitespace) {
        let text = format!(
            "error: an API key has {MIN_LENGTH} characters at least, and no white space; `antiphon token key` makes one"
        );
        return Answer::bad(text, 1);
    }
    Answer::good(Hash::of(key).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn config(name: &str, text: &str) -> ConfigArgs {
        let path = std::env::temp_dir().join(format!("antiphon-token-{name}-{}.toml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        ConfigArgs { config: vec![path] }
    }

    #[tokio::test]
    async fn a_token_that_was_made_is_let_in_and_says_what_it_was_made_for() {
        let secret = std::env::temp_dir().join(format!("antiphon-secret-{}", std::process::id()));
        std::fs::write(&secret, "0123456789abcdef0123456789abcdef").unwrap();
        let config = config("mint", &format!("[auth.tokens]\nsecret = \"${{file:{}}}\"\n", secret.display()));
        let args = MintArgs {
            config: config.clone(),
            user: Some("ann".into()),
            claims: vec![("tier".into(), json!("gold"))],
            ..MintArgs::default()
        };
        let minted = mint(&args, "id", NOW);
        assert_eq!(minted.code, 0, "{}", minted.error);
        let args = InspectArgs { config, token: None };
        let shown = inspect(&args, &minted.text, NOW).await;
        let shown: Value = serde_json::from_str(&shown.text).unwrap();
        assert_eq!((&shown["let_in"]["user"], &shown["let_in"]["claims"]["tier"]), (&json!("ann"), &json!("gold")));
        let late = inspect(&args, &minted.text, NOW + 600).await;
        assert!(late.code == 1 && late.error.contains("token_expired"), "{late:?}");
        let nobody = inspect(&InspectArgs::default(), "ak_0123456789abcdef0123456789abcdef", NOW).await;
        assert!(nobody.code == 0 && nobody.text.contains("sha256:"), "{nobody:?}");
        std::fs::remove_file(secret).unwrap();
    }

    #[test]
    fn nothing_is_made_without_a_secret_or_for_a_route_that_is_not_there() {
        let args = MintArgs { config: config("none", ""), ..MintArgs::default() };
        assert!(mint(&args, "id", NOW).error.contains("auth.tokens.secret"));
        let args = MintArgs { route: vec!["nowhere".into()], ..args };
        assert!(mint(&args, "id", NOW).error.contains("no route `nowhere`"));
        let args = MintArgs { route: Vec::new(), expires_s: Some(1 << 40), ..args };
        assert!(mint(&args, "id", NOW).error.contains("--expires-s"));
    }

    #[test]
    fn a_key_is_printed_with_the_hash_that_finds_it_and_a_short_one_is_refused() {
        let made = key(&KeyArgs { name: "crm".into() }, "ak_0123456789abcdef0123456789abcdef");
        assert!(
            made.text.contains("[auth.key.crm]")
                && made.text.contains(&Hash::of("ak_0123456789abcdef0123456789abcdef").to_string())
        );
        assert_eq!(hash("ak_0123456789abcdef0123456789abcdef").code, 0);
        assert!(hash("password1").error.contains("32 characters"));
    }
}
