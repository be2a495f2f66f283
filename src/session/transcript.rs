//! What was said, in the order in which it was said, however late the texts come.

use std::time::Duration;

use crate::ids::{ItemId, TurnId};
use crate::message::{AgentTranscript, ContextItem, Cut as CutKind, HeardSpan, Role, Transcript as Line, Word};
use crate::time::Micros;

/// Utterances kept; the oldest go first.
const MAX_ITEMS: usize = 1000;
/// Longest text of one utterance, in bytes.
const MAX_TEXT: usize = 64 * 1024;

/// One utterance.
#[derive(Clone, Debug)]
struct Item {
    id: ItemId,
    /// The agent's name for it.
    theirs: Option<ItemId>,
    /// Whose name that is.
    agent: u32,
    role: Role,
    turn: TurnId,
    text: Option<String>,
    is_final: bool,
    start: Micros,
    end: Option<Micros>,
    heard: Option<HeardSpan>,
    cut: Option<CutKind>,
    words: Vec<Word>,
    /// What the agent believes was heard of it.
    corrected: Option<String>,
}

/// The transcript of one session.
#[derive(Debug)]
pub struct Transcript {
    origin: Micros,
    items: Vec<Item>,
    next: u32,
    forgotten: u64,
    /// Agents so far: each names items as it likes.
    agents: u32,
}

impl Transcript {
    /// An empty transcript of a session that began at `origin`.
    pub fn new(origin: Micros) -> Transcript {
        Transcript { origin, items: Vec::new(), next: 1, forgotten: 0, agents: 0 }
    }

    /// Utterances so far that have a text.
    pub fn len(&self) -> u64 {
        self.forgotten + self.items.iter().filter(|item| item.text.is_some()).count() as u64
    }

    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn line(&self, index: usize) -> Line {
        let item = &self.items[index];
        let ms = |at: Micros| at.since(self.origin).as_millis() as u64;
        Line {
            item: item.id.clone(),
            turn: item.turn,
            role: item.role,
            text: item.text.clone(),
            is_final: item.is_final,
            start_ms: ms(item.start),
            end_ms: item.end.map(ms),
            heard: item.heard,
            cut: item.cut,
        }
    }

