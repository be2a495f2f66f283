//! What the session says, as server events.

use serde_json::{Value, json};

use super::{Asked, Openai, Outcome, Over, Spoken, TURNS, User, effective};
use crate::agent::{Wire, audio_json};
use crate::ids::TurnId;
use crate::message::{
    AudioOut, Error, ErrorCode, Flush, Heard, Role, Setup, Speech, SpeechEvent, TextMessage, ToClient, ToolCall,
    Transcript, Turn, TurnPhase, Usage,
};

impl Openai {
    pub(super) fn say(&mut self, message: &ToClient) {
        match message {
            ToClient::Audio(audio) => self.say_audio(audio),
            ToClient::Turn(turn) => match turn.phase {
                TurnPhase::Start => self.start_turn(turn),
                TurnPhase::End if self.lost => self.end_turn(turn.turn, Outcome::Failed("agent_failed")),
                TurnPhase::End => self.end_turn(turn.turn, Outcome::Completed),
            },
            ToClient::Flush(flush) => self.say_flush(flush),
            ToClient::Speech(Speech { who: Role::User, event }) => self.say_speech(*event),
            ToClient::Transcript(line) => self.say_transcript(line),
            ToClient::Message(message) => self.say_message(message),
            ToClient::ToolCall(call) => self.say_call(call),
            ToClient::Usage(usage) => self.usage = wire_usage(usage),
            ToClient::Error(error) => self.say_error(error),
            ToClient::InForce(setup) => self.say_in_force(setup),
            ToClient::Heard(heard) => self.say_heard(heard),
            ToClient::Ended(ended) => {
                if let Some(open) = self.open {
                    self.end_turn(open, Outcome::Failed(ended.reason.label()));
                }
            }
            _ => {}
        }
    }

    /// What the session has made of an update, or what an agent did not take of it.
    fn say_in_force(&mut self, setup: &Setup) {
        let changed = self.setup != *setup;
        self.setup = setup.clone();
        let kind = match self.asked.pop_front() {
            Some(Asked::Created) => "session.created",
            Some(Asked::Updated) => "session.updated",
            None if changed => "session.updated",
            Some(Asked::Nothing) | None => return,
        };
        let session = effective::session(&self.id, &self.model, self.carried(), &self.setup);
        self.send(kind, json!({ "session": session }));
    }

    fn say_error(&mut self, error: &Error) {
        let of_setup = error.field.as_deref().is_some_and(|field| field.starts_with("setup."));
        if of_setup && error.code == ErrorCode::NotPermitted && !self.asked.is_empty() {
            return; // Clients send all that they know of; the echo tells them what came of it.
        }
        self.lost |= error.code == ErrorCode::AgentUnavailable && self.open.is_some();
        let kind = match error.code {
            ErrorCode::AgentError | ErrorCode::AgentUnavailable | ErrorCode::Overloaded => "server_error",
            ErrorCode::RateLimited => "rate_limit_error",
            _ => "invalid_request_error",
        };
        let code = error.reason.as_deref().unwrap_or(error.code.label());
        let error = json!({
            "type": kind, "code": code, "message": error.message, "param": error.field, "event_id": null,
        });
        self.send("error", json!({ "error": error }));
    }

    // ---------------------------------------------------------------------------------------------- the caller

    fn say_speech(&mut self, event: SpeechEvent) {
        let ms = self.clock.ms;
        match event {
            SpeechEvent::Started if self.open.is_some() && !self.user.speaking && !self.is_manual() => {
                self.user.over = Some(Over { from_ms: ms, to_ms: None });
            }
            SpeechEvent::Started => self.start_speech(ms),
            SpeechEvent::Stopped => match &mut self.user.over {
                Some(over) => over.to_ms = Some(ms),
                None => self.stop_speech(ms),
            },
        }
    }

    /// The answer is over: what was said into it is told.
    fn tell_over(&mut self) {
        let Some(Over { from_ms, to_ms }) = self.user.over.take() else { return };
        self.start_speech(from_ms);
        if let Some(to_ms) = to_ms {
            self.stop_speech(to_ms);
        }
    }

