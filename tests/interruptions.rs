//! Interruptions at random moments over real sockets: 500 over each transport, by calls side by side. What the relay
//! tells of an answer is what left the caller's speaker, nothing of it is played afterwards, and what the agent still
//! sends of it is dropped and counted. And the relay's own ear: an agent's echo does not interrupt it, a caller does.

mod harness;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use antiphon::cli::call::CallTransport;
use antiphon::media::g711::Law;
use antiphon::message::{App, Basis, FromClient, Interrupt, InterruptAction, Start, ToClient, TurnPhase};
use antiphon::time::Micros;
use harness::agent::{AgentLink, AgentServer};
use harness::phone::{Came, Phone, format_of};
use harness::speech::utterances;
use harness::{Daemon, Heard, PATIENCE};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Bytes;

/// Calls over each transport, and interruptions of each.
const CALLS: u64 = 25;
const TURNS: u64 = 20;
/// One frame: what a figure may be off by.
const FRAME_MS: f64 = 20.0;
/// The samples of the agent's turn `n` all are `n * STEP`: that survives µ-law.
const STEP: i16 = 1000;
/// An answer, and what the agent still sends of it after it was told to stop.
const ANSWER_MS: u64 = 3_000;
const LATE_MS: u64 = 200;

/// What the agent was told that the caller heard of each turn, in ms, by call and turn.
type Told = Arc<Mutex<HashMap<(u64, u64), f64>>>;

/// The agent of one call: says an answer at once, goes on for a while when it is told to stop, and then says the next.
struct Speaker {
    link: AgentLink,
    call: u64,
    told: Told,
    rate: u64,
    turn: u64,
    /// Sample on the link at which the turn began, and samples sent.
    begun: u64,
    sent: u64,
}

impl Speaker {
    async fn serve(mut link: AgentLink, told: Told) -> u64 {
        let start = link.begin().await;
        let call = start["metadata"]["call"].as_u64().unwrap();
        let rate = start["audio"]["out"]["rate"].as_u64().unwrap();
        let mut speaker = Speaker { link, call, told, rate, turn: 0, begun: 0, sent: 0 };
        speaker.link.hear_type("app").await;
        speaker.say_next().await;
        let mut late = 0;
        loop {
            match speaker.link.hear().await {
                Heard::Control(message) if message["type"] == "interrupt" => match message["pos"].as_u64() {
                    // Told to stop: what was on its way comes nevertheless.
                    None => {
                        speaker.speak(LATE_MS).await;
                        late += LATE_MS;
                    }
                    Some(pos) => speaker.cut(pos).await,
                },
                Heard::Control(message) if message["type"] == "playout" && message["flush"].is_u64() => {
                    speaker.cut(message["pos"].as_u64().unwrap()).await;
                }
                Heard::Control(message) if message["type"] == "app" => {
                    let flush = json!({
                        "type": "flush", "id": speaker.turn, "turn": speaker.turn, "valid_from": speaker.sent,
                    });
                    speaker.link.say(flush).await;
                }
                Heard::Control(_) | Heard::Audio(_) => {}
                Heard::Closed(..) | Heard::Gone => return late,
            }
        }
    }

    async fn say_next(&mut self) {
        self.turn += 1;
        self.begun = self.sent;
        let item = format!("t-{}", self.turn);
        self.link.say(json!({ "type": "turn", "turn": self.turn, "item": item, "phase": "start" })).await;
        self.speak(ANSWER_MS).await;
    }

    async fn speak(&mut self, ms: u64) {
        let value = (self.turn as i16 * STEP).to_le_bytes();
        let frame = Bytes::from(value.repeat(self.rate as usize / 10));
        for _ in 0..ms / 100 {
            self.link.speak(frame.clone()).await;
            self.sent += self.rate / 10;
        }
    }

    async fn cut(&mut self, pos: u64) {
        let ms = (pos as f64 - self.begun as f64) * 1000.0 / self.rate as f64;
        self.told.lock().unwrap().insert((self.call, self.turn), ms);
        self.link.say(json!({ "type": "turn", "turn": self.turn, "phase": "end" })).await;
        self.say_next().await;
    }
}

/// What a caller found.
#[derive(Debug, Default)]
struct Found {
    /// Turn, ms that the relay told, ms that left the speaker.
    cuts: Vec<(u64, f64, f64)>,
    /// Samples of an old turn that were played after its flush, or that came with a position that is still valid.
    stale: u64,
    reported: usize,
}

