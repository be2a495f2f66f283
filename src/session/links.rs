//! The client's links, and the control messages kept for the next one.

use std::collections::VecDeque;

use crate::ids::{LinkId, Seq};
use crate::message::ToClient;
use crate::session::event::{LinkInfo, Output};

/// Control messages kept for a resume; the oldest go first.
pub const KEPT_MESSAGES: usize = 256;

/// The links of one session: at most one is attached, and it holds microphone and speaker.
#[derive(Debug)]
pub struct Links {
    attached: Option<(LinkId, LinkInfo)>,
    last: Option<LinkInfo>,
    next: LinkId,
    seq: Seq,
    kept: VecDeque<(Seq, ToClient)>,
}

impl Links {
    /// The links of a new session, with its first one, number 0.
    pub fn new(first: LinkInfo) -> Links {
        Links { attached: Some((LinkId(0), first)), last: None, next: LinkId(1), seq: Seq(0), kept: VecDeque::new() }
    }

    /// The attached link.
    pub fn attached(&self) -> Option<(LinkId, &LinkInfo)> {
        self.attached.as_ref().map(|(id, info)| (*id, info))
    }

    /// Whether `link` is the attached one.
    pub fn is_attached(&self, link: LinkId) -> bool {
        self.attached.as_ref().is_some_and(|(id, _)| *id == link)
    }

    /// The number that the next link gets.
    pub fn next_id(&self) -> LinkId {
        self.next
    }

    /// Attaches the next link; gives the one that it takes over from.
    pub fn attach(&mut self, info: LinkInfo) -> (LinkId, Option<LinkId>) {
        let id = self.next;
        self.next = id.next();
        let old = self.attached.replace((id, info));
        (id, old.map(|(old, _)| old))
    }

    /// The attached link is gone.
    pub fn detach(&mut self) -> Option<(LinkId, LinkInfo)> {
        let gone = self.attached.take();
        self.last = gone.as_ref().map(|(_, info)| info.clone());
        gone
    }

    /// The link that was attached last, while none is.
    pub fn last(&self) -> Option<&LinkInfo> {
        self.last.as_ref()
    }

    /// The output that says `message` on the attached link; messages that are still true on another link are kept.
    pub fn say(&mut self, message: ToClient) -> Option<Output> {
        let seq = is_kept(&message).then(|| {
            self.seq = self.seq.next();
            if self.kept.len() == KEPT_MESSAGES {
                self.kept.pop_front();
            }
            self.kept.push_back((self.seq, message.clone()));
            self.seq
        });
        let (link, _) = self.attached.as_ref()?;
        Some(Output::ToClient { link: *link, seq, message })
    }

    /// The kept messages after `have`, or `None` if some of them are gone.
    pub fn missed(&self, have: u64) -> Option<impl Iterator<Item = (Seq, ToClient)> + '_> {
        let first = self.kept.front().map_or(self.seq.0 + 1, |(seq, _)| seq.0);
        let complete = have + 1 >= first && have <= self.seq.0;
        complete.then(|| self.kept.iter().filter(move |(seq, _)| seq.0 > have).cloned())
    }
}

/// Positions and answers belong to one link; everything else is kept.
fn is_kept(message: &ToClient) -> bool {
    !matches!(
        message,
        ToClient::Audio(_)
            | ToClient::Started(_)
            | ToClient::Turn(_)
            | ToClient::Flush(_)
            | ToClient::Stats(_)
            | ToClient::InForce(_)
            | ToClient::Pong(_)
    )
}
