//! The command line: one module per subcommand.

pub mod answer;
pub mod call;
pub mod check;
pub mod emulate;
pub mod example;
pub mod explain;
pub mod print_config;
pub mod run;
pub mod token;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Media relay for voice AI: callers on one side, agents on the other.
#[derive(Parser, Clone, Debug)]
#[command(name = "antiphon", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Clone, Debug)]
enum Command {
    /// Run the daemon
    Run(run::RunArgs),
    /// Check configuration files
    Check(check::CheckArgs),
    /// Show the configuration in force, secrets masked
    PrintConfig(print_config::PrintConfigArgs),
    /// Explain how calls are routed
    #[command(subcommand)]
    Route(RouteCommand),
    /// Print an example configuration
    Example(example::ExampleArgs),
    /// Make and look at tokens and API keys
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Make one call and measure it
    Call(call::CallArgs),
    /// Play the part of a peer, for tests
    Emulate(emulate::EmulateArgs),
}

#[derive(Subcommand, Clone, Debug)]
enum RouteCommand {
    /// Say which route a call would take, and why
    Explain(explain::ExplainArgs),
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => crate::app::run(&args),
        Command::Check(args) => block_on(check::run(args)),
        Command::PrintConfig(args) => print_config::run(&args),
        Command::Route(RouteCommand::Explain(args)) => explain::run(&args),
        Command::Example(args) => example::run(&args),
        Command::Token(command) => block_on(token::run(command)),
        Command::Call(args) => block_on(call::run(args)),
        Command::Emulate(args) => block_on(emulate::run(args)),
    }
}

/// Runs a tool on this thread.
fn block_on(tool: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(tool),
        Err(error) => {
            eprintln!("error: no runtime: {error}");
            ExitCode::FAILURE
        }
    }
}
