//! Commands that are under way.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis::{RedisError, RedisResult};

use super::link::Link;
use super::peers::{Change, Peer, Place};
use super::scripts::{BEAT, CLAIM, SPEND};
use super::{Told, claims};
use crate::limit::{Entry, Key, Kind, Level, Meter, Spent};

/// A node of which nothing more is heard counts as gone after so long.
pub(super) const GONE: Duration = Duration::from_secs(5);
/// How long a lease holds.
pub(super) const LEASE: Duration = Duration::from_secs(1);

/// What a command was for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// To report what was spent; who waits for it is told by the drop of the last.
    Spend { meter: Meter, spent: Spent, _told: Vec<Arc<Told>> },
    /// To claim seats.
    Claim { key: Key, _told: Vec<Arc<Told>> },
    /// To say that this node lives.
    Beat,
    /// To tell of sessions.
    Publish,
    /// Something that is answered by itself.
    Answer,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Where the cell stands.
    Level(Level),
    /// Seats that are held.
    Held(u32),
    /// Who lives.
    Peers(Vec<Peer>),
    /// Nothing to say.
    Done,
}

/// A command under way, with its number.
pub(super) type Work = Pin<Box<dyn Future<Output = (u64, Result<Outcome, RedisError>)> + Send>>;

/// The names of keys.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub(super) prefix: String,
    pub(super) node: Arc<str>,
}

impl Names {
    fn rate(&self, key: Key) -> String {
        format!("{}:rate:{{{key}}}", self.prefix)
    }

    fn seats(&self, key: Key) -> String {
        format!("{}:seats:{{{key}}}", self.prefix)
    }

    fn once(&self, key: Key) -> String {
        format!("{}:once:{{{key}}}", self.prefix)
    }

    fn nodes(&self) -> String {
        format!("{}:nodes", self.prefix)
    }

    fn probe(&self, number: usize) -> String {
        format!("{}:probe:{{{number}}}", self.prefix)
    }

    fn sessions(&self, node: &str) -> String {
        format!("{}:node:{{{node}}}:sessions", self.prefix)
    }

    fn conversations(&self, node: &str) -> String {
        format!("{}:node:{{{node}}}:conversations", self.prefix)
    }
}

fn micros(nanos: u64) -> u64 {
    nanos.div_ceil(1000)
}

/// Reports what was spent of a rate, and gets a lease.
pub(super) async fn spend(mut link: Link, names: Names, meter: Meter, spent: Spent) -> RedisResult<Outcome> {
    let Kind::Rate(rate) = meter.limit.kind else { return Ok(Outcome::Done) };
    let mut call = SPEND.key(names.rate(meter.bucket.key()));
    call.arg(&*names.node).arg(micros(spent.nanos)).arg(spent.ago.as_micros() as u64).arg(micros(rate.burst()));
    call.arg(micros(rate.lease())).arg(micros(rate.unit())).arg(LEASE.as_micros() as u64);
    call.arg(spent.blocked.as_micros() as u64);
    let (debt, lease, blocked): (u64, u64, u64) = call.invoke_async(&mut link).await?;
    Ok(Outcome::Level(Level {
        debt: debt.saturating_mul(1000),
        lease: lease.saturating_mul(1000),
        term: LEASE,
        blocked: Duration::from_micros(blocked),
    }))
}

/// Claims seats.
pub(super) async fn claim(mut link: Link, names: Names, wanted: (Key, u32, u32, u32)) -> RedisResult<Outcome> {
    let (key, used, want, most) = wanted;
    let mut call = CLAIM.key(names.seats(key));
    call.arg(&*names.node).arg(used).arg(want).arg(most).arg(claims::TERM.as_millis() as u64);
    let (held, _others): (u32, u32) = call.invoke_async(&mut link).await?;
    Ok(Outcome::Held(held))
}

