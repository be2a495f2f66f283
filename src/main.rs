//! The antiphon daemon and its tools.

fn main() -> std::process::ExitCode {
    antiphon::cli::main()
}
