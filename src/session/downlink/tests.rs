//! What goes out on RTP, frame by frame, in virtual time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Downlink, DownlinkOutput};
use crate::ids::ItemId;
use crate::media::fixture::{correlation, sine, speech};
use crate::media::format::Format;
use crate::media::playout::Budget;
use crate::media::transcode::{Decoder, has_lbrr};
use crate::message::{AgentAudio, AudioOut, Flush};
use crate::route::plan::Policy;
use crate::session::Carriage;
use crate::time::Micros;

const AGENT: Format = Format::pcm16(24_000);
const FRAME: Duration = Duration::from_millis(20);

/// A downlink from an agent that speaks PCM at 24 kHz to a client on RTP.
struct Line {
    downlink: Downlink,
    now: Micros,
    /// What went out and when.
    frames: Vec<(Micros, AudioOut)>,
    flushes: Vec<Flush>,
}

impl Line {
    fn new(client: Format) -> Line {
        let now = Micros::from_millis(1_000);
        let mut downlink = Downlink::new(&Policy::default(), Arc::new(Budget::new(1 << 30)), Arc::default());
        downlink.set_agent(AGENT, false).unwrap();
        downlink.attach(client, Carriage::Rtp, false, now).unwrap();
        Line { downlink, now, frames: Vec::new(), flushes: Vec::new() }
    }

    fn drain(&mut self) {
        while let Some(output) = self.downlink.poll(self.now) {
            match output {
                DownlinkOutput::Audio(audio, _) | DownlinkOutput::Silence(audio) => self.frames.push((self.now, audio)),
                DownlinkOutput::Flush(flush) => self.flushes.push(flush),
                _ => {}
            }
        }
    }

    fn run(&mut self, span: Duration) {
        let until = self.now + span;
        loop {
            self.drain();
            let Some(at) = self.downlink.deadline().filter(|&at| at <= until) else { break };
            self.now = at.max(self.now);
        }
        self.now = until;
    }

    fn says(&mut self, pcm: &[i16]) {
        self.says_as(None, pcm);
    }

    fn says_as(&mut self, item: Option<&str>, pcm: &[i16]) {
        let payload = Bytes::from(pcm.iter().flat_map(|sample| sample.to_le_bytes()).collect::<Vec<_>>());
        let audio = AgentAudio { arrival: self.now, item: item.map(ItemId::from), rtp: None, payload };
        self.downlink.on_audio(audio, self.now);
        self.drain();
    }

    /// What a decoder that has heard everything makes of the frames from `from` on.
    fn heard(&self, format: Format, from: usize) -> Vec<i16> {
        let (mut decoder, mut pcm, mut skipped) = (Decoder::new(format, AGENT.rate).unwrap(), Vec::new(), 0);
        for (index, (_, frame)) in self.frames.iter().enumerate() {
            if index == from {
                skipped = pcm.len();
            }
            decoder.decode(&frame.payload, &mut pcm).unwrap();
        }
        pcm.split_off(skipped)
    }
}

fn loudest(pcm: &[i16]) -> u16 {
    pcm.iter().map(|sample| sample.unsigned_abs()).max().unwrap_or(0)
}

#[test]
fn a_flush_sends_two_coded_silence_frames_and_then_nothing() {
    for format in [Format::OPUS, Format::PCMU, Format::PCMA] {
        let mut line = Line::new(format);
        line.says(&sine(300.0, AGENT.rate, 48_000));
        line.run(Duration::from_millis(500));
        let spoken = line.frames.len();
        assert!((25..=26).contains(&spoken), "{format}: {spoken}");
        line.downlink.interrupt(true, line.now);
        line.run(Duration::from_secs(2));
        assert_eq!(line.flushes.len(), 1);
        let tail = &line.frames[spoken..];
        assert_eq!(tail.len(), 2, "{format}: two frames and nothing more in two seconds");
        assert!(tail.iter().all(|(_, frame)| !frame.marker));
        assert!(tail[1].0 - line.frames[spoken - 1].0 <= FRAME * 3, "{format}: they go out at once");
        let heard = line.heard(format, spoken + 1);
        assert!(loudest(&heard) < 50, "{format}: it has faded out, {}", loudest(&heard));
    }
}

