//! `antiphon run`: the daemon.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::cli::answer::ConfigArgs;
use crate::cli::check::experimental;
use crate::config::settings::{LogFormat, Settings};
use crate::runtime::node::Bound;

/// Options of `antiphon run`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = "Any key of the configuration can be overridden by a variable, for example \
    ANTIPHON_LISTEN__HTTP=127.0.0.1:0.\n\nSignals: TERM or INT drains (a second one ends at once), HUP reloads the \
    configuration and the certificate.\n\nExit status: 0 ended as told, 1 it could not start or failed, 2 the \
    configuration is wrong.")]
pub struct RunArgs {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Write the addresses really bound to this file, as JSON, when ready
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// How log lines look, instead of `log.format`
    #[arg(long, value_enum)]
    pub log_format: Option<LogFormat>,
}

/// What is printed when the daemon is ready: lines to copy, and which agents there are.
pub fn banner(settings: &Settings, bound: &Bound, took: Duration) -> String {
    let scheme = if settings.http.tls.is_some() { "https" } else { "http" };
    let base = format!("{scheme}://{}", bound.http);
    let mut text = format!("antiphon {} is ready after {} ms\n", env!("CARGO_PKG_VERSION"), took.as_millis());
    let default = &settings.node.default_agent;
    let first = settings.agents.contains_key(default).then(|| format!("{default} (default)"));
    let others = settings.agents.iter().filter(|(name, _)| *name != default);
    let others = others.map(|(name, agent)| {
        let experimental = if experimental(agent).is_some() { " (experimental)" } else { "" };
        format!("{name}{experimental}")
    });
    let on: Vec<String> = first.into_iter().chain(others).collect();
    let call = if base == "http://127.0.0.1:8080" { String::new() } else { format!(" --url {base}") };
    let lines = [
        ("talk", format!("open {base}/")),
        ("call", format!("antiphon call{call}")),
        ("metrics", format!("curl http://{}/metrics", bound.control)),
        ("agents", on.join(", ")),
    ];
    for (name, line) in lines {
        let _ = writeln!(text, "  {name:<8} {line}");
    }
    for (name, how) in &settings.off {
        let _ = writeln!(text, "  {:<8} {name}: {how}", "off");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_banner_has_lines_to_copy_and_says_how_to_switch_agents_on() {
        let off = vec![("openai".into(), "set OPENAI_API_KEY".into())];
        let settings = Settings { off, ..Settings::default() };
        let bound = Bound {
            http: "127.0.0.1:9000".parse().unwrap(),
            control: "127.0.0.1:9001".parse().unwrap(),
            webrtc: None,
            quic: None,
        };
        let text = banner(&settings, &bound, Duration::from_millis(12));
        for part in [
            "ready after 12 ms",
            "antiphon call --url http://127.0.0.1:9000",
            "curl http://127.0.0.1:9001/metrics",
            "storyteller (default), clip, echo",
            "openai: set OPENAI_API_KEY",
        ] {
            assert!(text.contains(part), "`{part}` is missing in:\n{text}");
        }
    }
}
