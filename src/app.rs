//! The composition root: builds everything, owns the task tree, and decides when the process ends.
//!
//! The main thread is the control runtime: it accepts connections, serves health and metrics, and handles signals.
//! Every other task hangs on it or on a worker; the end of any of its own tasks ends the process with an error.

use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::cli::run::{RunArgs, banner};
use crate::config::settings::Settings;
use crate::config::{ConfigErrors, restart_keys};
use crate::ingress::quic;
use crate::ingress::webrtc::{self, Prepared, WebrtcError};
use crate::runtime::admission::keyring::Keyrings;
use crate::runtime::clock::Clock;
use crate::runtime::drain;
use crate::runtime::node::{Bound, InForce, Node};
use crate::runtime::pacemaker::{keep_up, notify, probe_workers};
use crate::runtime::sockets::{Inherited, ListenError};
use crate::runtime::tls::TlsError;
use crate::runtime::worker::Workers;
use crate::telemetry::logs::{self, LogError, Logs};
use crate::telemetry::{CallRecordSink, Telemetry};
use crate::upstream::exchange::Exchanges;
use crate::{control, ingress};

/// How long workers may take to end after they were told to.
const WORKERS_DEADLINE: Duration = Duration::from_secs(4);
/// How long records and log lines may take to be written at the end.
const FLUSH_DEADLINE: Duration = Duration::from_secs(1);
/// How long goodbyes may take when a second signal has come.
const HALT_DEADLINE: Duration = Duration::from_millis(500);

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("{0}")]
    Config(#[from] ConfigErrors),
    #[error("error: {0}")]
    Listen(#[from] ListenError),
    #[error("error: {0}")]
    Webrtc(#[from] WebrtcError),
    #[error("error: {0}")]
    Tls(#[from] TlsError),
    #[error("error: {0}")]
    Log(#[from] LogError),
    #[error("error: {0}")]
    Io(#[from] io::Error),
    #[error("error: --ready-file {}: {source}", path.display())]
    ReadyFile { path: PathBuf, source: io::Error },
    #[error("error: {0} has ended, and with it the process")]
    Ended(String),
}

/// Runs the daemon until it is told to end.
pub fn run(args: &RunArgs) -> ExitCode {
    run_beside(args, std::future::pending())
}

/// As [`run`]; `beside` shares the control runtime with the daemon, so that a test can hold that up.
pub fn run_beside(args: &RunArgs, beside: impl Future<Output = Infallible>) -> ExitCode {
    match try_run(args, beside) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(if matches!(error, RunError::Config(_)) { 2 } else { 1 })
        }
    }
}

/// The listeners of UDP that are on: WebRTC and QUIC.
type Datagrams = (Option<Prepared>, Option<quic::Prepared>);

/// What lives as long as the process.
struct App<'a> {
    args: &'a RunArgs,
    begun: Instant,
    node: Arc<Node>,
    workers: Workers,
    logs: Arc<Logs>,
}

fn try_run(args: &RunArgs, beside: impl Future<Output = Infallible>) -> Result<(), RunError> {
    let (begun, clock) = (Instant::now(), Clock::start());
    let settings = Settings::load(&args.config.config)?;
    let telemetry = Telemetry::new();
    let format = args.log_format.unwrap_or(settings.log.format);
    let logs = Arc::new(logs::init(format, &settings.log.level, &telemetry)?);
    log_panics();
    let inherited = Inherited::from_env();
    let http = inherited.listen("http", settings.listen.http)?;
    let control = inherited.listen("control", settings.listen.control)?;
    let count = match settings.runtime.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count,
    };
    let prepared = webrtc::prepare(&settings, count)?;
    let quic = quic::prepare(&settings, count)?;
    let bound = Bound {
        http: http.local_addr()?,
        control: control.local_addr()?,
        webrtc: prepared.as_ref().map(Prepared::bound),
        quic: quic.as_ref().map(quic::Prepared::bound),
    };
    let workers = Workers::start(count, clock)?;
    let records = CallRecordSink::open(settings.log.call_record.as_str().into(), &telemetry)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    telemetry.node().record_config_taken(&hash(&settings), SystemTime::now());
    let exchanges = Exchanges::on(runtime.handle().clone());
    let keyrings = Keyrings::new(exchanges.clone(), telemetry.clone());
    let in_force = InForce::new(settings, &keyrings)?;
    let workers_of_node = workers.all().to_vec();
    let node = Arc::new(Node::new(clock, in_force, telemetry, workers_of_node, records, exchanges, keyrings)?);
    let app = App { args, begun, node, workers, logs };
    let result = runtime.block_on(async {
        tokio::select! {
            result = app.serve(http, control, (prepared, quic), bound) => result,
            never = beside => match never {},
        }
    });
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

impl App<'_> {
    async fn serve(
        mut self,
        http: TcpListener,
        control: TcpListener,
        datagrams: Datagrams,
        bound: Bound,
    ) -> Result<(), RunError> {
        let mut signals = Signals::new()?;
        let mut tasks = self.start(http, control, datagrams)?;
        self.announce(bound)?;
        let result = self.until_end(&mut signals, &mut tasks).await;
        self.stop(&mut tasks).await;
        result
    }

    /// Starts the tasks without which the daemon is none; each resolves to its name and why it ended.
    fn start(
        &mut self,
        http: TcpListener,
        control: TcpListener,
        (webrtc, quic): Datagrams,
    ) -> io::Result<JoinSet<String>> {
        let mut tasks = JoinSet::new();
        let why = |name: &str, result: io::Result<()>| match result {
            Ok(()) => name.to_owned(),
            Err(error) => format!("{name} ({error})"),
        };
        let webrtc = webrtc.map(|prepared| prepared.start(&self.node)).transpose()?;
        quic.map(|prepared| prepared.start(&self.node)).transpose()?;
        let webrtc = webrtc.map(|(webrtc, accepting)| {
            for accept in accepting {
                tasks.spawn(async move { why("the WebRTC listener", accept.await) });
            }
            webrtc
        });
        if let Some(webrtc) = webrtc.clone() {
            let node = self.node.clone();
            tasks.spawn(async move {
                webrtc.sweep(node).await;
                "the sweeper of WebRTC answers".to_owned()
            });
        }
        let node = self.node.clone();
        tasks.spawn(async move { why("the HTTP listener", ingress::accept::accept(node, webrtc, http).await) });
        let node = self.node.clone();
        tasks.spawn(async move { why("the control listener", control::serve(node, control).await) });
        let node = self.node.clone();
        tasks.spawn(async move {
            probe_workers(node).await;
            "the prober of workers".to_owned()
        });
        let node = self.node.clone();
        tasks.spawn(async move {
            node.certificates.keep_valid(node.clock, node.stopping.clone()).await;
            "the renewal of certificates".to_owned()
        });
        if let Some(keeper) = self.node.take_keeper() {
            let stopping = self.node.stopping.clone();
            tasks.spawn(async move {
                keeper.run(stopping).await;
                "the keeper of the cluster".to_owned()
            });
        }
        let (node, logs) = (self.node.clone(), self.logs.clone());
        tasks.spawn(async move {
            keep_up(node, move || logs.upkeep()).await;
            "the upkeep of metrics".to_owned()
        });
        for (index, end) in self.workers.take_ends().into_iter().enumerate() {
            tasks.spawn(watch(index, end));
        }
        Ok(tasks)
    }

    fn announce(&self, bound: Bound) -> Result<(), RunError> {
        let node = &self.node;
        let _ = node.bound.set(bound);
        let in_force = node.in_force.load();
        for inert in &in_force.settings.inert {
            tracing::warn!(place = inert.place, "`{}` is set, but this build does not act on it", inert.key);
        }
        if in_force.settings.listen.quic.is_some() {
            node.certificates.announce();
        }
        tracing::info!(http = %bound.http, control = %bound.control, workers = node.workers.len(), "listening");
        if let Some(path) = &self.args.ready_file {
            write_ready_file(path, &bound).map_err(|source| RunError::ReadyFile { path: path.clone(), source })?;
        }
        println!("{}", banner(&in_force.settings, &bound, self.begun.elapsed()));
        notify(&[NotifyState::Ready, NotifyState::Status("0 calls")]);
        Ok(())
    }

    async fn until_end(&self, signals: &mut Signals, tasks: &mut JoinSet<String>) -> Result<(), RunError> {
        let drained = async {
            let runtime = self.node.in_force.load().settings.runtime.clone();
            drain::drain(&self.node, runtime.drain, runtime.drain_spread, rand::random()).await;
        };
        let mut drained = std::pin::pin!(drained);
        loop {
            tokio::select! {
                Some(ended) = tasks.join_next() => {
                    let name = ended.unwrap_or_else(|error| error.to_string());
                    tracing::error!("{name} has ended");
                    return Err(RunError::Ended(name));
                }
                wanted = signals.next() => match wanted {
                    Wanted::Reload => self.reload(),
                    Wanted::End if self.node.begin_draining() => {
                        notify(&[NotifyState::Stopping]);
                        tracing::info!(sessions = self.node.registry.len(), "draining");
                    }
                    Wanted::End => {
                        tracing::warn!(sessions = self.node.registry.len(), "second signal: ending at once");
                        self.node.halt.store(true, Relaxed);
                        let _ = tokio::time::timeout(HALT_DEADLINE, drain::end(&self.node)).await;
                        return Ok(());
                    }
                },
                () = &mut drained, if self.node.is_draining() => {
                    tracing::info!("drained");
                    return Ok(());
                }
            }
        }
    }

    /// Takes over a changed configuration for new sessions, or keeps the old one and says why.
    fn reload(&self) {
        if let Ok(time) = NotifyState::monotonic_usec_now() {
            notify(&[NotifyState::Reloading, time]);
        }
        let loaded = Settings::load(&self.args.config.config).map_err(RunError::from).and_then(|settings| {
            let (hash, before) = (hash(&settings), self.node.in_force.load());
            Ok((hash, InForce::after(settings, &self.node.keyrings, Some(&before))?))
        });
        match loaded {
            Ok((hash, new)) => {
                for key in restart_keys(&self.node.in_force.load().settings, &new.settings) {
                    tracing::warn!("`{key}` has changed; it takes effect at the next start");
                }
                self.node.take_over(new);
                self.node.telemetry.node().record_config_taken(&hash, SystemTime::now());
                tracing::info!(hash, "the configuration was reloaded");
            }
            Err(error) => {
                self.node.telemetry.node().record_config_refused();
                tracing::error!("the configuration was not reloaded, the old one stays in force:\n{error}");
            }
        }
        notify(&[NotifyState::Ready]);
    }

    /// Ends everything that still runs, in order.
    async fn stop(&mut self, tasks: &mut JoinSet<String>) {
        self.node.stopping.cancel();
        self.workers.stop().cancel();
        // Whoever is left of the tasks and is no worker runs until it is dropped.
        let workers = async {
            let mut left = self.node.workers.len();
            while left > 0 && tasks.join_next().await.is_some() {
                left -= 1;
            }
        };
        let _ = tokio::time::timeout(WORKERS_DEADLINE, workers).await;
        tasks.abort_all();
        self.node.records.flush(FLUSH_DEADLINE);
        self.logs.flush(FLUSH_DEADLINE);
    }
}

async fn watch(index: usize, end: oneshot::Receiver<()>) -> String {
    let how = if end.await.is_ok() { "" } else { " by a panic" };
    format!("worker {index}{how}")
}

/// The signals that the daemon understands.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reload: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Wanted {
        tokio::select! {
            _ = self.terminate.recv() => Wanted::End,
            _ = self.interrupt.recv() => Wanted::End,
            _ = self.reload.recv() => Wanted::Reload,
        }
    }
}

/// What a signal means.
enum Wanted {
    End,
    Reload,
}

/// Of the settings as they are shown, which has no secrets.
fn hash(settings: &Settings) -> String {
    let mut hasher = DefaultHasher::new();
    format!("{settings:?}").hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Logs where a panic happened; its message may hold words of a caller and is kept to `debug`.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "panic");
        tracing::debug!("{panic}");
    }));
}

/// Whoever waits for the file never sees half of it.
fn write_ready_file(path: &Path, bound: &Bound) -> io::Result<()> {
    let unfinished = path.with_extension("unfinished");
    std::fs::write(&unfinished, serde_json::to_string(bound)? + "\n")?;
    std::fs::rename(&unfinished, path)
}
