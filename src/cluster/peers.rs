//! Who is there, and which node has which session.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

/// A node that lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Of its process; another one after each start.
    pub id: String,
    /// As it is called in its configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The base of its HTTP URLs, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Sessions that it runs.
    #[serde(default)]
    pub sessions: usize,
}

/// Where a session is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The id of the node's process.
    pub node: String,
    /// The session.
    pub session: String,
    /// Its conversation.
    pub conversation: String,
}

/// The sessions of this node, and what the others have not been told of them.
#[derive(Debug, Default)]
pub(super) struct Entries {
    here: HashMap<String, String>,
    changes: VecDeque<Change>,
    /// Redis may know anything: everything is told anew.
    stale: bool,
}

/// One thing to tell.
#[derive(Debug)]
pub(super) enum Change {
    /// A session is here.
    Entered(String, String),
    /// A session is not here any more, and its conversation neither, if that is named.
    Left(String, Option<String>),
}

/// Changes that are told together.
const TOGETHER: usize = 256;
/// More than that are told anew as a whole.
const CHANGES: usize = 4096;

impl Entries {
    pub(super) fn enter(&mut self, session: String, conversation: String) {
        self.here.insert(session.clone(), conversation.clone());
        self.push(Change::Entered(session, conversation));
    }

    pub(super) fn leave(&mut self, session: String, conversation: String) {
        self.here.remove(&session);
        let goes_on = self.here.values().any(|other| *other == conversation);
        self.push(Change::Left(session, (!goes_on).then_some(conversation)));
    }

    fn push(&mut self, change: Change) {
        if self.changes.len() >= CHANGES {
            self.forget_told();
        } else if !self.stale {
            self.changes.push_back(change);
        }
    }

    /// What the others know may be anything.
    pub(super) fn forget_told(&mut self) {
        self.changes.clear();
        self.stale = true;
    }

    /// What is told next, and whether everything that was told before is to be forgotten.
    pub(super) fn take(&mut self) -> Option<(bool, Vec<Change>)> {
        let anew = std::mem::take(&mut self.stale);
        if anew {
            let all = self.here.iter().map(|(session, conversation)| (session.clone(), conversation.clone()));
            self.changes = all.map(|(session, conversation)| Change::Entered(session, conversation)).collect();
        }
        let count = self.changes.len().min(TOGETHER);
        (anew || count > 0).then(|| (anew, self.changes.drain(..count).collect()))
    }

    pub(super) fn len(&self) -> usize {
        self.here.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_in_order_and_everything_after_a_loss() {
        let mut entries = Entries::default();
        entries.enter("s".into(), "c".into());
        entries.leave("s".into(), "c".into());
        entries.enter("t".into(), "d".into());
        let (anew, changes) = entries.take().unwrap();
        assert!(!anew);
        assert!(matches!(&changes[..], [Change::Entered(..), Change::Left(..), Change::Entered(..)]));
        assert!(entries.take().is_none());
        entries.forget_told();
        let (anew, changes) = entries.take().unwrap();
        assert!(anew);
        assert!(matches!(&changes[..], [Change::Entered(session, _)] if session == "t"));
        assert_eq!(entries.len(), 1);
    }

    #[test]
    fn more_changes_than_are_kept_are_told_as_a_whole() {
        let mut entries = Entries::default();
        for n in 0..10_000 {
            entries.enter(n.to_string(), "c".into());
            entries.leave(n.to_string(), "c".into());
        }
        assert!(entries.take().unwrap().0);
        assert!(entries.take().is_none());
    }
}
