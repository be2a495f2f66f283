//! Key sets that are read from files and URLs, on the control runtime, and kept while their source is down.
//!
//! A set is read every `refresh_s`, and when a token names a key that is not in it, but never more than once a minute:
//! whoever makes up key ids cannot make this node hammer an issuer.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use std::{fmt, io};

use arc_swap::ArcSwapOption;
use secrecy::SecretString;
use tokio::io::AsyncReadExt;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use crate::auth::keys::KeySet;
use crate::config::auth::{KeyPlace, WatchedKeys};
use crate::telemetry::Telemetry;
use crate::upstream::exchange::{Call, Exchanges};

/// Readings of a set that is there are at least so far apart.
const APART: Duration = Duration::from_secs(60);
/// While there is none yet, the first tries are this far apart, then twice as far, up to [`APART`].
const FIRST_APART: Duration = Duration::from_secs(1);
/// How long reading may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// Bytes of a key set at most.
const MAX_BYTES: usize = 512 << 10;

/// One key set.
pub struct Keyring {
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Shared {
    keys: ArcSwapOption<KeySet>,
    wanted: Notify,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("keys", &self.keys()).finish_non_exhaustive()
    }
}

/// How far reading has got.
#[derive(Clone, Copy, Debug)]
struct Progress {
    /// Readings that have ended.
    ended: u64,
    reading: bool,
    /// The next one begins no sooner.
    next: Instant,
}

impl Keyring {
    /// The keys as they were read last; `None` if they never were.
    pub fn keys(&self) -> Option<Arc<KeySet>> {
        self.shared.keys.load_full()
    }

    /// Has the set read again, if that may be done now; `true` once it was, `false` at once if not.
    pub async fn renew(&self) -> bool {
        let mut progress = self.progress.clone();
        let seen = *progress.borrow_and_update();
        if !seen.reading && Instant::now() < seen.next {
            return false;
        }
        self.shared.wanted.notify_one();
        progress.wait_for(|now| now.ended > seen.ended).await.is_ok()
    }
}

/// All key sets of a process.
pub struct Keyrings {
    exchanges: Exchanges,
    telemetry: Telemetry,
    /// Those that a configuration in force needs.
    known: Mutex<HashMap<WatchedKeys, Weak<Keyring>>>,
    own_secret: SecretString,
}

impl fmt::Debug for Keyrings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyrings")
    }
}

impl Keyrings {
    /// Key sets that are read by `exchanges`.
    pub fn new(exchanges: Exchanges, telemetry: Telemetry) -> Keyrings {
        let own_secret = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>()).into();
        Keyrings { exchanges, telemetry, known: Mutex::default(), own_secret }
    }

    /// Signs client tokens where no secret is configured: good on this node, until it ends.
    pub fn own_secret(&self) -> &SecretString {
        &self.own_secret
    }

    /// The set at `source`, which is read as long as somebody holds it. A reload finds the one that it had.
    pub fn keyring(&self, issuer: &Arc<str>, source: &WatchedKeys) -> Arc<Keyring> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, ring| ring.strong_count() > 0);
        if let Some(ring) = known.get(source).and_then(Weak::upgrade) {
            return ring;
        }
        let ring = self.begin(issuer.clone(), source.clone());
        known.insert(source.clone(), Arc::downgrade(&ring));
        ring
    }

    fn begin(&self, issuer: Arc<str>, source: WatchedKeys) -> Arc<Keyring> {
        let (report, progress) = watch::channel(Progress { ended: 0, reading: true, next: Instant::now() });
        let shared = Arc::new(Shared::default());
        let (exchanges, telemetry) = (self.exchanges.clone(), self.telemetry.clone());
        let reader = Reader { shared: shared.clone(), exchanges, telemetry, issuer, source, report, failures: 0 };
        let task = AbortOnDropHandle::new(self.exchanges.runtime().spawn(reader.run()));
        Arc::new(Keyring { shared, progress, _task: task })
    }
}

/// Reads one set, again and again.
struct Reader {
    shared: Arc<Shared>,
    exchanges: Exchanges,
    telemetry: Telemetry,
    issuer: Arc<str>,
    source: WatchedKeys,
    report: watch::Sender<Progress>,
    /// In a row.
    failures: u32,
}

impl Reader {
    async fn run(mut self) {
        loop {
            let begun = Instant::now();
            self.report.send_modify(|progress| progress.reading = true);
            match self.read().await {
                Ok(set) => {
                    self.telemetry.admission().record_key_fetch(&self.issuer, true);
                    self.shared.keys.store(Some(Arc::new(set)));
                    self.failures = 0;
                }
                Err(why) => self.on_failure(&why),
            }
            let next = begun + self.apart();
            self.report.send_modify(|progress| {
                *progress = Progress { ended: progress.ended + 1, reading: false, next };
            });
            let due = if self.failures > 0 { next } else { next.max(begun + self.source.refresh) };
            loop {
                tokio::select! {
                    () = sleep_until(due) => break,
                    () = self.shared.wanted.notified() => if Instant::now() >= next { break },
                }
            }
        }
    }

