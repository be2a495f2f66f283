//! The loop of one call: microphone, speaker and control messages on one connection.

use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::{sleep_until, timeout};

use crate::cli::call::carrier::{Arrived, Carrier, NotSent};
use crate::cli::call::meter::EchoMeter;
use crate::cli::call::microphone::{FRAME, MicrophoneSource};
use crate::cli::call::narrator::Narrator;
use crate::cli::call::player::{Player, PlayerOutput};
use crate::cli::call::recorder::Recorder;
use crate::cli::call::report::{Added, Report};
use crate::cli::call::script::{Microphone, Script};
use crate::dialect::native::codec::{self, Decoded};
use crate::media::format::Format;
use crate::message::{AgentStatus, Ended, FromClient, Start, Started, Stats, ToClient};
use crate::time::Micros;

/// How far the speaker plays behind what arrived.
const SPEAKER_BUFFER: Duration = Duration::from_millis(40);
/// How long the relay may take to say `started` and, after `end`, `ended`.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
const END_WAIT: Duration = Duration::from_secs(3);
/// How long one frame may take to be handed over.
const SEND_WAIT: Duration = Duration::from_secs(5);

/// A connection that is open, and what became of `start` meanwhile.
pub struct Called {
    /// The connection.
    pub carrier: Carrier,
    /// When `start` was sent, if it was.
    pub begun: Instant,
    /// What became of it.
    pub progress: Progress,
}

/// What became of `start` while the connection was made.
pub enum Progress {
    /// It has to be sent.
    Unsent,
    /// It was sent; the answer comes on the connection.
    Sent,
    /// It was answered.
    Started(Started),
}

/// One call on an open connection.
pub struct Conversation<'a> {
    carrier: Carrier,
    /// The answer that came before the connection was open.
    progress: Progress,
    /// Media can flow, but the answer to `start` has yet to come.
    waits_since: Option<Micros>,
    format: Format,
    microphone: MicrophoneSource,
    recorder: Recorder,
    narrator: &'a Narrator,
    player: Player,
    script: Script,
    meter: Option<EchoMeter>,
    begun: Instant,
    /// When the next frame of the microphone is due.
    next_frame: Option<Micros>,
    started: Option<Micros>,
    ready: Option<Micros>,
    first_audio: Option<Micros>,
    speech_end: Option<Micros>,
    speaking: bool,
    sent: u64,
    stats: Option<Stats>,
    ended: Option<Ended>,
    last_error: Option<String>,
    hang_up_at: Option<Micros>,
}

