//! The processes under test: the daemon, the proxies of the floor, and a daemon that counts its allocations.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use antiphon::media::format::Format;
use antiphon::runtime::certificate::CertificateHash;
use rustix::process::{Pid, Signal, kill_process};

use crate::machine::{Cores, pin};
use crate::material::AGENT;
use crate::measure::{Exposition, get};
use crate::taps::{self, BadTaps};

/// A process that is not ready or does not end in this time is broken.
const PATIENCE: Duration = Duration::from_secs(10);

/// How the daemon under test runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mode {
    /// As this program's own build of it, which counts allocations.
    pub counting: bool,
    /// With its steps against overload. Without them every frame costs the same work, however busy others keep the
    /// machine: encoders keep their complexity, taps are served.
    pub overload: bool,
    /// Its agents hear and speak Opus; else PCM16 at 24 kHz.
    pub opus: bool,
}

/// A running child on the core of the daemon. It is ended when dropped.
#[derive(Debug)]
pub struct Child {
    process: std::process::Child,
    /// Where it takes callers.
    pub address: SocketAddr,
    /// Where it answers `/metrics`.
    pub control: Option<SocketAddr>,
    /// Where it takes QUIC, and the hash of its certificate.
    quic: Option<(SocketAddr, CertificateHash)>,
    counter: (Option<ChildStdin>, BufReader<ChildStdout>),
    folder: Option<PathBuf>,
}

impl Child {
    /// A proxy that hands frames on, with or without libopus in between.
    ///
    /// # Errors
    /// If it does not start.
    pub fn proxy(cores: Cores, agents: SocketAddr, codec: bool) -> Result<Child, String> {
        let mut command = own_program()?;
        command.arg("proxy").arg(agents.to_string());
        if codec {
            command.arg("--codec");
        }
        Child::floor(cores, command)
    }

    /// A bare str0m loop that gives audio back, or hands it to these agents, with or without libopus in between.
    ///
    /// # Errors
    /// If it does not start.
    pub fn bare(cores: Cores, agents: Option<SocketAddr>, codec: bool) -> Result<Child, String> {
        let mut command = own_program()?;
        command.arg("bare").args(agents.map(|agents| agents.to_string())).args(codec.then_some("--codec"));
        Child::floor(cores, command)
    }

    fn floor(cores: Cores, command: Command) -> Result<Child, String> {
        let mut process = start(cores, command)?;
        let (stdin, mut stdout) = pipes(&mut process)?;
        let address = answer(&mut stdout, "listening")?.parse().map_err(|error| format!("proxy: {error}"))?;
        Ok(Child { process, address, control: None, quic: None, counter: (stdin, stdout), folder: None })
    }

    /// The daemon with one worker, whose only agent is the swarm.
    ///
    /// # Errors
    /// If it does not start.
    pub fn daemon(cores: Cores, agents: SocketAddr, mode: Mode) -> Result<Child, String> {
        Child::daemon_with(cores, &configuration(agents, mode, ""), mode)
    }

    /// As [`Child::daemon`], with more keys of its routes, and tables behind them.
    ///
    /// # Errors
    /// If it does not start.
    pub fn daemon_under(cores: Cores, agents: SocketAddr, more: (&str, &str), mode: Mode) -> Result<Child, String> {
        Child::daemon_with(cores, &(configuration(agents, mode, more.0) + more.1), mode)
    }

