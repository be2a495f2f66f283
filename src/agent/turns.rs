//! Answers and utterances of agents that name none: this side does.

use std::time::Duration;

use crate::ids::ItemId;
use crate::message::{AgentTranscript, Role};
use crate::time::Micros;

/// Audio that follows an interruption without a pause of this length is of the answer that was interrupted.
const STALE_PAUSE: Duration = Duration::from_millis(500);

/// The present answer of the agent, and the present utterance of the caller.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    answers: u32,
    utterances: u32,
    answer: Option<Answer>,
    utterance: Option<Utterance>,
}

#[derive(Debug)]
struct Answer {
    item: ItemId,
    stage: Stage,
    has_text: bool,
    /// When its audio last came.
    heard: Micros,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    /// No more audio will come; text may.
    Generated,
    /// Cut off; what still comes is of no use.
    Interrupted,
    Complete,
}

#[derive(Debug)]
struct Utterance {
    item: ItemId,
    is_final: bool,
}

/// Where audio belongs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// To the answer that is being given.
    Present(ItemId),
    /// To a new answer.
    New(ItemId),
    /// To an answer that was interrupted.
    Stale(ItemId),
}

impl Turns {
    /// Audio came.
    pub fn audio(&mut self, now: Micros) -> Place {
        if let Some(answer) = &mut self.answer {
            match answer.stage {
                Stage::Open => {
                    answer.heard = now;
                    return Place::Present(answer.item.clone());
                }
                Stage::Interrupted if now - answer.heard < STALE_PAUSE => {
                    answer.heard = now;
                    return Place::Stale(answer.item.clone());
                }
                Stage::Interrupted | Stage::Generated | Stage::Complete => {}
            }
        }
        Place::New(self.open(now))
    }

    fn open(&mut self, now: Micros) -> ItemId {
        self.answers += 1;
        let item = ItemId::from(format!("answer-{}", self.answers));
        self.answer = Some(Answer { item: item.clone(), stage: Stage::Open, has_text: false, heard: now });
        item
    }

    /// A piece of the agent's words came: the line, and the answer that begins with it, if one does.
    pub fn text(&mut self, text: &str, now: Micros) -> (Option<ItemId>, AgentTranscript) {
        let begun = match &self.answer {
            Some(answer) if answer.stage != Stage::Complete => None,
            _ => Some(self.open(now)),
        };
        let answer = self.answer.as_mut();
        let (item, append, over) = answer.map_or((None, false, false), |answer| {
            let append = std::mem::replace(&mut answer.has_text, true);
            (Some(answer.item.clone()), append, answer.stage != Stage::Open)
        });
        (begun, AgentTranscript { item, role: Role::Agent, text: text.to_owned(), append, is_final: over })
    }

    /// Whether more audio of an answer is to come.
    pub fn is_open(&self) -> bool {
        self.answer.as_ref().is_some_and(|answer| answer.stage == Stage::Open)
    }

    /// Whether no answer is being given.
    pub fn is_idle(&self) -> bool {
        self.answer.as_ref().is_none_or(|answer| answer.stage == Stage::Complete)
    }

    /// All audio of the answer was sent; its last line, if it has one, and whether it was open.
    pub fn generated(&mut self) -> (bool, Option<AgentTranscript>) {
        self.close(Stage::Generated)
    }

    /// The answer is over, and with it the utterance that it answers; the last lines of both.
    pub fn complete(&mut self) -> (bool, Option<AgentTranscript>) {
        let closed = self.close(Stage::Complete);
        if let Some(answer) = &mut self.answer {
            answer.stage = Stage::Complete;
        }
        self.utterance = None;
        closed
    }

    /// The agent begins to speak: what comes from now on is not of an answer that was interrupted.
    pub fn begins(&mut self) {
        if let Some(answer) = self.answer.as_mut().filter(|answer| answer.stage == Stage::Interrupted) {
            answer.stage = Stage::Complete;
        }
    }

    /// The caller has interrupted: the answer is void, and a new utterance has begun.
    pub fn interrupted(&mut self, now: Micros) {
        if let Some(answer) = self.answer.as_mut().filter(|answer| answer.stage != Stage::Complete) {
            answer.stage = Stage::Interrupted;
            answer.heard = now;
        }
        self.utterance = None;
    }

    fn close(&mut self, stage: Stage) -> (bool, Option<AgentTranscript>) {
        let Some(answer) = self.answer.as_mut().filter(|answer| answer.stage == Stage::Open) else {
            return (false, None);
        };
        answer.stage = stage;
        (true, answer.has_text.then(|| last(answer.item.clone(), Role::Agent)))
    }

    /// Words of the caller came: a piece more, or (without `more`) all that is known of the utterance.
    pub fn said(&mut self, text: &str, more: bool, finished: bool) -> AgentTranscript {
        let append = more && self.utterance.is_some();
        let utterances = &mut self.utterances;
        let utterance = self.utterance.get_or_insert_with(|| {
            *utterances += 1;
            Utterance { item: ItemId::from(format!("said-{utterances}")), is_final: false }
        });
        utterance.is_final |= finished;
        let (item, is_final) = (Some(utterance.item.clone()), utterance.is_final);
        if finished {
            self.utterance = None;
        }
        AgentTranscript { item, role: Role::User, text: text.to_owned(), append, is_final }
    }

    /// The agent answers: the caller's words are complete, though pieces of them may still come.
    pub fn answered(&mut self) -> Option<AgentTranscript> {
        let utterance = self.utterance.as_mut().filter(|utterance| !utterance.is_final)?;
        utterance.is_final = true;
        Some(last(utterance.item.clone(), Role::User))
    }
}

/// Nothing more, but that it is final.
fn last(item: ItemId, role: Role) -> AgentTranscript {
    AgentTranscript { item: Some(item), role, text: String::new(), append: true, is_final: true }
}