/// A caller who interrupts each answer at a random moment.
struct Caller {
    phone: Phone,
    clock: f64,
    rng: StdRng,
    /// Position and samples of what left the speaker, by turn, and where each turn begins or goes on after a gap.
    played: HashMap<u64, Vec<(u32, u32)>>,
    starts: HashSet<u32>,
    /// The turn that comes in, when it is to be interrupted, and the last one that was flushed.
    turn: u64,
    interrupt_at: Option<Micros>,
    flushed: u64,
    valid_from: u32,
    found: Found,
}

/// Something for the agent: that the caller listens, or that the agent's own detection finds speech.
fn app(name: &str) -> FromClient {
    FromClient::App(App { name: name.into(), data: json!(null) })
}

/// The turn that samples are of; 0 if they are silent.
fn turn_of(samples: &[i16]) -> u64 {
    let turns = samples.iter().map(|sample| (f64::from(*sample) / f64::from(STEP)).round() as u64);
    let loud: Vec<u64> = turns.filter(|turn| *turn > 0).collect();
    assert!(loud.windows(2).all(|pair| pair[0] == pair[1]), "a frame of two turns: {loud:?}");
    loud.first().copied().unwrap_or(0)
}

impl Caller {
    async fn run(phone: Phone, call: u64) -> Found {
        let mut caller = Caller {
            clock: f64::from(phone.format.clock()) / 1000.0,
            phone,
            rng: StdRng::seed_from_u64(call),
            played: HashMap::new(),
            starts: HashSet::new(),
            turn: 0,
            interrupt_at: None,
            flushed: 0,
            valid_from: 0,
            found: Found::default(),
        };
        timeout(3 * PATIENCE, caller.call()).await.unwrap_or_else(|_| panic!("call {call} hangs"));
        caller.phone.hang_up().await;
        caller.found
    }

    async fn call(&mut self) {
        self.phone.say(&app("go")).await;
        while (self.found.cuts.len() as u64) < TURNS {
            self.play().await;
            let now = self.phone.now();
            if self.interrupt_at.take_if(|at| *at <= now).is_some() {
                self.interrupt().await;
            }
            let until = self.interrupt_at.unwrap_or(now + Duration::from_secs(1));
            match self.phone.next(until).await {
                Came::Audio(samples, pos) => self.take(&samples, pos),
                Came::Said(message) => self.heed(message).await,
                Came::Nothing => {}
            }
        }
    }

    /// The caller, or the agent by its own detection.
    async fn interrupt(&mut self) {
        let pos = self.phone.player.position(self.phone.now());
        let message = match self.rng.random_range(0..3) {
            0 => app("speech"),
            1 => FromClient::Interrupt(Interrupt::default()),
            _ => FromClient::Interrupt(Interrupt { pos: Some(pos), ..Interrupt::default() }),
        };
        self.phone.say(&message).await;
    }

    /// Counts what has left the speaker.
    async fn play(&mut self) {
        for (_, pos, samples) in self.phone.played().await {
            let turn = turn_of(&samples);
            self.played.entry(turn).or_default().push((pos, samples.len() as u32));
            if turn > 0 && turn <= self.flushed {
                self.found.stale += samples.len() as u64;
            }
        }
    }

    fn take(&mut self, samples: &[i16], pos: Option<u32>) {
        let turn = turn_of(samples);
        let valid = pos.is_some_and(|pos| pos.wrapping_sub(self.valid_from) as i32 >= 0);
        if turn > 0 && turn <= self.flushed && valid {
            self.found.stale += samples.len() as u64;
        }
        if turn > self.turn {
            self.turn = turn;
            self.interrupt_at = Some(self.phone.now() + Duration::from_micros(self.rng.random_range(20_000..520_000)));
        }
    }

    async fn heed(&mut self, message: ToClient) {
        match message {
            ToClient::Flush(flush) => {
                // What the speaker had played until then was played in time.
                self.play().await;
                self.flushed = u64::from(flush.turn.0);
                self.valid_from = flush.valid_from;
                self.interrupt_at = None;
            }
            ToClient::Heard(heard) => {
                let turn = u64::from(heard.turn.0);
                let own = f64::from(self.heard_of(turn)) / self.clock;
                self.found.cuts.push((turn, heard.ms as f64, own));
                self.found.reported += usize::from(heard.basis == Basis::Reported);
            }
            ToClient::Turn(turn) if turn.phase == TurnPhase::Start => _ = self.starts.insert(turn.pos),
            _ => {}
        }
    }