    fn on_failure(&mut self, why: &str) {
        self.telemetry.admission().record_key_fetch(&self.issuer, false);
        self.failures = self.failures.saturating_add(1);
        let kept = self.shared.keys.load().is_some();
        let kept = if kept { "the keys known before stay in force" } else { "nobody can be let in by it" };
        tracing::warn!(issuer = &*self.issuer, "the key set could not be read, {kept}: {why}");
    }

    /// How far the next reading is away at least.
    fn apart(&self) -> Duration {
        if self.shared.keys.load().is_some() {
            return APART;
        }
        (FIRST_APART * 2_u32.saturating_pow(self.failures.saturating_sub(1).min(10))).min(APART)
    }

    async fn read(&self) -> Result<KeySet, String> {
        let text = match &self.source.place {
            KeyPlace::File(path) => read_file(path).await.map_err(|error| format!("{}: {error}", path.display()))?,
            KeyPlace::Url(url) => {
                let answer = self.exchanges.run(Call::get(url.clone(), DEADLINE, MAX_BYTES)).await;
                let answer = answer.map_err(|error| error.message)?;
                if !answer.status.is_success() {
                    return Err(format!("it was answered by {}", answer.status));
                }
                String::from_utf8(answer.body.to_vec()).map_err(|_| "the answer is no text".to_owned())?
            }
        };
        KeySet::parse(&text, self.source.algorithm).map_err(|error| error.to_string())
    }
}

async fn read_file(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    tokio::fs::File::open(path).await?.take(MAX_BYTES as u64).read_to_string(&mut text).await?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    const SET: &str =
        r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"KID","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    /// A server that answers with whatever `answer` gives, and how often it was asked.
    async fn server(answer: Arc<Mutex<Option<String>>>) -> (url::Url, Arc<AtomicU32>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap()).parse().unwrap();
        let asked = Arc::new(AtomicU32::new(0));
        let count = asked.clone();
        tokio::spawn(async move {
            loop {
                let (mut tcp, _) = listener.accept().await.unwrap();
                count.fetch_add(1, SeqCst);
                let body = answer.lock().unwrap().clone();
                let text = match body {
                    Some(body) => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()),
                    None => "HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n".to_owned(),
                };
                let _ = tcp.write_all(text.as_bytes()).await;
                let _ = tcp.read(&mut [0; 4096]).await;
            }
        });
        (url, asked)
    }

    fn watched(url: url::Url) -> WatchedKeys {
        WatchedKeys { place: KeyPlace::Url(url), algorithm: None, refresh: Duration::from_secs(600) }
    }

    fn keyrings() -> Keyrings {
        Keyrings::new(Exchanges::on(tokio::runtime::Handle::current()), Telemetry::new())
    }

    fn knows(ring: &Keyring, id: &str) -> bool {
        ring.keys().is_some_and(|keys| keys.find(Some(id)).is_some())
    }

    #[tokio::test]
    async fn whoever_makes_up_key_ids_does_not_make_this_node_hammer_the_issuer() {
        let answer = Arc::new(Mutex::new(Some(SET.replace("KID", "one"))));
        let (url, asked) = server(answer.clone()).await;
        let keyrings = keyrings();
        let ring = keyrings.keyring(&"main".into(), &watched(url.clone()));
        assert!(ring.renew().await, "whoever comes first waits for the first reading");
        assert!(knows(&ring, "one"));
        let storm = (0..1000).map(|_| ring.renew());
        assert!(futures_util::future::join_all(storm).await.iter().all(|renewed| !renewed));
        assert_eq!(asked.load(SeqCst), 1);
        let again = keyrings.keyring(&"main".into(), &watched(url));
        assert!(Arc::ptr_eq(&ring, &again), "a reload finds the set that is there");
    }

    #[tokio::test]
    async fn while_the_source_is_down_the_keys_known_before_stay_and_before_that_it_is_tried_again_soon() {
        let answer = Arc::new(Mutex::new(None));
        let (url, asked) = server(answer.clone()).await;
        let ring = keyrings().keyring(&"main".into(), &watched(url));
        assert!(ring.renew().await);
        assert!(ring.keys().is_none());
        *answer.lock().unwrap() = Some(SET.replace("KID", "one"));
        let mut progress = ring.progress.clone();
        progress.wait_for(|_| ring.keys().is_some()).await.unwrap();
        assert!(asked.load(SeqCst) >= 2);
        *answer.lock().unwrap() = None;
        assert!(!ring.renew().await, "not within a minute");
        assert!(knows(&ring, "one"));
    }

    #[tokio::test]
    async fn a_set_is_read_from_a_file_too() {
        let path = std::env::temp_dir().join(format!("antiphon-keys-{}", std::process::id()));
        std::fs::write(&path, SET.replace("KID", "filed")).unwrap();
        let source =
            WatchedKeys { place: KeyPlace::File(path.clone()), algorithm: None, refresh: Duration::from_secs(600) };
        let ring = keyrings().keyring(&"main".into(), &source);
        assert!(ring.renew().await && knows(&ring, "filed"));
        std::fs::remove_file(path).unwrap();
    }
}