    /// The daemon with taps for every caller who asks for `tapped`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn tapped_daemon(cores: Cores, agents: SocketAddr, taps: &BadTaps) -> Result<Child, String> {
        let mode = Mode::default();
        Child::daemon_with(cores, &(taps::configuration(taps) + &configuration(agents, mode, "")), mode)
    }

    fn daemon_with(cores: Cores, configuration: &str, mode: Mode) -> Result<Child, String> {
        let folder = std::env::temp_dir().join(format!("antiphon-loadtest-{}", std::process::id()));
        let fail = |error: std::io::Error| format!("{}: {error}", folder.display());
        std::fs::create_dir_all(&folder).map_err(fail)?;
        let (config, ready) = (folder.join("antiphon.toml"), folder.join("ready.json"));
        let _ = std::fs::remove_file(&ready);
        std::fs::write(&config, format!("{configuration}[overload]\nenabled = {}\n", mode.overload)).map_err(fail)?;
        let mut command = if mode.counting { own_program()? } else { Command::new(daemon_program()?) };
        command.arg("run").arg("--config").arg(&config).arg("--ready-file").arg(&ready);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ANTIPHON_") || name == "NOTIFY_SOCKET") {
            command.env_remove(name);
        }
        let mut process = start(cores, command)?;
        let (http, control) = match await_ready(&mut process, &ready) {
            Ok(addresses) => addresses,
            Err(error) => {
                let _ = process.kill();
                return Err(error);
            }
        };
        let counter = pipes(&mut process)?;
        Ok(Child { process, address: http, control: Some(control), quic: None, counter, folder: Some(folder) })
    }

    /// Two bare QUIC legs to the agents, which show a certificate with a hash.
    ///
    /// # Errors
    /// If it does not start.
    pub fn quic_proxy(cores: Cores, agents: (SocketAddr, CertificateHash), _: &str) -> Result<Child, String> {
        let mut command = own_program()?;
        command.arg("quic-proxy").arg(agents.0.to_string()).arg(agents.1.to_string());
        let mut process = start(cores, command)?;
        let (stdin, mut stdout) = pipes(&mut process)?;
        let pin = answer(&mut stdout, "pinned")?.parse()?;
        let address = answer(&mut stdout, "listening")?.parse().map_err(|error| format!("proxy: {error}"))?;
        let quic = Some((address, pin));
        Ok(Child { process, address, control: None, quic, counter: (stdin, stdout), folder: None })
    }

    /// The daemon with one worker, whose only agent is the swarm, by QUIC.
    ///
    /// # Errors
    /// If it does not start.
    pub fn quic_daemon(cores: Cores, agents: (SocketAddr, CertificateHash), pem: &str) -> Result<Child, String> {
        let authority = std::env::temp_dir().join(format!("antiphon-loadtest-{}.pem", std::process::id()));
        std::fs::write(&authority, pem).map_err(|error| format!("{}: {error}", authority.display()))?;
        let configuration = quic_configuration(agents.0, &authority);
        let mut child = Child::daemon_with(cores, &configuration, Mode::default())?;
        let told = get(child.address, "/v1/endpoints").map_err(|error| format!("/v1/endpoints: {error}"))?;
        let told: serde_json::Value = serde_json::from_str(&told).map_err(|error| error.to_string())?;
        let text = |key: &str| told["quic"][key].as_str().unwrap_or_default().to_owned();
        let address = text("addr").parse().map_err(|error| format!("quic.addr: {error}"))?;
        child.quic = Some((address, text("cert_sha256").parse()?));
        let _ = std::fs::remove_file(authority);
        Ok(child)
    }

    /// Where it takes QUIC.
    ///
    /// # Errors
    /// If it does not.
    pub fn quic(&self) -> Result<SocketAddr, String> {
        self.quic.map(|(address, _)| address).ok_or_else(|| "it takes no QUIC".to_owned())
    }

    /// The hash of its certificate.
    ///
    /// # Errors
    /// If it takes no QUIC.
    pub fn pin(&self) -> Result<CertificateHash, String> {
        self.quic.map(|(_, pin)| pin).ok_or_else(|| "it takes no QUIC".to_owned())
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// What it has counted so far.
    ///
    /// # Errors
    /// If it counts nothing, or is gone.
    pub fn count(&mut self) -> Result<u64, String> {
        let (stdin, stdout) = &mut self.counter;
        let stdin = stdin.as_mut().ok_or("it is ending")?;
        stdin.write_all(b"\n").and_then(|()| stdin.flush()).map_err(|error| error.to_string())?;
        answer(stdout, "counter")?.parse().map_err(|_| "no number".to_owned())
    }

    /// Holds its control runtime up; only a daemon of this program's own build knows how.
    ///
    /// # Errors
    /// If it is gone.
    pub fn block(&mut self, length: Duration) -> Result<(), String> {
        let stdin = self.counter.0.as_mut().ok_or("it is ending")?;
        writeln!(stdin, "block {}", length.as_millis()).and_then(|()| stdin.flush()).map_err(|error| error.to_string())
    }

    /// Its metrics.
    ///
    /// # Errors
    /// If it has none or does not answer.
    pub fn metrics(&self) -> Result<Exposition, String> {
        let control = self.control.ok_or("a proxy has no metrics")?;
        Exposition::fetch(control).map_err(|error| format!("/metrics: {error}"))
    }

    fn has_ended(&mut self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.counter.0 = None;
        if let Some(id) = Pid::from_raw(self.process.id() as i32) {
            // The second signal ends it at once.
            for _ in 0..2 {
                let _ = kill_process(id, Signal::TERM);
                if self.has_ended(Duration::from_secs(1)) {
                    break;
                }
            }
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(folder) = &self.folder {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

fn configuration(agents: SocketAddr, mode: Mode, of_routes: &str) -> String {
    let audio = if mode.opus { Format::OPUS } else { AGENT };
    format!(
        r#"[listen]
http = "127.0.0.1:0"
control = "127.0.0.1:0"
webrtc = "127.0.0.1:0"
quic = "off"
[runtime]
workers = 1
[log]
level = "warn"
[agent.swarm]
kind = "websocket"
url = "ws://{agents}/"
audio_in = "{audio}"
audio_out = "{audio}"
[agent.echo]
delay_ms = 0
[[route]]
name = "echo"
match.agent = "echo"
to = "echo"
{of_routes}
[[route]]
name = "load"
to = "swarm"
{of_routes}
"#
    )
}

fn quic_configuration(agents: SocketAddr, authority: &Path) -> String {
    format!(
        r#"[listen]
http = "127.0.0.1:0"
control = "127.0.0.1:0"
webrtc = "off"
quic = "127.0.0.1:0"
[runtime]
workers = 1
[log]
level = "warn"
[agent.swarm]
kind = "quic"
url = "quic://{agents}"
ca_file = "{}"
[[route]]
name = "load"
to = "swarm"
"#,
        authority.display()
    )
}

fn own_program() -> Result<Command, String> {
    std::env::current_exe().map(Command::new).map_err(|error| format!("where this program is: {error}"))
}

/// The daemon beside this program, as cargo puts it.
fn daemon_program() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| format!("where this program is: {error}"))?;
    let path = own.with_file_name("antiphon");
    if path.is_file() {
        return Ok(path);
    }
    Err(format!("{} is missing; `make loadtest` builds it, or: cargo build --release --bin antiphon", path.display()))
}

/// Starts a process on the daemon's core, with the priority of this thread.
fn start(cores: Cores, mut command: Command) -> Result<std::process::Child, String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let _ = pin(cores.daemon);
    let started = command.spawn().map_err(|error| format!("{}: {error}", command.get_program().display()));
    let _ = pin(cores.generator);
    started
}

fn pipes(process: &mut std::process::Child) -> Result<(Option<ChildStdin>, BufReader<ChildStdout>), String> {
    let stdout = process.stdout.take().ok_or("no standard output")?;
    Ok((process.stdin.take(), BufReader::new(stdout)))
}

/// The next line that begins with `word`, without it.
fn answer(stdout: &mut BufReader<ChildStdout>, word: &str) -> Result<String, String> {
    let mut line = String::new();
    loop {
        line.clear();
        match stdout.read_line(&mut line) {
            Ok(0) => return Err("it has ended; why is above".into()),
            Err(error) => return Err(error.to_string()),
            Ok(_) => {}
        }
        if let Some(rest) = line.strip_prefix(word) {
            return Ok(rest.trim().to_owned());
        }
    }
}

fn await_ready(process: &mut std::process::Child, file: &Path) -> Result<(SocketAddr, SocketAddr), String> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Ok(Some(status)) = process.try_wait() {
            return Err(format!("the daemon has ended with {status}; why is above"));
        }
        let bound = std::fs::read(file).ok().and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok());
        let address = |key: &str| bound.as_ref()?[key].as_str()?.parse().ok();
        if let (Some(http), Some(control)) = (address("http"), address("control")) {
            return Ok((http, control));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err("the daemon is not ready after ten seconds".into())
}

/// In a child: tells where it listens.
pub fn listening(address: SocketAddr) {
    println!("listening {address}");
}

/// In a child: tells the hash of its certificate.
pub fn pinned_by(hash: CertificateHash) {
    println!("pinned {hash}");
}

/// In a child: answers each line on standard input with what is counted, and ends the process when it ends.
pub fn serve_counter(count: impl Fn() -> u64 + Send + 'static) {
    serve_counter_and_blocks(count, |_| {});
}

/// As [`serve_counter`]; a line `block N` has `block` hold something up for N milliseconds.
pub fn serve_counter_and_blocks(count: impl Fn() -> u64 + Send + 'static, block: impl Fn(Duration) + Send + 'static) {
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            match line.strip_prefix("block ").and_then(|ms| ms.parse().ok()) {
                Some(ms) => block(Duration::from_millis(ms)),
                None => println!("counter {}", count()),
            }
        }
        std::process::exit(0);
    });
}