    /// How much of a turn has left the speaker, in samples; what was lost on the way belongs to it.
    fn heard_of(&self, turn: u64) -> u32 {
        let (mut heard, mut end) = (0, None);
        for &(pos, samples) in self.played.get(&turn).into_iter().flatten() {
            let lost = end.filter(|_| !self.starts.contains(&pos)).map_or(0, |end| pos.wrapping_sub(end));
            heard += lost + samples;
            end = Some(pos.wrapping_add(samples));
        }
        heard
    }
}

/// A daemon on whose only route, with these lines more, the agent at `server` speaks PCM at the caller's rate.
async fn daemon(server: &AgentServer, transport: CallTransport, route: &str) -> Daemon {
    let config = format!(
        "[[route]]\nname = \"all\"\nto = \"speaker\"\naudio.heard_wait_ms = 5000\n{route}\n\
         [agent.speaker]\nkind = \"websocket\"\nurl = \"{}\"\naudio_in = \"pcm16/16000\"\n\
         audio_out = \"pcm16/{}\"\n",
        server.url(),
        format_of(transport).rate,
    );
    Daemon::start_with(Some(&config), &[("ANTIPHON_RUNTIME__WORKERS", "2")]).await
}

/// 500 interruptions over one transport.
async fn interruptions(transport: CallTransport) {
    let server = AgentServer::bind().await;
    let daemon = daemon(&server, transport, "").await;
    let told = Told::default();
    let agents = {
        let told = told.clone();
        tokio::spawn(async move {
            let mut agents = Vec::new();
            for _ in 0..CALLS {
                agents.push(tokio::spawn(Speaker::serve(server.accept().await, told.clone())));
            }
            let mut late = 0;
            for agent in agents {
                late += agent.await.unwrap();
            }
            late
        })
    };
    let mut calls = Vec::new();
    for call in 0..CALLS {
        let start = Start { metadata: Some(json!({ "call": call })), ..Start::default() };
        let phone = Phone::call(&daemon, transport, start).await;
        calls.push(tokio::spawn(Caller::run(phone, call)));
    }
    let (mut cuts, mut worst, mut reported) = (0, 0f64, 0);
    for (call, running) in calls.into_iter().enumerate() {
        let found = running.await.unwrap();
        assert_eq!(found.stale, 0, "{transport:?}, call {call}: old audio after a flush");
        for (turn, told_ms, own) in &found.cuts {
            worst = worst.max((told_ms - own).abs());
            assert!((told_ms - own).abs() <= FRAME_MS, "{transport:?}, call {call}, turn {turn}: {told_ms} but {own}");
            let agent = told.lock().unwrap().get(&(call as u64, *turn)).copied();
            if let Some(agent) = agent {
                assert!((agent - told_ms).abs() <= FRAME_MS, "call {call}, turn {turn}: the agent was told {agent}");
            }
        }
        cuts += found.cuts.len() as u64;
        reported += found.reported as u64;
    }
    let late = timeout(PATIENCE, agents).await.expect("the agents hang up").unwrap();
    let counted = daemon.metric("antiphon_queue_dropped_audio_seconds_total", "queue=\"stale\"").await * 1000.0;
    println!(
        "{transport:?}: {cuts} interruptions, {reported} reported, at most {worst:.1} ms off; \
         {late} ms came late, {counted:.0} ms counted"
    );
    assert_eq!((cuts, reported), (CALLS * TURNS, CALLS * TURNS));
    let agents_told = told.lock().unwrap().len() as u64;
    assert!(agents_told >= cuts - CALLS, "the agent is told of each: {agents_told}");
    // What came after a call had hung up is nobody's.
    assert!(counted <= late as f64 + 1.0 && counted >= late as f64 - (CALLS * LATE_MS) as f64, "{counted}, {late}");
    let by = |by: &'static str| daemon.metric("antiphon_interruptions_total", by);
    let (agent, client) = (by("by=\"agent\"").await, by("by=\"client\"").await);
    assert!(
        agent > 50.0 && client > 100.0 && (agent + client) as u64 == cuts,
        "{agent} by agents, {client} by clients"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_interruptions_over_websocket_are_exact() {
    interruptions(CallTransport::Websocket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_interruptions_over_webrtc_are_exact() {
    interruptions(CallTransport::Webrtc).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_interruptions_over_quic_are_exact() {
    interruptions(CallTransport::Quic).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_interruptions_over_webtransport_are_exact() {
    interruptions(CallTransport::Webtransport).await;
}

/// The value of the `n`th 20 ms of a counted answer: one that µ-law has.
fn counted(n: usize) -> i16 {
    Law::Mu.expand(0xff - (n % COUNT) as u8)
}

/// What is counted to, and how often.
const COUNT: usize = 100;
const ROUNDS: usize = 3;
/// How often it is paused.
const PAUSES: usize = 6;

/// An answer in which each 20 ms have a value of their own, paused at random moments: all of it is heard, once.
async fn pauses(transport: CallTransport) {
    let server = AgentServer::bind().await;
    let daemon = daemon(&server, transport, "barge_in.reversible = true").await;
    let rate = format_of(transport).rate as usize;
    let frame = rate / 50;
    let agent = tokio::spawn(async move {
        let mut link = server.accept().await;
        link.begin().await;
        link.hear_type("app").await;
        link.say(json!({ "type": "turn", "turn": 1, "item": "t-1", "phase": "start" })).await;
        for n in 0..COUNT * ROUNDS {
            link.speak(counted(n).to_le_bytes().repeat(frame).into()).await;
        }
        link.say(json!({ "type": "turn", "turn": 1, "phase": "end" })).await;
        loop {
            match link.hear().await {
                Heard::Control(message) => assert_ne!(message["type"], "interrupt", "it is no interruption"),
                Heard::Audio(_) => {}
                Heard::Closed(..) | Heard::Gone => return,
            }
        }
    });
    let mut phone = Phone::call(&daemon, transport, Start::default()).await;
    phone.say(&app("go")).await;
    let mut rng = StdRng::seed_from_u64(transport as u64);
    let (mut samples, mut flushes, mut generations) = (Vec::new(), 0, HashSet::new());
    let mut next = (None, InterruptAction::Pause);
    let mut ended = false;
    let listening = async {
        while !ended || phone.player.is_playing() {
            samples.extend(phone.played().await.into_iter().flat_map(|(.., samples)| samples));
            let now = phone.now();
            if next.0.take_if(|at| *at <= now).is_some() {
                phone.say(&FromClient::Interrupt(Interrupt { action: Some(next.1), ..Interrupt::default() })).await;
            }
            let soon = now + Duration::from_millis(rng.random_range(100..400));
            match phone.next(next.0.unwrap_or(now + Duration::from_millis(100))).await {
                Came::Said(ToClient::Flush(flush)) => {
                    assert!(flush.pause);
                    flushes += 1;
                    next = (Some(soon), InterruptAction::Resume);
                }
                // It is told again after a gap, too.
                Came::Said(ToClient::Turn(turn)) if turn.phase == TurnPhase::Start => {
                    if !generations.insert(turn.generation) {
                        continue;
                    }
                    next = (Some(soon).filter(|_| flushes < PAUSES), InterruptAction::Pause);
                }
                Came::Said(ToClient::Turn(_)) => ended = true,
                Came::Said(ToClient::Heard(heard)) => panic!("nothing was cut: {heard:?}"),
                _ => {}
            }
        }
    };
    timeout(3 * PATIENCE, listening).await.expect("it does not come to its end");
    samples.extend(phone.played().await.into_iter().flat_map(|(.., samples)| samples));
    phone.hang_up().await;
    agent.await.unwrap();
    assert_eq!((flushes, generations.len()), (PAUSES, PAUSES + 1), "{transport:?}");
    // Silence is what RTP fills pauses with.
    let heard: Vec<i16> =
        samples.into_iter().filter(|sample| *sample != 0 || transport != CallTransport::Webrtc).collect();
    let mut runs: Vec<(i16, usize)> = Vec::new();
    for sample in heard.into_iter().filter(|sample| *sample != 0) {
        match runs.last_mut() {
            Some((value, length)) if *value == sample => *length += 1,
            _ => runs.push((sample, 1)),
        }
    }
    let expected: Vec<i16> = (0..COUNT * ROUNDS).map(counted).filter(|value| *value != 0).collect();
    assert_eq!(
        runs.iter().map(|(value, _)| *value).collect::<Vec<_>>(),
        expected,
        "{transport:?}: what, in which order"
    );
    let worst = runs.iter().map(|(_, length)| length.abs_diff(frame)).max().unwrap();
    let all = runs.iter().map(|(_, length)| length).sum::<usize>().abs_diff(expected.len() * frame);
    println!("{transport:?}: {flushes} pauses, {all} samples too many or too few, {worst} in one place");
    // Positions cross from clock to clock in microseconds.
    assert!(worst <= 2 && all <= 2 * PAUSES, "{transport:?}: {worst}, {all}");
    let resumed = daemon.metric("antiphon_bargein_pauses_total", "outcome=\"resumed\"").await;
    assert_eq!(resumed, PAUSES as f64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_paused_again_and_again_is_heard_whole_and_once_over_each_transport() {
    tokio::join!(
        pauses(CallTransport::Websocket),
        pauses(CallTransport::Webrtc),
        pauses(CallTransport::Quic),
        pauses(CallTransport::Webtransport)
    );
}

/// An agent speaks real speech to a caller without echo cancellation: it comes back 150 ms late and 20 dB lower. Then the
/// caller speaks.
async fn echo_and_voice(transport: CallTransport) {
    let server = AgentServer::bind().await;
    let daemon = daemon(&server, transport, "barge_in.relay = true").await;
    let rate = format_of(transport).rate;
    let frame = rate as usize / 50;
    let voices = utterances(rate);
    let answer: Vec<i16> = [0, 2, 0, 2].iter().flat_map(|n| voices[*n].clip.samples.clone()).collect();
    let near = voices[1].clip.samples.clone();
    let spoken = answer.clone();
    let agent = tokio::spawn(async move {
        let mut link = server.accept().await;
        link.begin().await;
        link.hear_type("app").await;
        link.say(json!({ "type": "turn", "turn": 1, "item": "t-1", "phase": "start" })).await;
        for chunk in spoken.chunks(frame * 5) {
            link.speak(chunk.iter().flat_map(|sample| sample.to_le_bytes()).collect::<Vec<_>>().into()).await;
        }
        loop {
            match link.hear().await {
                Heard::Control(message) if message["type"] == "interrupt" && message["pos"].is_u64() => return,
                Heard::Control(_) | Heard::Audio(_) => {}
                end => panic!("the agent was hung up: {end:?}"),
            }
        }
    });
    let mut phone = Phone::call(&daemon, transport, Start::default()).await;
    phone.say(&app("go")).await;
    // What the speaker plays, by time; frames of the microphone so far; and at which of them the caller was heard.
    let (mut speaker, mut frames, mut flushed, mut heard) = (Vec::new(), 0usize, None, None);
    let place = |at: Micros| (at.0 * u64::from(rate) / 1_000_000) as usize;
    let begins = near.iter().position(|sample| sample.unsigned_abs() > 1_000).unwrap() / frame;
    let calling = async {
        while heard.is_none() {
            for (at, _, samples) in phone.played().await {
                let from = place(at);
                speaker.resize(speaker.len().max(from + samples.len()), 0i16);
                speaker[from..from + samples.len()].copy_from_slice(&samples);
            }
            let due = Micros::from_millis(20 * (frames as u64 + 1));
            if due <= phone.now() {
                let from = place(due.before(Duration::from_millis(170)));
                let echo = (from..from + frame).map(|n| speaker.get(n).copied().unwrap_or(0) / 10);
                let voice = frames.checked_sub(ALONE).and_then(|n| near.get(n * frame..(n + 1) * frame));
                let voice = voice.map_or(vec![0; frame], <[i16]>::to_vec);
                let mixed: Vec<i16> = echo.zip(voice).map(|(echo, voice)| echo.saturating_add(voice)).collect();
                phone.speak(&mixed).await;
                frames += 1;
                continue;
            }
            match phone.next(due).await {
                Came::Said(ToClient::Flush(_)) => flushed = Some(frames),
                Came::Said(ToClient::Heard(figure)) => heard = Some(figure),
                _ => {}
            }
        }
    };
    timeout(2 * PATIENCE, calling).await.unwrap_or_else(|_| panic!("{transport:?}: nobody hears the caller"));
    phone.hang_up().await;
    timeout(PATIENCE, agent).await.expect("the agent is told").unwrap();
    let flushed = flushed.expect("a flush comes before `heard`");
    let after = (flushed as i64 - (ALONE + begins) as i64) * 20;
    println!("{transport:?}: the flush came {after} ms after the voice; {:?}", heard.unwrap());
    assert!(flushed > ALONE + begins, "{transport:?}: its own echo interrupted it after {} ms", flushed * 20);
    assert!(after <= 1_000, "{transport:?}: {after} ms");
    let by_relay = daemon.metric("antiphon_interruptions_total", "by=\"relay\"").await;
    let ignored = daemon.metric("antiphon_bargein_ignored_total", "reason=\"echo\"").await;
    assert_eq!(by_relay, 1.0);
    assert!(ignored >= 1.0, "{transport:?}: the echo was heard, and known for what it is");
}

/// Frames of 20 ms in which there is only the echo.
const ALONE: usize = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_echo_150_ms_late_and_20_db_lower_does_not_interrupt_the_agent_and_a_voice_over_it_does() {
    tokio::join!(echo_and_voice(CallTransport::Websocket), echo_and_voice(CallTransport::Webrtc));
}