    fn start_speech(&mut self, from_ms: u64) {
        self.user.over = None;
        if self.user.speaking {
            return;
        }
        if std::mem::take(&mut self.user.implied) {
            self.user.speaking = true; // It has been told.
            return;
        }
        self.hand_over();
        let item = self.items.next_id();
        self.user = User { item: Some(item.clone()), speaking: true, ..User::default() };
        if !self.is_manual() {
            self.send("input_audio_buffer.speech_started", json!({ "audio_start_ms": from_ms, "item_id": item }));
        }
    }

    fn stop_speech(&mut self, to_ms: u64) {
        if !std::mem::take(&mut self.user.speaking) {
            return;
        }
        let Some(item) = self.user.item.clone() else { return };
        if !self.is_manual() {
            self.send("input_audio_buffer.speech_stopped", json!({ "audio_end_ms": to_ms, "item_id": item }));
        }
        self.awaits_agent = true;
        let previous = self.items.last().map(str::to_owned);
        self.send("input_audio_buffer.committed", json!({ "item_id": item, "previous_item_id": previous }));
        let value = json!({
            "id": item, "object": "realtime.item", "type": "message", "status": "completed", "role": "user",
            "content": [{ "type": "input_audio", "transcript": null }],
        });
        self.add_item(&value, true);
    }

    fn say_transcript(&mut self, line: &Transcript) {
        match line.role {
            Role::User => self.say_user_text(line),
            Role::Agent => self.say_agent_text(line),
        }
        self.clock.on_ms(line.end_ms.unwrap_or(line.start_ms));
    }

    fn say_user_text(&mut self, line: &Transcript) {
        let Some(text) = &line.text else {
            self.user.theirs = Some(line.item.clone());
            return;
        };
        if self.typed.take_if(|typed| typed == text).is_some() {
            return; // Some agents report what was typed as if it had been said.
        }
        if self.user.theirs.as_ref().is_some_and(|theirs| *theirs != line.item) && self.user.speaking {
            return; // The text of an earlier utterance, while the next is being spoken.
        }
        if self.user.item.is_none() || self.user.implied {
            // The agent does not tell when the caller speaks.
            self.start_speech(self.user.over.map_or(self.clock.ms, |over| over.from_ms));
        }
        self.user.theirs = Some(line.item.clone());
        let item = self.user.item.clone();
        let place = json!({ "item_id": item, "content_index": 0 });
        let fresh = text.get(self.user.told..).unwrap_or_default();
        if !fresh.is_empty() {
            let mut fields = place.clone();
            fields["delta"] = fresh.into();
            self.send("conversation.item.input_audio_transcription.delta", fields);
            self.user.told = text.len();
        }
        if line.is_final {
            self.stop_speech(self.clock.ms);
            let mut fields = place;
            fields["transcript"] = text.as_str().into();
            fields["usage"] = json!({ "type": "duration", "seconds": 0 });
            if let Some(item) = item {
                self.items.set_transcript(&item, text);
            }
            self.send("conversation.item.input_audio_transcription.completed", fields);
            self.user = User::default();
        }
    }

    // ----------------------------------------------------------------------------------------------- the agent

    fn start_turn(&mut self, turn: &Turn) {
        if self.open == Some(turn.turn) {
            return; // It goes on after a gap.
        }
        if let Some(open) = self.open {
            self.end_turn(open, Outcome::Completed);
        }
        // What was paused and goes on is another answer to a client of this wire: it has dropped the first one.
        let before = self.spoken(turn.turn).map(|spoken| (spoken.text.clone(), spoken.told));
        let item = match &turn.item {
            Some(item) if before.is_none() => item.as_str().to_owned(),
            _ => self.items.next_id(),
        };
        self.open_response(turn.turn, item, turn.pos);
        self.open = Some(turn.turn);
        if let Some((text, told)) = before
            && let Some(spoken) = self.spoken(turn.turn)
        {
            (spoken.text, spoken.told, spoken.rest) = (text, told, true);
        }
        if let Some(text) = self.early.take_if(|(early, _)| *early == turn.turn).map(|(_, text)| text) {
            self.tell_text(turn.turn, &text);
        }
    }

