//! The embedded story: sentences as Opus packets, with text and word times (`assets/README.md`).

use std::io::Cursor;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use ogg::PacketReader;
use serde::Deserialize;

use crate::message::Word;

/// Length of each packet of the story.
pub const PACKET: Duration = Duration::from_millis(20);

/// One sentence, spoken.
#[derive(Debug)]
pub struct Sentence {
    /// What is said.
    pub text: String,
    /// When each word of it is spoken.
    pub words: Vec<Word>,
    /// The speech, as Opus packets of [`PACKET`].
    pub packets: Vec<Bytes>,
}

impl Sentence {
    /// How long it takes to play.
    pub fn duration(&self) -> Duration {
        PACKET * self.packets.len() as u32
    }
}

/// The story, unpacked once per process. The files are part of the build: a test takes them apart.
pub static STORY: LazyLock<Vec<Sentence>> = LazyLock::new(|| {
    unpack(include_bytes!("../../../assets/story.ogg"), include_str!("../../../assets/story.json"))
        .unwrap_or_else(|reason| unreachable!("embedded story: {reason}"))
});

#[derive(Deserialize)]
struct SpokenText {
    text: String,
    words: Vec<SpokenWord>,
}

#[derive(Deserialize)]
struct SpokenWord {
    text: String,
    start_ms: u64,
    end_ms: u64,
}

fn unpack(ogg: &[u8], json: &str) -> Result<Vec<Sentence>, String> {
    let texts: Vec<SpokenText> = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let streams = streams(ogg)?;
    if streams.len() != texts.len() {
        return Err(format!("{} sentences of speech for {} of text", streams.len(), texts.len()));
    }
    Ok(texts.into_iter().zip(streams).map(|(spoken, (lead, packets))| sentence(spoken, lead, packets)).collect())
}

fn sentence(spoken: SpokenText, lead: Duration, packets: Vec<Bytes>) -> Sentence {
    let at = |ms| Duration::from_millis(ms) + lead;
    let words = spoken.words.into_iter().map(|w| Word { text: w.text, start: at(w.start_ms), end: at(w.end_ms) });
    Sentence { text: spoken.text, words: words.collect(), packets }
}

/// The pre-skip (RFC 7845 section 5.1: 48 kHz samples before the first one of the recording) and the packets of each
/// of the chained streams.
fn streams(ogg: &[u8]) -> Result<Vec<(Duration, Vec<Bytes>)>, String> {
    let mut reader = PacketReader::new(Cursor::new(ogg));
    let mut streams: Vec<(Duration, Vec<Bytes>)> = Vec::new();
    let mut headers = 0;
    while let Some(packet) = reader.read_packet().map_err(|error| error.to_string())? {
        if packet.first_in_stream() {
            let [.., low, high] = packet.data.get(..12).ok_or("short OpusHead")? else { return Err("OpusHead".into()) };
            let skip = u64::from(u16::from_le_bytes([*low, *high]));
            streams.push((Duration::from_micros(skip * 1_000_000 / 48_000), Vec::new()));
            headers = 1;
        } else if headers == 1 {
            headers = 2; // OpusTags
        } else if let Some((_, packets)) = streams.last_mut() {
            packets.push(packet.data.into());
        }
    }
    Ok(streams)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sentence_has_speech_as_long_as_its_words() {
        assert!(STORY.len() >= 8);
        let total: Duration = STORY.iter().map(Sentence::duration).sum();
        assert!((50..=90).contains(&total.as_secs()), "{total:?}");
        for sentence in STORY.iter() {
            assert_eq!(sentence.words.iter().map(|word| word.text.as_str()).collect::<String>(), sentence.text);
            assert!(sentence.words.iter().all(|word| word.start < word.end));
            assert!(sentence.words.windows(2).all(|pair| pair[0].end == pair[1].start));
            let end = sentence.words.last().map(|word| word.end).unwrap_or_default();
            assert!(sentence.duration().abs_diff(end) <= Duration::from_millis(40), "{}", sentence.text);
        }
    }

    #[test]
    fn every_packet_lasts_20_ms_and_is_none_of_dtx() {
        for packet in STORY.iter().flat_map(|sentence| &sentence.packets) {
            assert!(packet.len() > 2);
            assert_eq!(opus::packet::get_nb_samples(packet, 48_000).ok(), Some(960));
        }
    }
}