    /// Every line, oldest first: the snapshot for a client that has lost touch.
    pub fn lines(&self) -> impl Iterator<Item = Line> + '_ {
        (0..self.items.len()).map(|index| self.line(index))
    }

    /// The conversation so far for another agent: texts only, agent texts as far as they were heard.
    pub fn context(&self) -> Vec<ContextItem> {
        let spoken = |item: &Item| Some(ContextItem { role: item.role, text: item.text.clone()? });
        self.items.iter().filter_map(spoken).filter(|item| !item.text.is_empty()).collect()
    }

    /// Puts an utterance in its place in spoken order.
    fn insert(&mut self, role: Role, turn: TurnId, theirs: Option<ItemId>, start: Micros) -> usize {
        if self.items.len() == MAX_ITEMS {
            let first = self.items.remove(0);
            self.forgotten += u64::from(first.text.is_some());
        }
        let taken = theirs.as_ref().is_some_and(|theirs| self.items.iter().any(|item| item.id == *theirs));
        let id = match &theirs {
            Some(theirs) if !taken => theirs.clone(),
            _ => ItemId::from(format!("i{}", self.next)),
        };
        self.next += 1;
        let index = self.items.partition_point(|item| item.start <= start);
        let item = Item {
            id,
            theirs,
            agent: self.agents,
            role,
            turn,
            text: None,
            is_final: false,
            start,
            end: None,
            heard: None,
            cut: None,
            words: Vec::new(),
            corrected: None,
        };
        self.items.insert(index, item);
        index
    }

    /// The caller begins to speak: the utterance has its place from now on, whenever its text comes.
    pub fn on_user_started(&mut self, turn: TurnId, now: Micros) -> Line {
        if let Some(index) = self.items.iter().rposition(|item| item.role == Role::User && item.end.is_none()) {
            let item = &self.items[index];
            if item.text.is_none() && item.theirs.is_none() && item.start == now {
                return self.line(index);
            }
        }
        let index = self.insert(Role::User, turn, None, now);
        self.line(index)
    }

    /// Another agent goes on: it may give names anew, and what the caller says now gets its text from that one.
    pub fn on_agent_changed(&mut self) {
        self.agents += 1;
        for item in self.items.iter_mut().filter(|item| item.role == Role::User && !item.is_final) {
            (item.theirs, item.agent) = (None, self.agents);
        }
    }

    /// The agent's name for what the caller has just begun to say.
    pub fn on_named(&mut self, theirs: ItemId) {
        let speaks = |item: &&mut Item| item.role == Role::User && item.end.is_none();
        if let Some(item) = self.items.iter_mut().rev().find(speaks).filter(|item| item.theirs.is_none()) {
            item.theirs = Some(theirs);
        }
    }

    /// The caller has stopped.
    pub fn on_user_stopped(&mut self, now: Micros) {
        if let Some(item) = self.items.iter_mut().rev().find(|item| item.role == Role::User && item.end.is_none()) {
            item.end = Some(now.max(item.start));
        }
    }

    /// The agent begins a turn. If its text came before, the line is told again with its turn.
    pub fn on_agent_turn(&mut self, turn: TurnId, theirs: Option<ItemId>, now: Micros) -> Option<Line> {
        let known = theirs.as_ref().and_then(|theirs| self.find(Role::Agent, theirs));
        let waiting = || {
            self.items
                .iter()
                .rposition(|item| item.role == Role::Agent && item.turn == TurnId(0) && item.theirs.is_none())
        };
        match known.or_else(waiting) {
            Some(index) => {
                self.items[index].turn = turn;
                self.items[index].text.is_some().then(|| self.line(index))
            }
            None => {
                self.insert(Role::Agent, turn, theirs, now);
                None
            }
        }
    }

    /// A text message of either side.
    pub fn on_message(&mut self, role: Role, mut text: String, now: Micros) {
        truncate_at_char(&mut text, MAX_TEXT);
        let index = self.insert(role, TurnId(0), None, now);
        let item = &mut self.items[index];
        item.theirs = Some(item.id.clone());
        item.text = Some(text);
        item.is_final = true;
        item.end = Some(now);
    }

    fn find(&self, role: Role, theirs: &ItemId) -> Option<usize> {
        let named = |item: &Item| item.agent == self.agents && item.theirs.as_ref() == Some(theirs);
        self.items.iter().rposition(|item| item.role == role && named(item))
    }

    /// A text from the agent, of either side. `turn`: the agent's turn that it belongs to, as far as known.
    pub fn on_text(&mut self, text: AgentTranscript, turn: Option<TurnId>, now: Micros) -> Line {
        let index = match text.role {
            Role::User => self.place_user(text.item, now),
            Role::Agent => self.place_agent(text.item, turn, now),
        };
        let item = &mut self.items[index];
        // A cut text is what was heard: what the agent says of it later is not.
        if item.cut.is_none() {
            let mut whole = if text.append { item.text.take().unwrap_or_default() } else { String::new() };
            whole.push_str(&text.text);
            truncate_at_char(&mut whole, MAX_TEXT);
            item.text = Some(whole);
            item.is_final = text.is_final;
        }
        self.line(index)
    }

    /// The utterance of the caller that a text belongs to: by the agent's own id, else the oldest one that waits for
    /// its text.
    fn place_user(&mut self, theirs: Option<ItemId>, now: Micros) -> usize {
        if let Some(index) = theirs.as_ref().and_then(|theirs| self.find(Role::User, theirs)) {
            return index;
        }
        let waits = |item: &Item| item.role == Role::User && item.theirs.is_none() && !item.is_final;
        // What was answered to the end before the caller spoke and stopped again will get no text any more.
        let newest = self.items.iter().rposition(|item| waits(item) && item.end.is_some());
        let answer = newest.and_then(|newest| {
            self.items[..newest].iter().rposition(|item| item.role == Role::Agent && item.end.is_some())
        });
        let from = answer.map_or(0, |answer| answer + 1);
        if let Some(index) = self.items[from..].iter().position(waits) {
            self.items[from + index].theirs = theirs;
            return from + index;
        }
        // Nobody saw the speech begin: it was before the answer that is being given, if there is one.
        let answer = self.items.iter().rposition(|item| item.role == Role::Agent && item.end.is_none());
        let unanswered = answer.filter(|&index| index == 0 || self.items[index - 1].role == Role::Agent);
        let start = unanswered.map_or(now, |index| self.items[index].start.before(Duration::from_millis(1)));
        let turn = unanswered.map_or(TurnId(0), |index| self.items[index].turn);
        let index = self.insert(Role::User, turn, theirs, start);
        self.items[index].end = Some(start);
        index
    }

    fn place_agent(&mut self, theirs: Option<ItemId>, turn: Option<TurnId>, now: Micros) -> usize {
        let by_id = theirs.as_ref().and_then(|theirs| self.find(Role::Agent, theirs));
        let by_turn = || {
            let turn = turn?;
            self.items.iter().rposition(|item| {
                item.role == Role::Agent && item.turn == turn && (theirs.is_none() || item.theirs.is_none())
            })
        };
        let waiting = || {
            let last = self.items.iter().rposition(|item| item.role == Role::Agent && item.end.is_none())?;
            (theirs.is_none() && turn.is_none() && !self.items[last].is_final).then_some(last)
        };
        match by_id.or_else(by_turn).or_else(waiting) {
            Some(index) => index,
            None => self.insert(Role::Agent, turn.unwrap_or_default(), theirs, now),
        }
    }

    /// Word timings of an item.
    pub fn on_words(&mut self, theirs: Option<ItemId>, turn: Option<TurnId>, words: Vec<Word>, now: Micros) {
        let index = self.place_agent(theirs, turn, now);
        self.items[index].words.extend(words);
    }

    /// The utterance that the agent speaks in `turn`.
    pub fn item_of(&self, turn: TurnId) -> Option<ItemId> {
        self.agent_turn(turn).map(|index| self.items[index].id.clone())
    }

    /// A turn was heard to its end.
    pub fn on_played(&mut self, turn: TurnId, now: Micros) {
        if let Some(index) = self.agent_turn(turn) {
            self.items[index].end = Some(now);
        }
    }

    /// A turn was cut: its text becomes what was heard of it.
    pub fn on_cut(&mut self, turn: TurnId, heard: Duration, of: Duration, now: Micros) -> Option<Line> {
        let index = self.agent_turn(turn)?;
        let item = &mut self.items[index];
        let (mut text, kind) = cut_text(item.text.as_deref().unwrap_or(""), &item.words, heard, of);
        if let Some(corrected) = item.corrected.take().filter(|_| kind == CutKind::Estimated) {
            text = corrected;
        }
        item.end = Some(now);
        item.heard = Some(HeardSpan { ms: heard.as_millis() as u64, of_ms: of.as_millis() as u64 });
        item.cut = Some(kind);
        item.is_final = true;
        if item.text.is_some() {
            item.text = Some(text);
        }
        Some(self.line(index))
    }

    /// What the agent believes was heard of an item that was interrupted: it says more than an estimate, and less than
    /// its own word timings.
    pub fn on_corrected(&mut self, theirs: &ItemId, mut text: String) -> Option<Line> {
        truncate_at_char(&mut text, MAX_TEXT);
        let index = self.find(Role::Agent, theirs)?;
        let item = &mut self.items[index];
        match item.cut {
            Some(CutKind::Estimated) => {
                item.text = Some(text);
                Some(self.line(index))
            }
            None if item.end.is_none() => {
                item.corrected = Some(text);
                None
            }
            Some(CutKind::Aligned) | None => None,
        }
    }

    fn agent_turn(&self, turn: TurnId) -> Option<usize> {
        self.items.iter().rposition(|item| item.role == Role::Agent && item.turn == turn)
    }
}

