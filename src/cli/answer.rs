//! What the subcommands that only look have in common: which configuration, and what they say.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Which configuration.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ConfigArgs {
    /// A TOML file, or a folder of them (merged in the order of their names); may be repeated.
    #[arg(long = "config", value_name = "PATH", env = "ANTIPHON_CONFIG")]
    pub config: Vec<PathBuf>,
}

/// What a subcommand says, and its exit code: 0 good, 1 bad, 2 could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// For standard output.
    pub text: String,
    /// For standard error.
    pub error: String,
    /// The exit code.
    pub code: u8,
}

impl Answer {
    /// A good answer.
    pub fn good(text: impl Into<String>) -> Answer {
        Answer { text: text.into(), error: String::new(), code: 0 }
    }

    /// A bad one.
    pub fn bad(error: impl Into<String>, code: u8) -> Answer {
        Answer { text: String::new(), error: error.into(), code }
    }

    /// Prints it. A reader that has gone away is no error.
    pub fn print(&self) -> ExitCode {
        let lines = |text: &str| if text.is_empty() { String::new() } else { format!("{}\n", text.trim_end()) };
        let _ = std::io::stdout().write_all(lines(&self.text).as_bytes());
        let _ = std::io::stderr().write_all(lines(&self.error).as_bytes());
        ExitCode::from(self.code)
    }
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
