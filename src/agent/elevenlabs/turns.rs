//! Which answer a piece of audio or text belongs to.
//!
//! The service numbers its events and does not say where an answer ends. Audio with the number that an
//! `interruption` named, or a smaller one, is void. A new number begins a new answer only after something that stands
//! between two answers: a text of the caller, an announced answer, an interruption, or a pause.

use std::time::Duration;

use crate::ids::ItemId;
use crate::message::Word;

/// An answer that is being spoken, or was the last one.
#[derive(Debug)]
struct Answer {
    item: ItemId,
    first: u64,
    last: u64,
    /// Its text, without spaces and signs.
    text: String,
    has_text: bool,
    /// Of its text, what the word timings of its audio have covered.
    spoken: String,
    /// Bytes of audio received for it.
    bytes: u64,
    /// Something came that stands between two answers.
    over: bool,
    /// The end of what was said last, which may go on.
    unfinished: Option<Word>,
}

impl Answer {
    fn new(event: u64) -> Answer {
        Answer {
            item: ItemId::from(format!("answer-{event}")),
            first: event,
            last: event,
            text: String::new(),
            has_text: false,
            spoken: String::new(),
            bytes: 0,
            over: false,
            unfinished: None,
        }
    }
}

/// What to do with audio.
#[derive(Debug, PartialEq)]
pub(super) enum Placed {
    /// It is of an answer that was interrupted.
    Void,
    /// It goes on.
    Continued(ItemId),
    /// A new answer begins with it.
    Begun(ItemId),
}

/// The letters and digits of a text.
fn bare(text: &str) -> impl Iterator<Item = char> + '_ {
    text.chars().filter(|c| c.is_alphanumeric())
}

/// The answers of one conversation.
#[derive(Debug, Default)]
pub(super) struct Turns {
    present: Option<Answer>,
    /// Announced by its text, without audio so far.
    next: Option<Answer>,
    void_through: Option<u64>,
}

impl Turns {
    /// Where audio of `event` belongs.
    pub(super) fn audio(&mut self, event: u64) -> Placed {
        if self.void_through.is_some_and(|through| event <= through) {
            return Placed::Void;
        }
        if self.next.as_ref().is_some_and(|next| event >= next.first) {
            self.present = self.next.take();
            if let Some(answer) = &mut self.present {
                answer.last = event;
                return Placed::Continued(answer.item.clone());
            }
        }
        match &mut self.present {
            Some(answer) if !answer.over || (answer.first..=answer.last).contains(&event) => {
                answer.last = answer.last.max(event);
                Placed::Continued(answer.item.clone())
            }
            _ => {
                let answer = Answer::new(event);
                let item = answer.item.clone();
                self.present = Some(answer);
                Placed::Begun(item)
            }
        }
    }

    /// The answer that a text of `event` belongs to, and whether it is a new one.
    pub(super) fn text(&mut self, event: u64, text: &str) -> (ItemId, bool) {
        let of = |answer: &Answer| {
            let open = !answer.has_text && !answer.over && event >= answer.first;
            open || (answer.first..=answer.last).contains(&event)
        };
        if let Some(answer) = [&mut self.next, &mut self.present].into_iter().flatten().find(|answer| of(answer)) {
            answer.has_text = true;
            answer.text = bare(text).collect();
            return (answer.item.clone(), false);
        }
        let mut answer = Answer::new(event);
        answer.has_text = true;
        answer.text = bare(text).collect();
        let item = answer.item.clone();
        self.next = Some(answer);
        (item, true)
    }

    /// The item that a correction of `event` is about, if it is known.
    pub(super) fn corrected(&self, event: u64) -> Option<ItemId> {
        let answer = self.present.as_ref()?;
        (event == 0 || event >= answer.first).then(|| answer.item.clone())
    }

    /// Whether the word timings have covered all of the present answer's text: its audio is complete.
    pub(super) fn is_complete(&self) -> bool {
        self.present.as_ref().is_some_and(|answer| !answer.text.is_empty() && answer.spoken == answer.text)
    }

    /// Whether an answer announced by its text waits for its audio.
    pub(super) fn waits(&self) -> bool {
        self.next.is_some()
    }

    /// Something came that stands between two answers; gives the rest of the words.
    pub(super) fn over(&mut self) -> Option<(ItemId, Word)> {
        let answer = self.present.as_mut()?;
        answer.over = true;
        Some((answer.item.clone(), answer.unfinished.take()?))
    }

    /// Audio up to `event` is void.
    pub(super) fn interrupt(&mut self, event: u64) {
        self.void_through = Some(self.void_through.map_or(event, |through| through.max(event)));
        if self.next.as_ref().is_some_and(|next| next.first <= event) {
            self.next = None;
        }
        if let Some(answer) = &mut self.present {
            answer.over = true;
            answer.unfinished = None;
        }
    }

    /// Takes `bytes` of audio, with its words timed from its own beginning, into the present answer; `rate` is in bytes
    /// per second. Gives the words that are complete, timed from the answer's beginning.
    pub(super) fn keep(&mut self, bytes: usize, rate: u64, words: Vec<Word>) -> Vec<Word> {
        let Some(answer) = &mut self.present else { return Vec::new() };
        let begin = Duration::from_micros(answer.bytes * 1_000_000 / rate.max(1));
        answer.bytes += bytes as u64;
        let mut out = Vec::new();
        for mut word in words {
            answer.spoken.extend(bare(&word.text));
            word.start += begin;
            word.end += begin;
            match answer.unfinished.take() {
                Some(mut before) if !before.text.ends_with(char::is_whitespace) => {
                    before.text.push_str(&word.text);
                    before.end = before.end.max(word.end);
                    answer.unfinished = Some(before);
                }
                before => {
                    out.extend(before);
                    answer.unfinished = Some(word);
                }
            }
        }
        if answer.unfinished.as_ref().is_some_and(|word| word.text.ends_with(char::is_whitespace)) {
            out.extend(answer.unfinished.take());
        }
        out
    }
}