/// The part of `text` that was heard, and how that was found: by the words' own times, else in proportion; always at a
/// word boundary, and never more than was heard.
fn cut_text(text: &str, words: &[Word], heard: Duration, of: Duration) -> (String, CutKind) {
    if !words.is_empty() {
        let heard_words = words.iter().take_while(|word| word.end <= heard);
        return (
            heard_words.map(|word| word.text.as_str()).collect::<String>().trim_end().to_owned(),
            CutKind::Aligned,
        );
    }
    if heard >= of {
        return (text.to_owned(), CutKind::Estimated);
    }
    let share = heard.as_secs_f64() / of.as_secs_f64().max(1e-6);
    let mut end = 0;
    let limit = (text.chars().count() as f64 * share) as usize;
    for (count, (index, c)) in text.char_indices().enumerate() {
        if count > limit {
            break;
        }
        if c.is_whitespace() {
            end = index;
        }
    }
    (text[..end].trim_end().to_owned(), CutKind::Estimated)
}

fn truncate_at_char(text: &mut String, limit: usize) {
    if text.len() > limit {
        let end = (0..=limit).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Micros {
        Micros::from_millis(ms)
    }

    fn text(role: Role, text: &str, item: Option<&str>) -> AgentTranscript {
        AgentTranscript { item: item.map(ItemId::from), role, text: text.into(), append: false, is_final: true }
    }

    fn spoken(transcript: &Transcript) -> Vec<String> {
        transcript.lines().map(|line| line.text.unwrap_or_else(|| "-".into())).collect()
    }

    #[test]
    fn two_agents_may_give_the_same_names() {
        let mut transcript = Transcript::new(ms(0));
        transcript.on_agent_turn(TurnId(1), Some("answer-1".into()), ms(100));
        transcript.on_text(text(Role::Agent, "of the first", Some("answer-1")), Some(TurnId(1)), ms(200));
        transcript.on_user_started(TurnId(1), ms(900));
        transcript.on_named("said-1".into());
        transcript.on_agent_changed();
        transcript.on_text(text(Role::User, "hello", Some("said-7")), None, ms(1000));
        transcript.on_text(text(Role::User, "hello there", Some("said-7")), None, ms(1100));
        transcript.on_agent_turn(TurnId(2), Some("answer-1".into()), ms(1200));
        transcript.on_text(text(Role::Agent, "of the second", Some("answer-1")), Some(TurnId(2)), ms(1300));
        assert_eq!(spoken(&transcript), ["of the first", "hello there", "of the second"]);
    }

    #[test]
    fn two_utterances_before_one_answer_keep_their_places_however_late_the_texts_are() {
        let mut transcript = Transcript::new(ms(0));
        transcript.on_user_started(TurnId(1), ms(100));
        transcript.on_user_stopped(ms(900));
        transcript.on_user_started(TurnId(1), ms(1500));
        transcript.on_user_stopped(ms(2000));
        transcript.on_agent_turn(TurnId(1), Some("a".into()), ms(2500));
        transcript.on_text(text(Role::Agent, "answer", Some("a")), Some(TurnId(1)), ms(2600));
        transcript.on_text(text(Role::User, "second", Some("u2")), None, ms(2700));
        assert_eq!(spoken(&transcript), ["second", "-", "answer"], "without ids the oldest place is taken first");
        let mut transcript = Transcript::new(ms(0));
        transcript.on_user_started(TurnId(1), ms(100));
        transcript.on_user_started(TurnId(1), ms(1500));
        transcript.on_text(text(Role::User, "first", None), None, ms(1600));
        transcript.on_agent_turn(TurnId(1), None, ms(2500));
        transcript.on_text(text(Role::User, "second", None), None, ms(2700));
        transcript.on_text(text(Role::Agent, "answer", None), Some(TurnId(1)), ms(2800));
        assert_eq!(spoken(&transcript), ["first", "second", "answer"]);
    }

    #[test]
    fn a_missing_text_leaves_its_place_empty_and_moves_nothing() {
        let mut transcript = Transcript::new(ms(0));
        transcript.on_user_started(TurnId(1), ms(100));
        transcript.on_user_stopped(ms(300));
        transcript.on_agent_turn(TurnId(1), None, ms(500));
        transcript.on_text(text(Role::Agent, "pardon?", None), Some(TurnId(1)), ms(500));
        transcript.on_played(TurnId(1), ms(900));
        assert_eq!(spoken(&transcript), ["-", "pardon?"]);
        assert_eq!(transcript.len(), 1);
    }

    #[test]
    fn a_text_goes_to_the_speech_after_the_last_answer_where_an_earlier_one_never_got_any() {
        let mut transcript = Transcript::new(ms(0));
        transcript.on_user_started(TurnId(1), ms(100));
        transcript.on_user_stopped(ms(300));
        transcript.on_agent_turn(TurnId(1), None, ms(500));
        transcript.on_text(text(Role::Agent, "pardon?", None), Some(TurnId(1)), ms(500));
        transcript.on_played(TurnId(1), ms(900));
        transcript.on_user_started(TurnId(2), ms(1000));
        transcript.on_user_stopped(ms(1500));
        transcript.on_text(text(Role::User, "again", None), None, ms(1600));
        assert_eq!(spoken(&transcript), ["-", "pardon?", "again"]);
    }

    #[test]
    fn the_agents_own_correction_replaces_an_estimate_and_no_word_timings() {
        let cut = |words: Vec<Word>, early: bool| {
            let mut transcript = Transcript::new(ms(0));
            transcript.on_agent_turn(TurnId(1), Some("a".into()), ms(0));
            transcript.on_text(text(Role::Agent, "one two three four", Some("a")), Some(TurnId(1)), ms(10));
            transcript.on_words(Some("a".into()), Some(TurnId(1)), words, ms(10));
            if early {
                assert_eq!(transcript.on_corrected(&"a".into(), "one two three".into()), None);
            }
            transcript.on_cut(TurnId(1), Duration::from_millis(500), Duration::from_secs(1), ms(20));
            if !early {
                transcript.on_corrected(&"a".into(), "one two three".into());
            }
            spoken(&transcript).concat()
        };
        let word = Word { text: "one ".into(), start: Duration::ZERO, end: Duration::from_millis(400) };
        for early in [true, false] {
            assert_eq!(cut(Vec::new(), early), "one two three");
            assert_eq!(cut(vec![word.clone()], early), "one");
        }
    }

    #[test]
    fn a_text_of_unseen_speech_comes_before_the_answer_to_it() {
        let mut transcript = Transcript::new(ms(0));
        transcript.on_agent_turn(TurnId(1), None, ms(500));
        transcript.on_text(text(Role::Agent, "answer", None), Some(TurnId(1)), ms(500));
        transcript.on_text(text(Role::User, "question", None), None, ms(600));
        assert_eq!(spoken(&transcript), ["question", "answer"]);
    }

    #[test]
    fn a_cut_text_ends_with_the_last_word_that_was_heard_whole() {
        let word = |text: &str, start, end| Word {
            text: text.into(),
            start: Duration::from_millis(start),
            end: Duration::from_millis(end),
        };
        let words = [word("one ", 0, 400), word("two ", 400, 900), word("three", 900, 1500)];
        let cut = |heard| cut_text("one two three", &words, Duration::from_millis(heard), Duration::from_millis(1500));
        assert_eq!(cut(899), ("one".into(), CutKind::Aligned));
        assert_eq!(cut(900), ("one two".into(), CutKind::Aligned));
        let estimated =
            |heard| cut_text("one two three", &[], Duration::from_millis(heard), Duration::from_millis(1300));
        assert_eq!(estimated(0).0, "");
        assert_eq!(estimated(700), ("one two".into(), CutKind::Estimated));
        assert_eq!(estimated(1300).0, "one two three");
    }

    #[test]
    fn what_the_agent_says_of_a_cut_item_later_changes_nothing() {
        let mut transcript = Transcript::new(ms(0));
        transcript.on_agent_turn(TurnId(1), Some("a".into()), ms(0));
        transcript.on_text(text(Role::Agent, "one two three four", Some("a")), Some(TurnId(1)), ms(10));
        let line = transcript.on_cut(TurnId(1), Duration::from_millis(500), Duration::from_secs(1), ms(20)).unwrap();
        assert_eq!(line.text.as_deref(), Some("one two"));
        let late = transcript.on_text(text(Role::Agent, "one two three four five", Some("a")), None, ms(30));
        assert_eq!(late.text.as_deref(), Some("one two"));
        assert_eq!(late.heard, Some(HeardSpan { ms: 500, of_ms: 1000 }));
    }
}