    fn open_response(&mut self, turn: TurnId, item: String, pos: u32) {
        (self.awaits_agent, self.lost) = (false, false);
        self.user.implied = false; // What interrupts from here on has not been told.
        self.responses += 1;
        let response = format!("resp_{}", self.responses);
        let in_progress = self.response(&response, "in_progress", json!([]));
        self.send("response.created", json!({ "response": in_progress }));
        let value = message_item(&item, "in_progress", None);
        self.send("response.output_item.added", json!({ "response_id": response, "output_index": 0, "item": value }));
        self.add_item(&value, false);
        let place = json!({ "response_id": response, "item_id": item, "output_index": 0, "content_index": 0 });
        let mut fields = place;
        fields["part"] = json!({ "type": "audio", "transcript": "" });
        self.send("response.content_part.added", fields);
        if self.turns.len() == TURNS {
            self.turns.pop_front();
        }
        let (text, calls) = (String::new(), Vec::new());
        self.turns.push_back(Spoken { turn, item, response, pos, sent: 0, text, told: 0, rest: false, calls });
    }

    fn response(&self, id: &str, status: &str, output: Value) -> Value {
        json!({
            "object": "realtime.response", "id": id, "status": status, "status_details": null, "output": output,
            "output_modalities": ["audio"], "metadata": null, "usage": null,
        })
    }

    fn say_audio(&mut self, audio: &AudioOut) {
        if !self.count_audio(audio) {
            return;
        }
        self.events += 1;
        let event = self.events;
        let Some(spoken) = self.open.and_then(|turn| self.spoken(turn)) else { return };
        let before = format!(
            "{{\"type\":\"response.output_audio.delta\",\"event_id\":\"event_{event}\",\"response_id\":\"{}\",\
             \"item_id\":{},\"output_index\":0,\"content_index\":0,\"delta\":\"",
            spoken.response,
            Value::from(spoken.item.as_str()),
        );
        self.wires.push_back(Wire::Text(audio_json::encode(&before, &audio.payload, "\"}")));
    }

    /// Audio goes to the client: whether it is of an answer.
    pub(super) fn count_audio(&mut self, audio: &AudioOut) -> bool {
        self.clock.on_time(audio.ready);
        let Some(turn) = self.open else { return false };
        let Some(spoken) = self.turns.iter_mut().rev().find(|spoken| spoken.turn == turn) else { return false };
        spoken.sent += u64::from(audio.ticks);
        if self.beside && self.playing.as_ref() != Some(&spoken.response) {
            let response = spoken.response.clone();
            self.send("output_audio_buffer.started", json!({ "response_id": response }));
            (self.playing, self.cleared) = (Some(response), false);
        }
        true
    }

    /// Nothing plays any more, and this was the client's or the caller's wish.
    pub(super) fn say_cleared(&mut self) {
        self.cleared = true;
        let response = self.playing.take().or_else(|| self.turns.back().map(|spoken| spoken.response.clone()));
        if self.beside {
            self.send("output_audio_buffer.cleared", json!({ "response_id": response }));
        }
    }

    /// Where the relay plays, it knows where the answer was cut.
    fn say_heard(&mut self, heard: &Heard) {
        if !self.beside {
            return;
        }
        let spoken = self.spoken(heard.turn).filter(|spoken| !spoken.rest);
        let Some(item) = spoken.map(|spoken| spoken.item.clone()) else { return };
        let fields = json!({ "item_id": item, "content_index": 0, "audio_end_ms": heard.ms });
        self.send("conversation.item.truncated", fields);
    }

    fn say_agent_text(&mut self, line: &Transcript) {
        let Some(text) = &line.text else { return };
        if line.cut.is_some() || line.heard.is_some() {
            // The client cuts for itself; who asks for the item again gets what was heard of it.
            if let Some(item) = self.spoken(line.turn).map(|spoken| spoken.item.clone()) {
                self.items.set_transcript(&item, text);
            }
            return;
        }
        if self.spoken(line.turn).is_none() {
            self.early = Some((line.turn, text.clone()));
            return;
        }
        self.tell_text(line.turn, text);
    }

