//! Recorded conversations as seeds: played as they are and damaged, in the crate's own tests; `WRITE_CORPUS=1` writes
//! them for the fuzzer.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{agents, audio, frames, native, realtime};

/// Damaged copies of each seed.
const DAMAGED: u64 = 60;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// `BASE64(N)` and `VOICE(N)` as they stand in recorded conversations.
fn with_audio(text: &str) -> String {
    for (mark, byte) in [("BASE64(", 0u8), ("VOICE(", 0x20)] {
        if let Some((before, rest)) = text.split_once(mark)
            && let Some((count, after)) = rest.split_once(')')
        {
            let audio = vec![byte; count.parse().unwrap_or(0).min(4_800)];
            return format!("{before}{}{after}", STANDARD.encode(audio));
        }
    }
    text.to_owned()
}

/// A line of a recorded conversation as a frame of the input.
fn frame(line: &str) -> Option<(u8, Vec<u8>)> {
    let (mark, text) = line.split_once(' ')?;
    match mark {
        "<" => {
            if let Some(http) = text.strip_prefix("http ") {
                let mut words = http.splitn(3, ' ');
                let id = words.next()?.parse::<u8>().ok()? % 4;
                let (what, rest) = (words.next()?, words.next().unwrap_or_default());
                return Some(match what {
                    "data" => (96 + id, format!("{rest}\n").into_bytes()),
                    "end" => (112 + id, Vec::new()),
                    _ => (120 + id, rest.into()),
                });
            }
            if let Some(digits) = text.strip_prefix("hex ") {
                let byte = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
                return Some((5, (0..digits.len()).step_by(2).map_while(byte).collect()));
            }
            if let Some(count) = text.strip_prefix("bytes ") {
                return Some((5, vec![0; count.parse().ok()?]));
            }
            Some((0, with_audio(text).into_bytes()))
        }
        "@" => {
            let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
            let word = match word {
                "audio" | "silence" => 128,
                "cancel" => 129,
                "message" => 130,
                "tool_result" => 131,
                "truncate" => 132,
                "update" => 134,
                "end" => 135,
                _ => return None,
            };
            Some((word, rest.as_bytes().to_vec()))
        }
        _ => None,
    }
}

/// Each recorded conversation as an input of [`agents::run`], with a name.
fn conversations() -> Vec<(String, Vec<u8>)> {
    let folder = root().join("src/agent/fixtures");
    let mut seeds = Vec::new();
    for kind in std::fs::read_dir(&folder).expect("recorded conversations").flatten() {
        let name = kind.file_name().to_string_lossy().into_owned();
        for file in std::fs::read_dir(kind.path()).expect("a folder").flatten() {
            let text = std::fs::read_to_string(file.path()).expect("a text");
            let which = agents::AGENTS.iter().position(|agent| *agent == name).expect("an agent of each kind");
            let mut seed = vec![which as u8];
            seed.extend(frames::row(text.lines().filter_map(frame)));
            seeds.push((format!("{name}-{}", file.file_name().to_string_lossy()), seed));
        }
    }
    seeds
}

/// What clients of the Realtime wire usually say.
fn clients() -> Vec<(String, Vec<u8>)> {
    let events = [
        r#"{"type":"session.update","event_id":"a","session":{"type":"realtime","instructions":"x","tools":[],"audio":{"input":{"turn_detection":null}}}}"#,
        r#"{"type":"input_audio_buffer.append","audio":"AAAAAAAA"}"#,
        r#"{"type":"input_audio_buffer.commit"}"#,
        r#"{"type":"conversation.item.create","item":{"type":"message","role":"user","content":[{"type":"input_text","text":"hello"}]}}"#,
        r#"{"type":"conversation.item.create","item":{"type":"function_call_output","call_id":"c","output":"4"}}"#,
        r#"{"type":"response.create"}"#,
        r#"{"type":"response.cancel","event_id":"b"}"#,
        r#"{"type":"conversation.item.truncate","item_id":"i","content_index":0,"audio_end_ms":10}"#,
    ];
    let texts = events.iter().map(|text| (0, text.as_bytes().to_vec()));
    let told = [(129, vec![1]), (128, vec![0; 320]), (131, b"yes".to_vec()), (130, vec![1]), (132, Vec::new())];
    vec![("calls.bin".to_owned(), frames::row(texts.clone().chain(told).chain(texts)))]
}

/// What the protocol's page shows, message by message and all together.
fn protocol() -> Vec<(String, Vec<u8>)> {
    let page = std::fs::read_to_string(root().join("docs/protocol.md")).expect("the page");
    let messages: Vec<&str> = page.lines().filter(|line| line.starts_with("{\"type\":")).collect();
    let frame = |text: &&str| (0, text.as_bytes().to_vec());
    let mut seeds = vec![("all".to_owned(), frames::row(messages.iter().map(frame)))];
    seeds.extend(messages.iter().enumerate().map(|(at, text)| (at.to_string(), frames::row([frame(text)]))));
    seeds
}

/// A copy with some of it changed, taken out or repeated; the same for the same number.
fn damaged(seed: &[u8], number: u64) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below.max(1)
    };
    let mut out = seed.to_vec();
    for _ in 0..=next(6) {
        let at = next(out.len());
        match next(4) {
            0 => out[at] = next(256) as u8,
            1 => drop(out.drain(at..(at + next(40)).min(out.len()))),
            2 => {
                let part = out[at..(at + next(200)).min(out.len())].to_vec();
                out.splice(at..at, part);
            }
            _ => out[at] ^= 1 << next(8),
        }
        if out.is_empty() {
            return out;
        }
    }
    out
}

fn play(target: &str, seeds: Vec<(String, Vec<u8>)>, run: fn(&[u8])) {
    assert!(!seeds.is_empty());
    if std::env::var_os("WRITE_CORPUS").is_some() {
        let folder = root().join("fuzz/corpus").join(target);
        std::fs::create_dir_all(&folder).expect("a folder");
        for (name, seed) in &seeds {
            std::fs::write(folder.join(name), seed).expect("written");
        }
    }
    for (_, seed) in seeds {
        run(&seed);
        (0..DAMAGED).for_each(|number| run(&damaged(&seed, number)));
    }
}

#[test]
fn recorded_conversations_with_agents_are_survived_however_they_are_damaged() {
    play("agents", conversations(), agents::run);
}

#[test]
fn messages_of_the_native_protocol_are_survived_however_they_are_damaged() {
    play("native_framing", protocol(), native::run);
}

#[test]
fn what_clients_of_the_realtime_wire_say_is_survived_however_it_is_damaged() {
    play("realtime", clients(), realtime::run);
}

#[test]
fn audio_in_json_is_what_a_tree_of_values_has_it_be() {
    let texts = [r#"{"type":"x","delta":"AAAA","item_id":"i"}"#, r#"{"type":"\u0041","delta":"AA==","b":[{}]}"#];
    play("audio", texts.iter().map(|text| ("text".to_owned(), text.as_bytes().to_vec())).collect(), audio::run);
}