impl<'a> Conversation<'a> {
    /// A call that has said nothing yet.
    pub fn new(
        called: Called,
        format: Format,
        microphone: MicrophoneSource,
        recorder: Recorder,
        narrator: &'a Narrator,
    ) -> Conversation<'a> {
        Conversation {
            carrier: called.carrier,
            progress: called.progress,
            waits_since: None,
            format,
            microphone,
            recorder,
            narrator,
            player: Player::new(format, SPEAKER_BUFFER),
            script: Script::default(),
            meter: None,
            begun: called.begun,
            next_frame: None,
            started: None,
            ready: None,
            first_audio: None,
            speech_end: None,
            speaking: false,
            sent: 0,
            stats: None,
            ended: None,
            last_error: None,
            hang_up_at: None,
        }
    }

    /// Speaks, listens, hangs up, and writes what it showed into `report`.
    pub async fn run(mut self, start: &Start, report: &mut Report) {
        let mut failure = match std::mem::replace(&mut self.progress, Progress::Sent) {
            Progress::Started(started) => {
                let now = self.now();
                self.handle_message(ToClient::Started(started), now, report);
                None
            }
            Progress::Sent => {
                self.waits_since = Some(self.now());
                None
            }
            Progress::Unsent => self.start(start).await.err(),
        };
        if failure.is_none() {
            failure = self.converse(report).await.err();
        }
        self.carrier.close().await;
        self.conclude(failure, report);
    }

    async fn start(&mut self, start: &Start) -> Result<(), String> {
        let text = codec::encode_start(start).ok_or("the start message cannot be written as JSON")?;
        self.begun = Instant::now();
        self.send(text).await
    }

    fn now(&self) -> Micros {
        Micros(self.begun.elapsed().as_micros() as u64)
    }

    async fn converse(&mut self, report: &mut Report) -> Result<(), String> {
        let mut interrupt = pin!(tokio::signal::ctrl_c());
        while self.ended.is_none() {
            self.speak().await?;
            self.play().await?;
            self.check_the_end().await?;
            let deadline = tokio::time::Instant::from_std(self.begun + Duration::from_micros(self.deadline().0));
            tokio::select! {
                arrived = self.carrier.next() => self.handle(arrived, report)?,
                () = sleep_until(deadline) => {}
                _ = &mut interrupt => {
                    if self.hang_up_at.is_some() {
                        return Err("stopped before the relay confirmed the end".to_owned());
                    }
                    self.hang_up().await?;
                    interrupt.set(tokio::signal::ctrl_c());
                }
            }
        }
        if self.hang_up_at.is_none() {
            // The relay hung up: what it sent before is still heard.
            let rest = self.now() + self.player.buffered(self.now()) + SPEAKER_BUFFER;
            self.record_until(rest)?;
        }
        Ok(())
    }

    fn deadline(&mut self) -> Micros {
        let now = self.now();
        let player = match self.player.poll(now) {
            PlayerOutput::Idle { deadline } => deadline,
            _ => Some(now),
        };
        let next = [player, self.next_frame, Some(now + Duration::from_millis(100))];
        next.into_iter().flatten().min().unwrap_or(now)
    }

    /// Sends the frames of the microphone that are due.
    async fn speak(&mut self) -> Result<(), String> {
        loop {
            let now = self.now();
            let state = if self.hang_up_at.is_some() { Microphone::Off } else { self.script.microphone(now) };
            if state == Microphone::Off {
                self.next_frame = None;
                return Ok(());
            }
            let due = *self.next_frame.get_or_insert(now);
            if due > now {
                return Ok(());
            }
            let payload = match state {
                Microphone::Speech => match self.microphone.speech().map_err(|error| error.to_string())? {
                    Some(payload) => self.on_speech(payload, now),
                    None => {
                        self.speech_end = Some(now);
                        self.script.handle_speech_end(now);
                        self.narrator.doing("listening");
                        continue;
                    }
                },
                _ => self.microphone.silence().map_err(|error| error.to_string())?,
            };
            self.next_frame = Some(due + FRAME);
            self.sent += 1;
            if let Some(meter) = &mut self.meter {
                let handed_over = Micros(self.begun.elapsed().as_micros() as u64);
                meter.on_sent(payload.clone(), handed_over);
            }
            let sent = timeout(SEND_WAIT, self.carrier.send_audio(payload)).await;
            self.check_sent(sent.ok())?;
        }
    }

    fn on_speech(&mut self, payload: Bytes, now: Micros) -> Bytes {
        if !self.speaking {
            self.speaking = true;
            self.narrator.doing("speaking");
            self.narrator.say_at(now - Micros::ZERO, format_args!("you speak"));
        }
        self.narrator.spoken();
        payload
    }

    /// Sends what the speaker reports and records what it played.
    async fn play(&mut self) -> Result<(), String> {
        loop {
            match self.player.poll(self.now()) {
                PlayerOutput::Idle { .. } => return Ok(()),
                PlayerOutput::Played(played) => self.recorder.record(&played)?,
                PlayerOutput::Send(message) => self.say(&message).await?,
            }
        }
    }

    fn record_until(&mut self, now: Micros) -> Result<(), String> {
        loop {
            match self.player.poll(now) {
                PlayerOutput::Idle { .. } => return Ok(()),
                PlayerOutput::Played(played) => self.recorder.record(&played)?,
                PlayerOutput::Send(_) => {}
            }
        }
    }

    async fn check_the_end(&mut self) -> Result<(), String> {
        let now = self.now();
        let echoed = self.meter.as_ref().is_some_and(EchoMeter::is_complete);
        match self.hang_up_at {
            Some(at) if now > at + END_WAIT => Err(format!("no `ended` came within {} s of `end`", END_WAIT.as_secs())),
            Some(_) => Ok(()),
            None if self.started.is_none() && now > Micros::ZERO + ANSWER_WAIT => {
                Err(format!("no `started` came within {} s of `start`", ANSWER_WAIT.as_secs()))
            }
            None if self.script.is_over(self.player.is_playing(), echoed, now) => self.hang_up().await,
            None => Ok(()),
        }
    }

    async fn hang_up(&mut self) -> Result<(), String> {
        self.hang_up_at = Some(self.now());
        self.narrator.doing("hanging up");
        self.say(&FromClient::Stats).await?;
        self.say(&FromClient::End).await
    }

    async fn say(&mut self, message: &FromClient) -> Result<(), String> {
        match codec::encode_from_client(message) {
            Some(text) => self.send(text).await,
            None => Ok(()),
        }
    }

    async fn send(&mut self, text: String) -> Result<(), String> {
        let sent = timeout(SEND_WAIT, self.carrier.send_message(text)).await;
        self.check_sent(sent.ok())
    }

    /// `None`: it was not taken in time.
    fn check_sent(&self, sent: Option<Result<(), NotSent>>) -> Result<(), String> {
        match sent {
            Some(Ok(())) => Ok(()),
            // The reason stands in what the relay sent before it closed: that is read first.
            Some(Err(NotSent::Closed)) if self.hang_up_at.is_some() => Ok(()),
            Some(Err(NotSent::Closed)) => Err(self.closed("it is closed")),
            Some(Err(NotSent::Failed(how))) => Err(self.closed(&how)),
            None => Err(format!("the relay takes no more audio: a frame waited {} s", SEND_WAIT.as_secs())),
        }
    }

    fn closed(&self, how: &str) -> String {
        match &self.last_error {
            Some(reason) => reason.clone(),
            None => format!("the connection was lost: {how}"),
        }
    }

    fn handle(&mut self, arrived: Arrived, report: &mut Report) -> Result<(), String> {
        let now = self.now();
        match arrived {
            Arrived::Audio { payload, timestamp } => {
                match (&mut self.meter, timestamp) {
                    (Some(meter), Some(_)) => meter.on_heard_rtp(&payload, now),
                    (Some(meter), None) => meter.on_heard(&payload, now),
                    (None, _) => {}
                }
                self.first_audio.get_or_insert(now);
                self.script.handle_audio(now);
                match timestamp {
                    Some(timestamp) => self.player.handle_rtp(payload, timestamp, now),
                    None => self.player.handle_audio(payload, now),
                };
            }
            Arrived::Message(text) => match codec::decode_to_client(&text) {
                Ok(Decoded::Message { message, .. }) => self.handle_message(message, now, report),
                Ok(Decoded::Unknown(_)) => {}
                Err(error) => {
                    self.narrator.say_at(now - Micros::ZERO, format_args!("not understood: {}", error.message))
                }
            },
            Arrived::Nothing => {}
            Arrived::Closed(how) => return Err(self.closed(&how)),
        }
        Ok(())
    }

    fn handle_message(&mut self, message: ToClient, now: Micros, report: &mut Report) {
        // Where the answer came by HTTP, it comes again on the data channel.
        if self.started.is_some() && matches!(message, ToClient::Started(_)) {
            return;
        }
        self.narrator.message(now - Micros::ZERO, &message);
        self.player.handle_message(&message, now);
        self.script.handle_message(&message, now);
        match message {
            ToClient::Started(started) => {
                self.started.get_or_insert(now);
                self.meter = self.script.echo_delay().map(EchoMeter::new);
                report.agent = Some(started.agent.name.to_string());
                report.session_id = Some(started.session_id.to_string());
                if started.audio.uplink != self.format || started.audio.downlink != self.format {
                    self.last_error = Some(format!("the relay answered with other formats than {}", self.format));
                }
            }
            ToClient::Agent(agent) if agent.status == AgentStatus::Ready => _ = self.ready.get_or_insert(now),
            ToClient::Agent(agent) if agent.status == AgentStatus::Down => {
                self.last_error = Some(agent.reason.unwrap_or_else(|| "no agent is available".to_owned()));
            }
            ToClient::Heard(heard) => report.heard.push(heard),
            ToClient::Error(error) => self.last_error = Some(error.text()),
            ToClient::Stats(stats) => self.stats = Some(stats),
            ToClient::Ended(ended) => {
                self.stats = Some(ended.stats);
                self.ended = Some(ended);
            }
            _ => {}
        }
    }

    fn conclude(self, failure: Option<String>, report: &mut Report) {
        let ms = |at: Micros| at.0 as f64 / 1e3;
        let to_micros = |ms: f64| (ms * 1e3).round() / 1e3;
        let stages = &mut report.stages_ms;
        stages.admission = stages.admission.or(self.started.map(ms));
        stages.agent =
            self.waits_since.or(self.started).zip(self.ready).map(|(since, ready)| ms(Micros::ZERO + (ready - since)));
        let each = [stages.endpoints, stages.connect, stages.upgrade, stages.admission, stages.media, stages.agent];
        let sum: f64 = each.iter().flatten().sum();
        report.setup_ms = self.started.map(|_| to_micros(sum));
        report.first_audio_ms = self.first_audio.map(ms);
        let spoken = self.speech_end.map(|end| end.before(self.microphone.trailing_silence()));
        report.answer_ms =
            spoken.zip(self.script.answer_began()).map(|(spoken, answer)| ms(Micros::ZERO + (answer - spoken)));
        report.frames.sent = self.sent;
        report.frames.received = self.player.received_frames();
        if let Some(stats) = self.stats {
            report.added_ms = Some(Added::from(stats.added_ms));
            report.frames.lost = stats.lost;
            report.frames.concealed = stats.concealed_ms / FRAME.as_millis() as u64;
        }
        if let Some(meter) = &self.meter {
            report.rtt_ms = meter.round_trip_ms();
            report.frames.lost = report.frames.lost.max(meter.missing());
        }
        report.ended = self.ended.as_ref().map(|ended| ended.reason.label());
        report.reply_ms = self.recorder.length().as_millis() as u64;
        let written = self.recorder.finish();
        let nothing_heard = (report.frames.received == 0)
            .then(|| self.last_error.clone().unwrap_or_else(|| "the call worked, but no audio came back".to_owned()));
        report.error = failure.or(written.as_ref().err().cloned()).or(nothing_heard);
        report.reply = written.ok().filter(|_| report.reply_ms > 0);
        report.ok = report.error.is_none();
    }
}
