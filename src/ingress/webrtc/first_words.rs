//! A call whose client says on the data channel how it is to be set up: that is waited for, as most agents cannot be set
//! up anew in a call.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::ahead::{Ahead, Gone};
use crate::agent::Wire;
use crate::dialect::{Dialect, Heard};
use crate::ingress::websocket::UNASKED;
use crate::message::Setup;
use crate::runtime::clock::Clock;
use crate::runtime::peer::link::{Arrived, PeerLink};
use crate::telemetry::Telemetry;

/// How long the data channel may take to open.
const OPENING: Duration = Duration::from_secs(3);

/// Waits for what the client asks for; `None` if it asks for nothing in time.
pub(super) async fn hear(
    peer: &mut PeerLink,
    dialect: &mut dyn Dialect,
    clock: Clock,
    telemetry: &Telemetry,
) -> Result<Option<Setup>, Gone> {
    let mut ahead = Ahead::new(telemetry);
    let heard = hear_start(peer, dialect, clock, &mut ahead).await;
    ahead.give_back(peer);
    heard
}

async fn hear_start(
    peer: &mut PeerLink,
    dialect: &mut dyn Dialect,
    clock: Clock,
    ahead: &mut Ahead,
) -> Result<Option<Setup>, Gone> {
    let mut deadline = Instant::now() + OPENING;
    let mut open = false;
    answer(peer, dialect)?;
    while peer.has_channel() {
        let next = peer.receive_until(|peer| peer.is_channel_open() != open);
        match timeout_at(deadline, next).await {
            Err(_) => break,
            Ok(Ok(None)) => (open, deadline) = (peer.is_channel_open(), Instant::now() + UNASKED),
            Ok(Err(_) | Ok(Some(Arrived::Wire(Wire::Close(..))))) => return Err(Gone),
            Ok(Ok(Some(Arrived::Wire(wire)))) => {
                let heard = dialect.handle_wire(wire, clock.now());
                answer(peer, dialect)?;
                if let Some(Heard::Start(start)) = heard {
                    return Ok(start.setup);
                }
            }
            Ok(Ok(Some(thing))) => ahead.keep(thing)?,
        }
    }
    Ok(dialect.start_unasked().and_then(|start| start.setup))
}

fn answer(peer: &mut PeerLink, dialect: &mut dyn Dialect) -> Result<(), Gone> {
    while let Some(wire) = dialect.take_wire() {
        if let Wire::Text(text) = wire {
            peer.push_text(text).map_err(|_| Gone)?;
        }
    }
    Ok(())
}
