//! What a peer sends before its session has begun: kept for the session.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::agent::Wire;
use crate::ingress::admit::{Planned, Refused};
use crate::message::ErrorCode;
use crate::runtime::peer::link::{Arrived, PeerLink};
use crate::telemetry::{NodeQueue, Telemetry};

/// Things that are kept at most, such as 5 s of audio; of audio the oldest goes first.
const KEPT: usize = 256;
/// How long the data channel of a client may take to open that is to be told why there is no session.
const TELLING: Duration = Duration::from_secs(5);

/// A decision on a call that is under way; nobody waits for it any more when this is dropped.
pub(super) type Deciding = AbortOnDropHandle<Result<Planned, Refused>>;

/// The peer went away before it had begun.
#[derive(Debug)]
pub(super) struct Gone;

/// What has come.
pub(super) struct Ahead {
    things: VecDeque<Arrived>,
    telemetry: Telemetry,
}

impl Ahead {
    pub fn new(telemetry: &Telemetry) -> Ahead {
        Ahead { things: VecDeque::new(), telemetry: telemetry.clone() }
    }

    /// Keeps something for the session.
    ///
    /// # Errors
    /// If it is a goodbye, or more words than a client has who waits for an answer.
    pub fn keep(&mut self, thing: Arrived) -> Result<(), Gone> {
        if matches!(thing, Arrived::Wire(Wire::Close(..))) {
            return Err(Gone);
        }
        if self.things.len() == KEPT {
            self.telemetry.node().record_dropped(NodeQueue::PeerInbox);
            let is_word = |thing: &Arrived| matches!(thing, Arrived::Wire(_));
            match self.things.iter().position(|thing| !is_word(thing)) {
                Some(oldest) => _ = self.things.remove(oldest),
                None if is_word(&thing) => return Err(Gone),
                None => return Ok(()),
            }
        }
        self.things.push_back(thing);
        Ok(())
    }

    /// Leaves what was kept to whoever takes the link over.
    pub fn give_back(self, peer: &mut PeerLink) {
        peer.put_back(self.things.into());
    }
}

/// Lets the peer shake hands until its call is decided on; a client that is refused can then be told so.
pub(super) async fn decided(
    peer: &mut PeerLink,
    mut deciding: Deciding,
    telemetry: &Telemetry,
) -> Result<Planned, Refused> {
    let mut ahead = Ahead::new(telemetry);
    let decision = loop {
        tokio::select! {
            biased;
            decision = &mut deciding => break decision,
            thing = peer.receive_until(|_| false) => {
                let kept = thing.map_err(|_| Gone).and_then(|thing| thing.map_or(Ok(()), |thing| ahead.keep(thing)));
                kept.map_err(|Gone| Refused::gone())?;
            }
        }
    };
    ahead.give_back(peer);
    let broken = |_| Refused::new(ErrorCode::Internal, "nobody has decided on this call".into());
    let refused = match decision.map_err(broken).flatten() {
        Ok(planned) => return Ok(planned),
        Err(refused) => refused,
    };
    let _ = timeout(TELLING, open(peer)).await;
    Err(refused)
}

/// Resolves when the data channel is open, or will not be.
async fn open(peer: &mut PeerLink) {
    let settled = |peer: &mut PeerLink| peer.is_channel_open() || !peer.has_channel();
    while let Ok(Some(thing)) = peer.receive_until(settled).await {
        if matches!(thing, Arrived::Wire(Wire::Close(..))) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::message::AudioIn;
    use crate::time::Micros;

    #[test]
    fn of_too_much_the_oldest_audio_goes_and_what_was_said_stays() {
        let audio = || Arrived::Audio(AudioIn { arrival: Micros::ZERO, rtp: None, payload: Bytes::new() });
        let text = |n: usize| Arrived::Wire(Wire::Text(n.to_string()));
        let mut ahead = Ahead::new(&Telemetry::new());
        ahead.keep(text(0)).unwrap();
        for n in 1..KEPT {
            ahead.keep(audio()).unwrap();
            ahead.keep(text(n)).unwrap();
        }
        ahead.keep(audio()).unwrap();
        let said = ahead.things.iter().map(|thing| match thing {
            Arrived::Wire(Wire::Text(text)) => text.parse::<usize>().unwrap(),
            _ => panic!("audio among so many words"),
        });
        assert!(said.eq(0..KEPT));
        assert!(ahead.keep(text(KEPT)).is_err(), "a client that only talks is no client");
        let mut ahead = Ahead::new(&Telemetry::new());
        assert!(ahead.keep(Arrived::Wire(Wire::Close(1000, String::new()))).is_err());
    }
}