#[test]
fn what_follows_a_flush_bears_the_marker_and_nothing_of_the_old_generation() {
    for format in [Format::OPUS, Format::PCMU] {
        let mut line = Line::new(format);
        line.says(&sine(300.0, AGENT.rate, 48_000));
        line.run(Duration::from_millis(510));
        line.downlink.interrupt(true, line.now);
        line.run(Duration::from_secs(1));
        line.downlink.on_turn_started(None);
        let before = line.frames.len();
        // An encoder that remembers would let its look-ahead out first.
        let answer = [vec![0; 2 * 480], speech(AGENT.rate, 24_000)].concat();
        line.says(&answer);
        line.downlink.on_turn_ended();
        line.run(Duration::from_secs(3));
        let (last, first) = (&line.frames[before - 1].1, &line.frames[before].1);
        assert!(first.marker, "{format}: the spurt begins with the marker");
        assert!(line.frames[before + 1..].iter().all(|(_, frame)| !frame.marker));
        let pause = format.ticks_to_time(u64::from(first.pos.wrapping_sub(last.pos)));
        assert!(pause.abs_diff(line.frames[before].0 - line.frames[before - 1].0) <= FRAME, "{format}: time runs on");
        let heard = line.heard(format, before);
        assert!(loudest(&heard[..600]) < 50, "{format}: {} of the old voice", loudest(&heard[..600]));
        let (likeness, _) = correlation(&answer, &heard, 480);
        assert!(likeness > 0.9, "{format}: {likeness}");
    }
}

#[test]
fn an_answer_is_heard_though_one_of_the_agent_before_it_had_the_same_name_and_was_cut() {
    for item in [Some("answer-2"), None] {
        let mut line = Line::new(Format::PCMU);
        line.says_as(item, &sine(300.0, AGENT.rate, 48_000));
        line.run(Duration::from_millis(500));
        // The next agent takes over while the last one's voice is still heard, and cuts it.
        line.downlink.set_agent(AGENT, false).unwrap();
        line.downlink.interrupt(true, line.now);
        line.run(Duration::from_millis(200));
        let before = line.frames.len();
        line.downlink.on_turn_started(item.map(ItemId::from));
        line.says_as(item, &speech(AGENT.rate, 24_000));
        line.downlink.on_turn_ended();
        line.run(Duration::from_secs(2));
        assert!(line.frames.len() - before >= 50, "{item:?}: {} frames of a second", line.frames.len() - before);
    }
}

#[test]
fn a_voice_that_comes_unevenly_or_slowly_has_no_holes() {
    // Frames of 20 ms: every 21 ms, and in bursts of four, every other one 35 ms late.
    let slowly: fn(u64) -> u64 = |frame| frame * 21;
    let unevenly: fn(u64) -> u64 = |frame| frame / 4 * 80 + if frame / 4 % 2 == 1 { 35 } else { 0 };
    for comes_at in [slowly, unevenly] {
        let mut line = Line::new(Format::PCMU);
        let (begun, voice) = (line.now, sine(300.0, AGENT.rate, 480));
        for frame in 0..200 {
            let at = begun + Duration::from_millis(comes_at(frame));
            line.run(at - line.now);
            line.says(&voice);
        }
        line.run(Duration::from_secs(2));
        let spoken = &line.frames[..200];
        let holes = spoken.windows(2).filter(|pair| pair[1].1.pos != pair[0].1.pos + pair[0].1.ticks).count();
        assert_eq!(holes, 0, "what is only late is not paused");
        assert!(spoken[1..].iter().all(|(_, frame)| !frame.marker));
        let late =
            spoken.iter().zip(0..).map(|((at, _), frame)| *at - (begun + Duration::from_millis(comes_at(frame))));
        assert!(late.max().unwrap() <= Duration::from_millis(120), "nothing is held back for long");
        assert_eq!(line.frames.len(), 202, "it ends as any other does");
    }
}

#[test]
fn redundancy_and_bitrate_follow_what_the_client_reports() {
    let mut line = Line::new(Format::OPUS);
    let voice = speech(AGENT.rate, 24_000);
    let second = |line: &mut Line, loss: f32| {
        let before = line.frames.len();
        line.says(&voice);
        line.run(Duration::from_secs(1));
        line.downlink.on_loss(loss / 100.0, line.now);
        let sent: Vec<_> = line.frames[before..].iter().map(|(_, frame)| frame.payload.clone()).collect();
        (sent.iter().filter(|packet| has_lbrr(packet)).count(), sent.iter().map(Bytes::len).sum::<usize>())
    };
    let (redundant, usual) = second(&mut line, 0.0);
    assert_eq!(redundant, 0, "nothing is lost: no bit is spent");
    second(&mut line, 8.0);
    let (redundant, bytes) = second(&mut line, 8.0);
    assert!(redundant > 20, "{redundant} of 50 packets carry their predecessor");
    assert!(bytes.abs_diff(usual) < usual / 4, "{bytes} and {usual} bytes: at the same bitrate");
    for _ in 0..3 {
        second(&mut line, 30.0);
    }
    let (_, bytes) = second(&mut line, 30.0);
    assert!(bytes < usual * 4 / 5, "less is tried: {bytes} and {usual} bytes");
    for _ in 0..30 {
        second(&mut line, 0.0);
    }
    let (redundant, bytes) = second(&mut line, 0.0);
    assert!(redundant == 0 && bytes.abs_diff(usual) < usual / 20, "all is as before: {redundant}, {bytes} of {usual}");
}