    fn tell_text(&mut self, turn: TurnId, text: &str) {
        let open = self.open == Some(turn);
        let Some(spoken) = self.spoken(turn) else { return };
        let goes_on = text.as_bytes().starts_with(&spoken.text.as_bytes()[..spoken.told.min(spoken.text.len())]);
        text.clone_into(&mut spoken.text);
        if !open {
            let item = spoken.item.clone();
            return self.items.set_transcript(&item, text);
        }
        let fresh = text.get(spoken.told..).filter(|fresh| goes_on && !fresh.is_empty()).map(str::to_owned);
        let Some(fresh) = fresh else { return };
        spoken.told = text.len();
        let mut fields = place_of(spoken);
        fields["delta"] = fresh.into();
        self.send("response.output_audio_transcript.delta", fields);
    }

    /// The present answer is over.
    fn end_turn(&mut self, turn: TurnId, outcome: Outcome) {
        if self.open.take_if(|open| *open == turn).is_none() {
            return;
        }
        let Some(spoken) = self.spoken(turn) else { return };
        let (place, text, id) = (place_of(spoken), spoken.text.clone(), spoken.response.clone());
        let calls = std::mem::take(&mut spoken.calls);
        let whole = outcome == Outcome::Completed;
        let item = message_item(&spoken.item, if whole { "completed" } else { "incomplete" }, Some(&text));
        self.send("response.output_audio.done", place.clone());
        let mut fields = place.clone();
        fields["transcript"] = text.as_str().into();
        self.send("response.output_audio_transcript.done", fields);
        let mut fields = place;
        fields["part"] = json!({ "type": "audio", "transcript": text });
        self.send("response.content_part.done", fields);
        self.send("response.output_item.done", json!({ "response_id": id, "output_index": 0, "item": item }));
        self.complete_item(&item);
        let output = std::iter::once(item).chain(calls).collect();
        let (status, details) = outcome.status();
        let mut response = self.response(&id, status, output);
        response["status_details"] = details;
        response["usage"] = self.usage.take();
        self.send("response.done", json!({ "response": response }));
        self.tell_over();
        if !whole {
            self.say_cleared();
        } else if let Some(response) = self.playing.take() {
            self.send("output_audio_buffer.stopped", json!({ "response_id": response }));
        }
    }

    fn say_flush(&mut self, flush: &Flush) {
        self.flush = Some(flush.id);
        let by_client = std::mem::take(&mut self.cancelled);
        let Some(open) = self.open else { return };
        if self.user.over.is_some() {
            self.tell_over();
        } else if !by_client && !self.user.speaking {
            // The client's player stops at this event; whether somebody really speaks, the agent tells later.
            self.user.implied = false;
            self.start_speech(self.clock.ms);
            (self.user.implied, self.user.speaking) = (true, false);
        }
        self.end_turn(open, Outcome::Cancelled(if by_client { "client_cancelled" } else { "turn_detected" }));
    }

    /// A text message of the agent, which is no transcript of speech.
    fn say_message(&mut self, message: &TextMessage) {
        if message.role != Some(Role::Agent) {
            return;
        }
        self.awaits_agent = false;
        let id = message.id.as_str();
        let item = json!({
            "id": id, "object": "realtime.item", "type": "message", "status": "completed", "role": "assistant",
            "content": [{ "type": "output_text", "text": message.text }],
        });
        if self.open.is_some() {
            return self.add_item(&item, true);
        }
        self.responses += 1;
        let response = format!("resp_{}", self.responses);
        let value = self.response(&response, "in_progress", json!([]));
        self.send("response.created", json!({ "response": value }));
        self.send("response.output_item.added", json!({ "response_id": response, "output_index": 0, "item": item }));
        self.add_item(&item, false);
        let place = json!({ "response_id": response, "item_id": id, "output_index": 0, "content_index": 0 });
        for (kind, field) in [("response.output_text.delta", "delta"), ("response.output_text.done", "text")] {
            let mut fields = place.clone();
            fields[field] = message.text.as_str().into();
            self.send(kind, fields);
        }
        self.send("response.output_item.done", json!({ "response_id": response, "output_index": 0, "item": item }));
        self.complete_item(&item);
        let done = self.response(&response, "completed", json!([item]));
        self.send("response.done", json!({ "response": done }));
    }