/// Says that this node lives and keeps its entries; learns who else does.
pub(super) async fn beat(mut link: Link, names: Names, own: Peer) -> RedisResult<Outcome> {
    let said = serde_json::to_string(&own).unwrap_or_default();
    let gone = GONE.as_millis() as u64;
    let mut call = BEAT.key(names.nodes());
    call.arg(&own.id).arg(said).arg(gone);
    let live: Vec<String> = call.invoke_async(&mut link).await?;
    let kept = 3 * gone as i64;
    let mut keep = redis::pipe();
    keep.cmd("PEXPIRE").arg(names.sessions(&own.id)).arg(kept);
    keep.cmd("PEXPIRE").arg(names.conversations(&own.id)).arg(kept);
    let _: () = keep.ignore().query_async(&mut link).await?;
    let probes = (0..link.probes()).map(|number| {
        let (mut link, name) = (link.clone(), names.probe(number));
        async move { redis::cmd("SET").arg(name).arg(1).arg("PX").arg(gone).query_async::<()>(&mut link).await }
    });
    join_all(probes).await.into_iter().collect::<RedisResult<Vec<()>>>()?;
    Ok(Outcome::Peers(live.iter().filter_map(|said| serde_json::from_str(said).ok()).collect()))
}

/// Tells which sessions are here.
pub(super) async fn publish(mut link: Link, names: Names, anew: bool, changes: Vec<Change>) -> RedisResult<Outcome> {
    let (sessions, conversations) = (names.sessions(&names.node), names.conversations(&names.node));
    let mut told = redis::pipe();
    if anew {
        told.cmd("DEL").arg(&sessions).ignore().cmd("DEL").arg(&conversations).ignore();
    }
    for change in changes {
        match change {
            Change::Entered(session, conversation) => {
                told.cmd("HSET").arg(&sessions).arg(&session).arg(&conversation).ignore();
                told.cmd("HSET").arg(&conversations).arg(&conversation).arg(&session).ignore();
            }
            Change::Left(session, conversation) => {
                told.cmd("HDEL").arg(&sessions).arg(&session).ignore();
                if let Some(conversation) = conversation {
                    told.cmd("HDEL").arg(&conversations).arg(&conversation).ignore();
                }
            }
        }
    }
    let kept = 3 * GONE.as_millis() as i64;
    told.cmd("PEXPIRE").arg(&sessions).arg(kept).ignore().cmd("PEXPIRE").arg(&conversations).arg(kept).ignore();
    let _: () = told.query_async(&mut link).await?;
    Ok(Outcome::Done)
}

/// Whether nobody has used a key before; it is used from now on.
pub(super) async fn first_use(mut link: Link, names: Names, key: Key, valid: Duration) -> RedisResult<bool> {
    let mut set = redis::cmd("SET");
    set.arg(names.once(key)).arg(&*names.node).arg("NX").arg("PX").arg(valid.as_millis().max(1) as u64);
    let set: Option<String> = set.query_async(&mut link).await?;
    Ok(set.is_some())
}

/// Which of the nodes has a session, or else a conversation.
pub(super) async fn find(
    link: Link,
    names: Names,
    nodes: Vec<String>,
    session: Option<String>,
    conversation: Option<String>,
) -> RedisResult<Option<Place>> {
    let asked = nodes.into_iter().map(|node| {
        let (mut link, by_session) = (link.clone(), session.is_some());
        let table = if by_session { names.sessions(&node) } else { names.conversations(&node) };
        let field = session.clone().or_else(|| conversation.clone()).unwrap_or_default();
        async move {
            let other: Option<String> = redis::cmd("HGET").arg(table).arg(&field).query_async(&mut link).await?;
            Ok(other.map(|other| {
                let (session, conversation) = if by_session { (field, other) } else { (other, field) };
                Place { node, session, conversation }
            }))
        }
    });
    let found: RedisResult<Vec<Option<Place>>> = join_all(asked).await.into_iter().collect();
    Ok(found?.into_iter().flatten().next())
}

/// All sessions of the nodes.
pub(super) async fn list(link: Link, names: Names, nodes: Vec<String>) -> RedisResult<Vec<Place>> {
    let asked = nodes.into_iter().map(|node| {
        let (mut link, table) = (link.clone(), names.sessions(&node));
        async move {
            let all: Vec<(String, String)> = redis::cmd("HGETALL").arg(table).query_async(&mut link).await?;
            let place = |(session, conversation)| Place { node: node.clone(), session, conversation };
            Ok(all.into_iter().map(place).collect::<Vec<Place>>())
        }
    });
    let found: RedisResult<Vec<Vec<Place>>> = join_all(asked).await.into_iter().collect();
    Ok(found?.into_iter().flatten().collect())
}
