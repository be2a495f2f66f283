//! Agents of vendors: the emulators against the vendors' own SDKs, and calls through the daemon to the emulators.

mod harness;

#[path = "vendors/burst.rs"]
mod burst;
#[path = "vendors/calls.rs"]
mod calls;
#[path = "vendors/cost.rs"]
mod cost;
#[path = "vendors/dial.rs"]
mod dial;
#[path = "vendors/examples.rs"]
mod examples;
#[path = "vendors/failover.rs"]
mod failover;
#[path = "vendors/faults.rs"]
mod faults;
#[path = "vendors/five_turns.rs"]
mod five_turns;
#[path = "vendors/live.rs"]
mod live;
#[path = "vendors/person.rs"]
mod person;
#[path = "vendors/sdk.rs"]
mod sdk;
#[path = "vendors/sdk_google.rs"]
mod sdk_google;
#[path = "vendors/taps.rs"]
mod taps;
#[path = "vendors/tools.rs"]
mod tools;
#[path = "vendors/voice_agent.rs"]
mod voice_agent;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use antiphon::cli::emulate::Log;
use antiphon::cli::emulate::vendor::script::Script;
use antiphon::cli::emulate::vendor::{Server, VendorArgs};
use antiphon::config::vendor::VendorKind;
use serde_json::Value;

/// An emulated vendor in this process, and what it has logged.
pub struct Vendor {
    /// `url` in the configuration.
    pub url: String,
    log: Arc<Mutex<Vec<Value>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Vendor {
    /// One that asks for the key `secret` and plays the script.
    pub async fn start(kind: VendorKind, key: Option<&str>, plays: Script) -> Vendor {
        Vendor::listen(kind, key, plays, None).await
    }

    /// The same over TLS; its certificate goes into the folder.
    pub async fn start_with_tls(kind: VendorKind, key: Option<&str>, plays: Script, folder: &Path) -> Vendor {
        Vendor::listen(kind, key, plays, Some(folder.to_owned())).await
    }

    async fn listen(kind: VendorKind, key: Option<&str>, plays: Script, tls: Option<PathBuf>) -> Vendor {
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = log.clone();
        let tell: Log = Arc::new(move |line| lines.lock().unwrap().push(line));
        let args = VendorArgs { key: key.map(str::to_owned), plays, tls, ..VendorArgs::default() };
        let server = Server::bind(kind, args, tell).await.unwrap();
        Vendor { url: server.url(), log, task: tokio::spawn(server.serve()) }
    }

    /// `127.0.0.1:4000`.
    pub fn host(&self) -> &str {
        self.url.split('/').nth(2).unwrap()
    }

    /// The logged lines that have these fields.
    pub fn logged(&self, field: &str, value: &str) -> Vec<Value> {
        let is = |line: &&Value| line.pointer(field).is_some_and(|found| found.as_str() == Some(value));
        self.log.lock().unwrap().iter().filter(is).cloned().collect()
    }

    /// Whether a logged line is like this.
    pub fn any(&self, is: impl Fn(&Value) -> bool) -> bool {
        self.log.lock().unwrap().iter().any(is)
    }

    /// Ends it and its HTTP connections, in the middle of whatever it says.
    pub fn kill(&self) {
        self.task.abort();
    }

    /// What the client has said with this `type`.
    pub fn heard(&self, kind: &str) -> Vec<Value> {
        self.logged("/message/type", kind).into_iter().map(|mut line| line["message"].take()).collect()
    }
}

impl Drop for Vendor {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log.lock().unwrap();
            let shown: Vec<String> = log.iter().map(ToString::to_string).collect();
            eprintln!("--- log of the emulator\n{}", shown.join("\n"));
        }
        self.task.abort();
    }
}
