//! The command line: one module per subcommand.

pub mod call;
pub mod emulate;
