//! What an agent has said so far, item by item: how much of each was received, and which were cut.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::agent::carry::Carry;
use crate::ids::ItemId;
use crate::media::format::Format;

/// Items that are remembered; older ones were heard to the end long ago.
const REMEMBERED: usize = 32;

#[derive(Debug)]
struct Item {
    id: ItemId,
    content_index: u32,
    bytes: u64,
    cut: bool,
    /// A byte of a sample whose other half is in the next message.
    carry: Carry,
}

/// The items of one agent in one conversation.
#[derive(Debug, Default)]
pub struct Items {
    items: VecDeque<Item>,
}

impl Items {
    /// Takes the audio of a message; gives whole samples, and nothing for an item that was cut.
    pub fn on_audio(&mut self, id: &str, content_index: u32, payload: Bytes, format: &Format) -> Option<Bytes> {
        let index = match self.items.iter().position(|item| item.id.as_str() == id) {
            Some(index) => index,
            None => {
                if self.items.len() == REMEMBERED {
                    self.items.pop_front();
                }
                self.items.push_back(Item {
                    id: id.into(),
                    content_index,
                    bytes: 0,
                    cut: false,
                    carry: Carry::default(),
                });
                self.items.len() - 1
            }
        };
        let item = &mut self.items[index];
        if item.cut {
            return None;
        }
        let width = format.bytes_per_sample().unwrap_or(1);
        let payload = item.carry.align(width, payload);
        item.bytes += payload.len() as u64;
        (!payload.is_empty()).then_some(payload)
    }

    /// The item must not be heard any more.
    pub fn cut(&mut self, id: &ItemId) {
        if let Some(item) = self.items.iter_mut().find(|item| item.id == *id) {
            item.cut = true;
        }
    }

    /// Where to cut an item of which `heard` was heard, in whole milliseconds: its content index, and never more than
    /// was received. `None` if all of it was heard, or if it is not known.
    pub fn truncation(&self, id: &ItemId, heard: Duration, format: &Format) -> Option<(u32, u64)> {
        let item = self.items.iter().find(|item| item.id == *id)?;
        let width = format.bytes_per_sample().unwrap_or(1) as u64;
        let received = format.ticks_to_time(item.bytes / width);
        let ms = heard.min(received).as_millis() as u64;
        (heard < received || item.cut).then_some((item.content_index, ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PCM: Format = Format::pcm16(24_000);

    #[test]
    fn samples_that_are_split_between_messages_are_put_together() {
        let mut items = Items::default();
        let mut heard = Vec::new();
        let audio: Vec<u8> = (0..240).collect();
        for part in audio.chunks(7) {
            heard.extend(items.on_audio("a", 0, Bytes::copy_from_slice(part), &PCM).into_iter().flatten());
        }
        assert_eq!(heard, audio);
    }

    #[test]
    fn a_truncation_never_names_more_than_was_received_and_none_is_needed_when_all_was_heard() {
        let mut items = Items::default();
        items.on_audio("a", 3, Bytes::from(vec![0; 4800 + 26]), &PCM);
        let id = ItemId::from("a");
        let at = |ms| items.truncation(&id, Duration::from_micros(ms), &PCM);
        assert_eq!(at(70_999), Some((3, 70)));
        assert_eq!(at(100_500), Some((3, 100)), "received are 100.54 ms");
        assert_eq!(at(100_600), None);
        assert_eq!(items.truncation(&ItemId::from("b"), Duration::ZERO, &PCM), None);
        items.cut(&id);
        assert_eq!(items.truncation(&id, Duration::from_secs(9), &PCM), Some((3, 100)));
        assert_eq!(items.on_audio("a", 3, Bytes::from_static(&[1, 2]), &PCM), None, "late audio");
    }
}
