//! Programs beside the daemon, and what they print.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use super::{PATIENCE, command};

/// A process that serves until it is dropped, and what it prints.
pub struct Program {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Program {
    /// Starts it.
    pub fn start(mut command: Command) -> Program {
        let name = format!("{command:?}");
        let child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{name}: {error}; `make setup` makes .venv"));
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Program { _child: child, lines }
    }

    /// The next line.
    pub async fn line(&mut self) -> String {
        let line = timeout(PATIENCE, self.lines.next_line()).await.expect("it says nothing").unwrap();
        line.expect("it has ended; a missing package? `make setup` installs them")
    }

    /// The next JSON line of an event.
    pub async fn event(&mut self, event: &str) -> Value {
        loop {
            let line: Value = serde_json::from_str(&self.line().await).unwrap();
            if line["event"] == event {
                return line;
            }
        }
    }
}

/// `antiphon emulate ws-agent`, and where it is reached.
pub async fn emulate(arguments: &[&str]) -> (Program, String) {
    let mut command = command(&[]);
    command.args(["emulate", "ws-agent", "--log"]).args(arguments);
    let mut server = Program::start(command);
    let listening: Value = serde_json::from_str(&server.line().await).unwrap();
    let url = listening["listening"].as_str().unwrap().to_owned();
    (server, url)
}
