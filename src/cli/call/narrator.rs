//! Tells a person at the terminal what happens, as it happens.

use std::cell::RefCell;
use std::fmt;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::ids::ItemId;
use crate::message::{AgentStatus, Role, SpeechEvent, State, ToClient};

/// Lines on standard output and a progress bar of the speech on standard error; silent with `--json`.
pub struct Narrator {
    bar: ProgressBar,
    quiet: bool,
    /// The last line of the transcript that was shown.
    told: RefCell<Option<(ItemId, String)>>,
}

impl Narrator {
    /// A narrator of a speech of `frames` frames.
    pub fn new(quiet: bool, frames: u64) -> Narrator {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr_with_hz(10) };
        let bar = ProgressBar::with_draw_target(Some(frames), target);
        if let Ok(style) = ProgressStyle::with_template("{elapsed_precise} {msg:24} [{bar:30}] {percent}% spoken") {
            bar.set_style(style);
        }
        Narrator { bar, quiet, told: RefCell::new(None) }
    }

    /// One line.
    pub fn say(&self, line: fmt::Arguments<'_>) {
        if !self.quiet {
            self.bar.suspend(|| println!("{line}"));
        }
    }

    /// One line, with the time since the call began.
    pub fn say_at(&self, at: Duration, line: fmt::Arguments<'_>) {
        self.say(format_args!("{:7.2} s  {line}", at.as_secs_f64()));
    }

    /// A frame of the speech was sent.
    pub fn spoken(&self) {
        self.bar.inc(1);
    }

    /// What is going on.
    pub fn doing(&self, what: &'static str) {
        if self.bar.message() != what {
            self.bar.set_message(what);
        }
        self.bar.tick();
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// A message of the relay, if it says something to a person.
    pub fn message(&self, at: Duration, message: &ToClient) {
        match message {
            ToClient::Started(started) => self.say_at(at, format_args!("{} answers", started.agent.name)),
            ToClient::Agent(agent) => {
                let status = match agent.status {
                    AgentStatus::Connecting => "connecting",
                    AgentStatus::Ready => "ready",
                    AgentStatus::Fallback => "replaced by another",
                    AgentStatus::Text => "only reads and writes now",
                    AgentStatus::Down => "down",
                };
                let reason = agent.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
                self.say_at(at, format_args!("agent {status}{reason}"));
            }
            ToClient::Transcript(transcript) => {
                let who = if transcript.role == Role::User { "you" } else { "agent" };
                match (&transcript.text, transcript.heard) {
                    (Some(text), Some(_)) => self.say_at(at, format_args!("you heard \"{}\"", text.trim_end())),
                    (Some(text), None) if transcript.is_final => {
                        // The same line comes again once its turn is known.
                        let line = (transcript.item.clone(), text.clone());
                        if self.told.replace(Some(line.clone())) != Some(line) {
                            self.say_at(at, format_args!("{who}: {text}"));
                        }
                    }
                    _ => {}
                }
            }
            ToClient::Message(message) => self.say_at(at, format_args!("agent writes: {}", message.text)),
            ToClient::State(change) => {
                self.say_at(at, format_args!("{} -> {}", state(change.from), state(change.to)));
            }
            ToClient::Speech(speech) if speech.who == Role::User => {
                let event = if speech.event == SpeechEvent::Started { "begins" } else { "stops" };
                self.say_at(at, format_args!("you are heard: speech {event}"));
            }
            ToClient::Flush(_) => self.say_at(at, format_args!("interrupted: the rest of the answer is discarded")),
            ToClient::Heard(heard) => {
                let (ms, of) = (heard.ms as f64 / 1e3, heard.of_ms as f64 / 1e3);
                let basis = format!("{:?}", heard.basis).to_lowercase();
                self.say_at(at, format_args!("heard {ms:.2} s of {of:.2} s ({basis}, +-{} ms)", heard.error_ms));
            }
            ToClient::Alert(alert) => self.say_at(at, format_args!("alert {}: {}", alert.severity, alert.name)),
            ToClient::Ending(ending) => {
                self.say_at(at, format_args!("ends in {} ms: {}", ending.in_ms, ending.reason.label()));
            }
            ToClient::Draining(_) => self.say_at(at, format_args!("the relay is about to stop")),
            ToClient::Error(error) => self.say_at(at, format_args!("error: {}", error.text())),
            ToClient::Ended(ended) => self.say_at(at, format_args!("ended: {}", ended.reason.label())),
            _ => {}
        }
    }
}

fn state(state: State) -> &'static str {
    match state {
        State::Idle => "idle",
        State::Listening => "listening",
        State::Processing => "processing",
        State::Speaking => "speaking",
        State::WaitingForUser => "waiting for you",
        State::Error => "error",
        State::Ended => "ended",
    }
}
