//! `antiphon check`: is the configuration right?

mod dial;

use std::fmt::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use crate::agent::{setup, standing};
use crate::cli::answer::{Answer, ConfigArgs};
use crate::config::settings::{AgentKind, AgentSettings, Settings};
use crate::config::source::{Process, Sources};
use crate::ids::AgentName;

/// Checks configuration files and says what is wrong, with file, line and column.
///
/// Exit code: 0 right, 1 wrong, 2 a file cannot be read.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct CheckArgs {
    /// Files or folders, merged in this order.
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The same, as for `run`.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Connect to each agent, too, and say what was found there. An agent of a vendor may count that as a call.
    #[arg(long)]
    pub dial: bool,
}

/// Checks and prints.
pub async fn run(args: CheckArgs) -> ExitCode {
    let mut answer = check(&args);
    if args.dial && answer.code == 0 {
        let Answer { text, error, code } = dial_all(&args).await;
        answer = Answer { text: answer.text + &text, error, code };
    }
    answer.print()
}

async fn dial_all(args: &CheckArgs) -> Answer {
    let read = Sources::read(args.paths());
    let loaded = read.and_then(|sources| {
        let settings = crate::config::check(&sources.files, &sources.env, &Process)?;
        Ok((sources, settings))
    });
    match loaded {
        Ok((sources, settings)) => dial::dial(&settings, &sources).await,
        Err(errors) => Answer::bad(errors.to_string(), 1),
    }
}

impl CheckArgs {
    fn paths(&self) -> &[PathBuf] {
        if self.files.is_empty() { &self.config.config } else { &self.files }
    }
}

/// Checks.
pub fn check(args: &CheckArgs) -> Answer {
    match Settings::load(args.paths()) {
        Err(errors) => Answer::bad(errors.to_string(), if errors.unreadable { 2 } else { 1 }),
        Ok(settings) => Answer::good(summary(&settings)),
    }
}

/// What is right in itself and will still keep callers out.
fn warnings(settings: &Settings) -> Vec<String> {
    let listen = &settings.listen;
    let mut warnings = unsupported(settings);
    warnings.extend(careless(settings));
    if listen.http.ip().is_loopback() {
        return warnings;
    }
    if let Some(webrtc) = listen.webrtc {
        let bound = [webrtc.ip()];
        let told = if listen.webrtc_public.is_empty() { &bound[..] } else { &listen.webrtc_public };
        if told.iter().all(|ip| !is_public(*ip)) {
            let told: Vec<String> = told.iter().map(ToString::to_string).collect();
            warnings.push(format!(
                "WebRTC clients are told {} only, which callers outside of this network cannot reach; \
                 name the public address in `listen.webrtc_public`",
                told.join(", ")
            ));
        }
    }
    if settings.http.tls.is_none() {
        warnings.push(format!(
            "browsers give no page from http://{} a microphone, only https or localhost; set `[http] tls`, \
             or put a proxy with TLS in front",
            listen.http
        ));
    }
    warnings
}

/// What lets in more, or tells less, than most operators mean.
fn careless(settings: &Settings) -> Vec<String> {
    let auth = &settings.auth;
    let mut warnings = Vec::new();
    for issuer in auth.issuers.iter().map(|issuer| &issuer.issuer) {
        if issuer.audience.is_empty() && issuer.issuer.is_empty() {
            let name = &issuer.name;
            warnings.push(format!(
                "auth.jwt.{name}: every token that its keys have signed is taken; name `issuer` and `audience`"
            ));
        }
    }
    if auth.tokens.secrets.is_empty() && auth.keys.iter().any(|key| key.mint) && !settings.redis.urls.is_empty() {
        warnings.push("client tokens are good on the node that made them only; set `auth.tokens.secret`".to_owned());
    }
    let asked = |name: &str| settings.routes.iter().any(|rule| rule.admit.as_deref() == Some(name));
    for (name, _) in settings.hooks.iter().filter(|(name, hook)| hook.secret.is_none() && asked(name)) {
        warnings.push(format!("hook.{name}: its requests are not signed; set `secret`, so that it can tell who asks"));
    }
    let all = ["0.0.0.0", "::"].map(|any| any.parse::<IpAddr>());
    let everybody =
        settings.http.trusted_proxies.iter().find(|network| all.iter().flatten().any(|ip| network.contains(*ip)));
    if let Some(network) = everybody {
        warnings.push(format!("http.trusted_proxies: {network} believes everybody; name your proxies"));
    }
    warnings
}

/// Why an agent's kind is experimental, if it is.
pub fn experimental(agent: &AgentSettings) -> Option<&'static str> {
    match &agent.kind {
        AgentKind::Vendor(vendor) => standing::experimental(vendor.kind),
        _ => None,
    }
}

