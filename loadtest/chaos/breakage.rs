//! Breaks Redis and mends it, in a thread of its own, and sees when the daemon is well again. Redis has the priority of the
//! swarm: a machine that others load must not make it slow.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Breakage;
use crate::measure::get;
use crate::servers::PATIENCE;
use crate::servers::redis::{Cut, RedisServer, Sentinels};

/// How often it is looked whether the daemon is well.
const LOOK: Duration = Duration::from_millis(20);

/// What is to be done next.
#[derive(Debug)]
enum Order {
    Attend(SocketAddr),
    Make,
    Mend,
}

/// How long the daemon took to be well after each mending.
#[derive(Debug, Default)]
pub struct Mended {
    /// In order.
    pub took: Vec<Duration>,
}

/// Breaks and mends as it is told.
#[derive(Debug)]
pub struct Breaker {
    breakage: Breakage,
    redis: String,
    orders: Sender<Order>,
    /// Orders that are not carried out.
    open: Arc<AtomicUsize>,
    thread: JoinHandle<Result<Mended, String>>,
}

impl Breaker {
    /// Starts the servers that this needs.
    ///
    /// # Errors
    /// If they do not start.
    pub fn start(breakage: Breakage) -> Result<Breaker, String> {
        let ((orders, ordered), (told, redis)) = (channel(), channel());
        let open = Arc::new(AtomicUsize::new(0));
        let done = open.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
            let runtime = runtime.map_err(|error| error.to_string())?;
            let mut servers = runtime.block_on(Servers::start(breakage));
            told.send(servers.configuration()).map_err(|error| error.to_string())?;
            carry_out(&runtime, &mut servers, &ordered, &done)
        });
        let redis = redis.recv_timeout(2 * PATIENCE).map_err(|_| "Redis does not start".to_owned())?;
        Ok(Breaker { breakage, redis, orders, open, thread })
    }

    /// What it does.
    pub fn breakage(&self) -> Breakage {
        self.breakage
    }

    /// `[redis]` of the daemon.
    pub fn redis(&self) -> &str {
        &self.redis
    }

    /// Looks at this daemon from now on.
    pub fn attend(&self, control: SocketAddr) {
        self.order(Order::Attend(control));
    }

    /// Breaks it.
    pub fn make(&self) {
        self.order(Order::Make);
    }

    /// Mends it.
    pub fn mend(&self) {
        self.order(Order::Mend);
    }

    /// Whether something is not done yet.
    pub fn is_busy(&self) -> bool {
        self.open.load(Relaxed) > 0
    }

    /// Waits until the daemon says that Redis can be used.
    ///
    /// # Errors
    /// If it never does.
    pub fn await_well(&self) -> Result<(), String> {
        let begun = Instant::now();
        while self.is_busy() {
            if begun.elapsed() > PATIENCE || self.thread.is_finished() {
                return Err("the daemon never gets well".into());
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// How quick the daemon was.
    ///
    /// # Errors
    /// If it was never well again.
    pub fn end(self) -> Result<Mended, String> {
        drop(self.orders);
        self.thread.join().map_err(|_| "a server does not do what it should".to_owned())?
    }

    fn order(&self, order: Order) {
        self.open.fetch_add(1, Relaxed);
        let _ = self.orders.send(order);
    }
}

fn carry_out(
    runtime: &tokio::runtime::Runtime,
    servers: &mut Servers,
    ordered: &Receiver<Order>,
    open: &AtomicUsize,
) -> Result<Mended, String> {
    let (mut mended, mut daemon) = (Mended::default(), None);
    while let Ok(order) = ordered.recv() {
        match order {
            Order::Attend(control) => {
                daemon = Some(control);
                await_well(control)?;
            }
            Order::Make | Order::Mend => {
                let back = match order {
                    Order::Make => runtime.block_on(servers.break_down()),
                    _ => runtime.block_on(servers.mend()),
                };
                if let Some(back) = back {
                    await_well(daemon.ok_or("no daemon")?)?;
                    mended.took.push(back.elapsed());
                }
            }
        }
        open.fetch_sub(1, Relaxed);
    }
    Ok(mended)
}

/// Waits until the daemon says that Redis can be used.
fn await_well(control: SocketAddr) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        if get(control, "/readyz?verbose").is_ok_and(|body| body.contains("[+]redis ok")) {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            return Err("the daemon does not get well".into());
        }
        std::thread::sleep(LOOK);
    }
}

/// The servers, and what is done with them.
enum Servers {
    One { breakage: Breakage, server: RedisServer, cut: Cut },
    Sentinels { sentinels: Sentinels, primary: usize },
}

impl Servers {
    async fn start(breakage: Breakage) -> Servers {
        if breakage == Breakage::Failover {
            return Servers::Sentinels { sentinels: Sentinels::start().await, primary: 0 };
        }
        let server = RedisServer::start(&[]).await;
        let cut = Cut::before(server.port).await;
        Servers::One { breakage, server, cut }
    }

    fn configuration(&self) -> String {
        match self {
            Servers::One { cut, .. } => format!("[redis]\nurl = \"{}\"\n", cut.url()),
            Servers::Sentinels { sentinels, .. } => {
                format!("[redis]\nmode = \"sentinel\"\nservice = \"antiphon\"\nurl = {:?}\n", sentinels.urls())
            }
        }
    }

    /// When Redis could be used again, if it mends itself.
    async fn break_down(&mut self) -> Option<Instant> {
        match self {
            Servers::One { breakage: Breakage::Frozen, server, .. } => server.signal("STOP"),
            Servers::One { breakage: Breakage::Killed, server, .. } => server.kill(),
            Servers::One { breakage: Breakage::Cut, cut, .. } => cut.cut(),
            Servers::One { .. } => {}
            Servers::Sentinels { sentinels, primary } => {
                sentinels.servers[*primary].kill();
                *primary = 1 - *primary;
                while !sentinels.servers[*primary].say(&["role"]).starts_with("master") {
                    tokio::time::sleep(LOOK).await;
                }
                return Some(Instant::now());
            }
        }
        None
    }

    /// When Redis could be used again.
    async fn mend(&mut self) -> Option<Instant> {
        match self {
            Servers::One { breakage: Breakage::Frozen, server, .. } => server.signal("CONT"),
            Servers::One { breakage: Breakage::Killed, server, .. } => server.restart().await,
            Servers::One { breakage: Breakage::Cut, cut, .. } => cut.mend(),
            Servers::One { .. } => {}
            Servers::Sentinels { sentinels, primary } => {
                sentinels.rejoin(1 - *primary, *primary).await;
                return None;
            }
        }
        Some(Instant::now())
    }
}