    /// A tool call is part of the answer that is being given, or else a response of its own.
    fn say_call(&mut self, call: &ToolCall) {
        self.awaits_agent = true;
        if let Some(spoken) = self.open.and_then(|open| self.spoken(open)) {
            let (response, turn, index) = (spoken.response.clone(), spoken.turn, spoken.calls.len() + 1);
            let done = self.tell_call(&response, index, call);
            if let Some(spoken) = self.spoken(turn) {
                spoken.calls.push(done);
            }
            return;
        }
        self.responses += 1;
        let response = format!("resp_{}", self.responses);
        let value = self.response(&response, "in_progress", json!([]));
        self.send("response.created", json!({ "response": value }));
        let done = self.tell_call(&response, 0, call);
        let mut value = self.response(&response, "completed", json!([done]));
        value["usage"] = self.usage.take();
        self.send("response.done", json!({ "response": value }));
    }

    /// Tells a call as an item of a response; gives the item.
    fn tell_call(&mut self, response: &str, index: usize, call: &ToolCall) -> Value {
        let id = self.items.next_id();
        let item = |status: &str, arguments: &str| {
            json!({
                "id": id, "object": "realtime.item", "type": "function_call", "status": status, "name": call.name,
                "call_id": call.call_id.as_str(), "arguments": arguments,
            })
        };
        let begun = item("in_progress", "");
        let fields = json!({ "response_id": response, "output_index": index, "item": begun });
        self.send("response.output_item.added", fields);
        self.add_item(&begun, false);
        let place = json!({
            "response_id": response, "item_id": id, "output_index": index, "call_id": call.call_id.as_str(),
        });
        let mut delta = place.clone();
        delta["delta"] = call.arguments.as_str().into();
        self.send("response.function_call_arguments.delta", delta);
        let mut fields = place;
        (fields["name"], fields["arguments"]) = (call.name.as_str().into(), call.arguments.as_str().into());
        self.send("response.function_call_arguments.done", fields);
        let done = item("completed", &call.arguments);
        self.send("response.output_item.done", json!({ "response_id": response, "output_index": index, "item": done }));
        self.complete_item(&done);
        done
    }
}

fn place_of(spoken: &Spoken) -> Value {
    json!({ "response_id": spoken.response, "item_id": spoken.item, "output_index": 0, "content_index": 0 })
}

fn message_item(id: &str, status: &str, text: Option<&str>) -> Value {
    let content = text.map_or_else(|| json!([]), |text| json!([{ "type": "output_audio", "transcript": text }]));
    json!({
        "id": id, "object": "realtime.item", "type": "message", "status": status, "role": "assistant",
        "content": content,
    })
}

/// The agent's usage where it counts in tokens; `null` where it does not.
fn wire_usage(usage: &Usage) -> Value {
    let amount = |unit: &str| usage.amounts.get(unit).copied().unwrap_or(0.0) as u64;
    let (input_text, input_audio) = (amount("input_text_tokens"), amount("input_audio_tokens"));
    let (output_text, output_audio) = (amount("output_text_tokens"), amount("output_audio_tokens"));
    let cached = (amount("cached_text_tokens"), amount("cached_audio_tokens"));
    let input = input_text + input_audio + cached.0 + cached.1 + amount("input_tokens");
    let output = output_text + output_audio + amount("output_tokens");
    if input + output == 0 {
        return Value::Null;
    }
    json!({
        "total_tokens": input + output, "input_tokens": input, "output_tokens": output,
        "input_token_details": {
            "text_tokens": input_text + cached.0, "audio_tokens": input_audio + cached.1,
            "cached_tokens": cached.0 + cached.1,
        },
        "output_token_details": { "text_tokens": output_text, "audio_tokens": output_audio },
    })
}
