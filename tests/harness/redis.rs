//! Real Redis servers on free ports: one, some with sentinels, a cluster.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::timeout;

use super::{PATIENCE, folder};

/// One server process; it is killed when dropped.
pub struct RedisServer {
    child: Child,
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    folder: PathBuf,
    arguments: Vec<String>,
}

fn free_port() -> u16 {
    // A cluster's bus listens 10,000 above.
    loop {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if port < 50_000 && std::net::TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok() {
            return port;
        }
    }
}

impl RedisServer {
    /// Starts one and waits until it answers.
    pub async fn start(arguments: &[&str]) -> RedisServer {
        let folder = folder();
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        for _ in 0..10 {
            let port = free_port();
            let child = spawn(port, &folder, &arguments);
            let mut server = RedisServer { child, port, folder: folder.clone(), arguments: arguments.clone() };
            if server.answers().await {
                return server;
            }
        }
        panic!("no redis-server starts; `make setup` installs it");
    }

    /// Whether it has begun to answer, whatever it says; `false` if it has ended.
    async fn answers(&mut self) -> bool {
        let answering = async {
            loop {
                if self.child.try_wait().unwrap().is_some() {
                    return false;
                }
                if tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                    return true;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, answering).await.expect("redis-server does not answer")
    }

    /// For a configuration.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Sends a signal, like `STOP`.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Ends it like the kernel does when memory is short.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again, empty, where it was.
    pub async fn restart(&mut self) {
        self.child = spawn(self.port, &self.folder, &self.arguments);
        assert!(self.answers().await, "redis-server does not start again");
    }

    /// Says something with `redis-cli`; what it answers.
    pub fn say(&self, words: &[&str]) -> String {
        let output = Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(words).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

fn spawn(port: u16, folder: &std::path::Path, arguments: &[String]) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(folder.join("log")).unwrap();
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .args(["--dir", folder.to_str().unwrap()])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server; `make setup` installs it")
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A primary, a replica and three sentinels.
pub struct Sentinels {
    /// The primary is the first at the start.
    pub servers: Vec<RedisServer>,
    sentinels: Vec<RedisServer>,
}

impl Sentinels {
    /// Starts them; the service is called `antiphon`.
    pub async fn start() -> Sentinels {
        let primary = RedisServer::start(&[]).await;
        let replica = RedisServer::start(&["--replicaof", &format!("127.0.0.1 {}", primary.port)]).await;
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            let folder = folder();
            let file = folder.join("sentinel.conf");
            let text = format!(
                "sentinel monitor antiphon 127.0.0.1 {} 2\nsentinel down-after-milliseconds antiphon 500\n\
                 sentinel failover-timeout antiphon 3000\n",
                primary.port
            );
            std::fs::write(&file, text).unwrap();
            sentinels.push(RedisServer::start_from(&file).await);
        }
        let all = Sentinels { servers: vec![primary, replica], sentinels };
        all.complete(1).await;
        all
    }

    /// Starts a server again that was killed, as a replica of the other.
    pub async fn rejoin(&mut self, dead: usize, primary: usize) {
        let port = self.servers[primary].port.to_string();
        self.servers[dead].restart().await;
        self.servers[dead].say(&["replicaof", "127.0.0.1", &port]);
        self.complete(dead).await;
    }

    /// A failover needs a replica that all have seen, and each other.
    async fn complete(&self, replica: usize) {
        let complete = |sentinel: &RedisServer| {
            let said = sentinel.say(&["sentinel", "master", "antiphon"]);
            let words: Vec<&str> = said.lines().collect();
            let is = |name: &str, value: &str| words.windows(2).any(|two| two == [name, value]);
            let port = self.servers[1 - replica].port.to_string();
            let up = is("port", &port) && is("flags", "master") && is("num-slaves", "1");
            let seen = sentinel.say(&["sentinel", "replicas", "antiphon"]);
            let words: Vec<&str> = seen.lines().collect();
            let replica_is_up = words.windows(2).any(|two| two == ["flags", "slave"]);
            up && is("num-other-sentinels", "2") && replica_is_up
        };
        let seen = async {
            loop {
                let linked = self.servers[replica].say(&["info", "replication"]).contains("master_link_status:up");
                if linked && self.sentinels.iter().all(complete) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(PATIENCE, seen).await.expect("the sentinels do not see each other");
    }

    /// Of the sentinels.
    pub fn urls(&self) -> Vec<String> {
        self.sentinels.iter().map(RedisServer::url).collect()
    }
}

impl RedisServer {
    /// As a sentinel.
    async fn start_from(file: &std::path::Path) -> RedisServer {
        let folder = file.parent().unwrap().to_owned();
        let port = free_port();
        let child = Command::new("redis-server")
            .arg(file)
            .args(["--sentinel", "--port", &port.to_string(), "--bind", "127.0.0.1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server; `make setup` installs it");
        let mut sentinel = RedisServer { child, port, folder, arguments: Vec::new() };
        assert!(sentinel.answers().await, "a sentinel does not start");
        sentinel
    }
}

/// Three servers as one.
pub struct RedisCluster {
    /// All of them are primaries.
    pub servers: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts them and waits until they agree.
    pub async fn start() -> RedisCluster {
        let mut servers = Vec::new();
        for _ in 0..3 {
            servers.push(RedisServer::start(&["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"]).await);
        }
        let mut create = Command::new("redis-cli");
        create.args(["--cluster", "create"]);
        create.args(servers.iter().map(|server| format!("127.0.0.1:{}", server.port)));
        let created = create.args(["--cluster-yes"]).output().unwrap();
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stdout));
        let agreed = async {
            while !servers.iter().all(|server| server.say(&["cluster", "info"]).contains("cluster_state:ok")) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, agreed).await.expect("the cluster does not come together");
        RedisCluster { servers }
    }

    /// Of all of them.
    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(RedisServer::url).collect()
    }
}

/// A way to a server that can be cut, so that nothing comes through in either direction and nobody is told, or slow.
pub struct Cut {
    port: u16,
    state: tokio::sync::watch::Sender<Way>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Clone, Copy)]
struct Way {
    open: bool,
    /// Before each read is handed on.
    delay: Duration,
}

impl Cut {
    /// In front of a port of this machine.
    pub async fn before(port: u16) -> Cut {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let (state, way) = tokio::sync::watch::channel(Way { open: true, delay: Duration::ZERO });
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let way = way.clone();
                connections.spawn(async move {
                    let Ok(far) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await else { return };
                    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                    tokio::join!(carry(near_in, far_out, way.clone()), carry(far_in, near_out, way));
                });
            }
        });
        Cut { port: own, state, task }
    }

    /// For a configuration.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// From now on nothing comes through.
    pub fn cut(&self) {
        self.state.send_modify(|way| way.open = false);
    }

    /// From now on everything does; what was held back comes first.
    pub fn mend(&self) {
        self.state.send_modify(|way| way.open = true);
    }

    /// From now on everything takes so much longer, in each direction.
    pub fn slow(&self, delay: Duration) {
        self.state.send_modify(|way| way.delay = delay);
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut way: tokio::sync::watch::Receiver<Way>,
) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut buffer = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let delay = way.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if way.wait_for(|way| way.open).await.is_err() || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
