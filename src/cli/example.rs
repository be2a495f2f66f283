//! `antiphon example`: configuration files to begin with.

use std::fmt::Write;
use std::process::ExitCode;

use crate::cli::answer::Answer;
use crate::config::examples::{EXAMPLES, example};

/// Prints a configuration file to begin with; without a name, lists them.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ExampleArgs {
    /// Which one.
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
}

/// Prints.
pub fn run(args: &ExampleArgs) -> ExitCode {
    show(args).print()
}

/// The example, or the list.
pub fn show(args: &ExampleArgs) -> Answer {
    let mut list = String::new();
    for (name, what, _) in EXAMPLES {
        let _ = writeln!(list, "{name:<16}{what}");
    }
    match &args.name {
        None => Answer::good(list),
        Some(name) => match example(name) {
            Some(text) => Answer::good(text),
            None => Answer::bad(format!("there is no example `{name}`; there are:\n{list}"), 2),
        },
    }
}