/// Set-up fields that have no effect at the agent that they are for, its own and its routes'.
fn unsupported(settings: &Settings) -> Vec<String> {
    let kind = |agent: &AgentSettings| agent.kind.label().to_owned();
    let of_agent = |(name, agent): (&AgentName, &Arc<AgentSettings>)| {
        let fields = setup::without_effect(agent, &agent.setup).into_iter();
        let says = |field| format!("agent {name}: kind {} does nothing with `setup.{field}` as it is set", kind(agent));
        fields.map(says).collect::<Vec<_>>()
    };
    let mut warnings: Vec<String> = settings.agents.iter().flat_map(of_agent).collect();
    for rule in &settings.routes {
        for agent in rule.named_agents().filter_map(|(_, name)| settings.agents.get(name)) {
            let fields = setup::without_effect(agent, &rule.setup).into_iter();
            warnings.extend(fields.map(|field| {
                let (route, name, kind) = (&rule.name, &agent.name, kind(agent));
                format!("route {route}: agent {name} of kind {kind} does nothing with `setup.{field}` as it is set")
            }));
        }
    }
    warnings
}

/// Whether an address means the same host everywhere (RFC 6890).
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xC0 == 64;
            !(ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() || shared)
        }
        IpAddr::V6(ip) => {
            !(ip.is_loopback() || ip.is_unspecified() || ip.is_unique_local() || ip.is_unicast_link_local())
        }
    }
}

/// What the settings amount to: counts, agents that are off, keys that have no effect.
fn summary(settings: &Settings) -> String {
    let names = |names: Vec<&str>| names.join(", ");
    let mut out = String::from("ok\n");
    let routes = settings.routes.iter().map(|rule| rule.name.as_str()).collect();
    let agents = settings.agents.keys().map(|name| name.as_str()).collect();
    let _ = writeln!(out, "routes, in order: {}", names(routes));
    let _ = writeln!(out, "agents: {}", names(agents));
    for (agent, why) in &settings.off {
        let _ = writeln!(out, "agent {agent} is off: {why}");
    }
    for warning in warnings(settings) {
        let _ = writeln!(out, "warning: {warning}");
    }
    for (name, agent) in settings.agents.iter() {
        if let Some(why) = experimental(agent) {
            let _ = writeln!(out, "agent {name}: kind {} is experimental: {why}", agent.kind.label());
        }
    }
    if !settings.inert.is_empty() {
        let _ = writeln!(out, "set, and understood, but without effect in this version:");
        for inert in &settings.inert {
            let _ = writeln!(out, "    {}: {}", inert.place, inert.key);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lets_in_more_than_most_mean_is_warned_of() {
        struct Nothing;
        impl crate::config::Lookup for Nothing {
            fn env(&self, _: &str) -> Option<String> {
                Some("a secret of 32 bytes, or of some more".to_owned())
            }
            fn read(&self, _: &std::path::Path) -> Result<String, String> {
                Err("no files".to_owned())
            }
            fn exists(&self, _: &std::path::Path) -> bool {
                false
            }
        }
        let text = "[auth.jwt.main]\nsecret = \"${env:S}\"\n[hook.crm]\nurl = \"https://h/\"\n[http]\ntrusted_proxies = [\"::/0\"]\n\
                    [[route]]\nname = \"r\"\nto = \"echo\"\nadmit = \"crm\"\n";
        let file = crate::config::FileText { name: "a.toml".into(), dir: "".into(), text: text.into() };
        let settings = crate::config::check(&[file], &std::collections::BTreeMap::new(), &Nothing).unwrap();
        let told = warnings(&settings).join("\n");
        for what in ["auth.jwt.main", "`issuer` and `audience`", "hook.crm", "::/0 believes everybody"] {
            assert!(told.contains(what), "{told}");
        }
    }

    #[test]
    fn addresses_that_nobody_outside_can_reach_are_warned_of() {
        let mut settings = Settings::default();
        assert_eq!(warnings(&settings), Vec::<String>::new(), "a daemon for this host only");
        settings.listen.http = "0.0.0.0:8080".parse().unwrap();
        settings.listen.webrtc = Some("10.0.0.5:8082".parse().unwrap());
        let text = warnings(&settings).join("\n");
        assert!(
            text.contains("10.0.0.5") && text.contains("listen.webrtc_public") && text.contains("microphone"),
            "{text}"
        );
        settings.listen.webrtc_public = vec!["198.51.100.7".parse().unwrap()];
        assert!(!warnings(&settings).join("\n").contains("webrtc_public"));
    }
}
