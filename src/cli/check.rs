//! `antiphon check`: is the configuration right?

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli::answer::{Answer, ConfigArgs};
use crate::config::settings::Settings;

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
}

/// Checks and prints.
pub fn run(args: &CheckArgs) -> ExitCode {
    check(args).print()
}

/// Checks.
pub fn check(args: &CheckArgs) -> Answer {
    let paths = if args.files.is_empty() { &args.config.config } else { &args.files };
    match Settings::load(paths) {
        Err(errors) => Answer::bad(errors.to_string(), if errors.unreadable { 2 } else { 1 }),
        Ok(settings) => Answer::good(summary(&settings)),
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
    if !settings.inert.is_empty() {
        let _ = writeln!(out, "set, and understood, but without effect in this version:");
        for inert in &settings.inert {
            let _ = writeln!(out, "    {}: {}", inert.place, inert.key);
        }
    }
    out
}
