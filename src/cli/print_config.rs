//! `antiphon print-config`: the configuration in force.

use std::process::ExitCode;

use crate::cli::answer::{Answer, ConfigArgs};
use crate::config::source::{Process, Sources};

/// Prints the configuration in force as TOML: defaults, files and variables merged. Secrets are not shown.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct PrintConfigArgs {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Say behind each value where it was set.
    #[arg(long)]
    pub origin: bool,
}

/// Prints.
pub fn run(args: &PrintConfigArgs) -> ExitCode {
    print_config(args).print()
}

/// The configuration in force, or what is wrong with it.
pub fn print_config(args: &PrintConfigArgs) -> Answer {
    let printed = Sources::read(&args.config.config)
        .and_then(|sources| crate::config::print(&sources.files, &sources.env, &Process, args.origin));
    match printed {
        Ok(text) => Answer::good(text),
        Err(errors) => Answer::bad(errors.to_string(), if errors.unreadable { 2 } else { 1 }),
    }
}
