//! OpenAI-compatible chat completions (`POST /v1/chat/completions`), the server's side: whole or as a stream of events.
//!
//! What it answers depends on what is asked: it repeats the last message, calls the first tool if that mentions `tool`,
//! and breaks off with an error if it mentions `error`; it writes slowly if it mentions `slowly`.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};

use super::{Answered, Body, VendorArgs, json_answer, not_found};

/// Between two pieces of an answer.
const PACE: Duration = Duration::from_millis(20);
/// The same, for who asks for it.
const SLOW: Duration = Duration::from_millis(400);

/// Answers a request.
pub(super) fn connect(request: &http::request::Parts, body: &Bytes, args: &VendorArgs) -> Answered {
    if !request.uri.path().ends_with("/chat/completions") || request.method != http::Method::POST {
        return Answered::Http(not_found());
    }
    Answered::Http(match serde_json::from_slice::<Value>(body) {
        Ok(asked) => respond(&asked, args),
        Err(error) => refusal("invalid_json", &error.to_string()),
    })
}

fn refusal(code: &str, message: &str) -> http::Response<Body> {
    let error = json!({ "message": message, "type": "invalid_request_error", "param": null, "code": code });
    json_answer(400, &json!({ "error": error }))
}

fn respond(asked: &Value, args: &VendorArgs) -> http::Response<Body> {
    let Some(model) = asked["model"].as_str() else { return refusal("missing_model", "you must provide a model") };
    let Some(messages) = asked["messages"].as_array().filter(|messages| !messages.is_empty()) else {
        return refusal("missing_messages", "`messages` is empty");
    };
    if let Some(orphan) = orphan(messages) {
        return refusal("invalid_messages", &format!("message {orphan} answers no call of a tool"));
    }
    let last = &messages[messages.len() - 1];
    let text = last["content"].as_str().unwrap_or_default();
    let tool = asked["tools"][0]["function"]["name"].as_str();
    let tool = tool.filter(|_| last["role"] == "user" && (text.contains("tool") || args.plays.tool.is_some()));
    let answer = Answer {
        model: model.to_owned(),
        pieces: pieces(last["role"].as_str().unwrap_or_default(), text, messages.len()),
        tool: tool.map(str::to_owned),
        breaks: text.contains("error"),
        pace: if text.contains("slowly") { SLOW } else { PACE },
        usage: asked["stream_options"]["include_usage"] == true,
        prompt_tokens: messages.len() as u64 * 10,
    };
    match asked["stream"] == true {
        true => answer.stream(),
        false => answer.whole(),
    }
}

/// The first message with the result of a tool that nobody called.
fn orphan(messages: &[Value]) -> Option<usize> {
    let called = |before: &[Value], id: &Value| {
        let calls = before.iter().filter_map(|message| message["tool_calls"].as_array()).flatten();
        calls.into_iter().any(|call| call["id"] == *id)
    };
    (0..messages.len())
        .find(|&at| messages[at]["role"] == "tool" && !called(&messages[..at], &messages[at]["tool_call_id"]))
}

fn pieces(role: &str, text: &str, count: usize) -> Vec<String> {
    let verb = if role == "tool" { "the tool says" } else { "you wrote" };
    let whole = format!("{verb}: {text} ({count} messages so far)");
    whole.split_inclusive(' ').map(str::to_owned).collect()
}

struct Answer {
    model: String,
    pieces: Vec<String>,
    tool: Option<String>,
    breaks: bool,
    pace: Duration,
    usage: bool,
    prompt_tokens: u64,
}

impl Answer {
    fn usage(&self) -> Value {
        let written = self.pieces.len() as u64;
        let details = json!({ "cached_tokens": 0 });
        json!({
            "prompt_tokens": self.prompt_tokens, "completion_tokens": written,
            "total_tokens": self.prompt_tokens + written, "prompt_tokens_details": details,
        })
    }

    fn calls(&self) -> Option<Value> {
        let name = self.tool.as_ref()?;
        let function = json!({ "name": name, "arguments": "{\"query\": \"as asked\"}" });
        Some(json!([{ "index": 0, "id": "call_1", "type": "function", "function": function }]))
    }

    fn whole(self) -> http::Response<Body> {
        let (message, reason) = match self.calls() {
            Some(calls) => {
                (json!({ "role": "assistant", "content": null, "refusal": null, "tool_calls": calls }), "tool_calls")
            }
            None => (json!({ "role": "assistant", "content": self.pieces.concat(), "refusal": null }), "stop"),
        };
        let choice = json!({ "index": 0, "message": message, "logprobs": null, "finish_reason": reason });
        let answer = json!({
            "id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": self.model, "choices": [choice],
            "usage": self.usage(),
        });
        json_answer(200, &answer)
    }

    fn chunk(&self, delta: &Value, reason: Option<&str>) -> String {
        let choice = json!({ "index": 0, "delta": delta, "logprobs": null, "finish_reason": reason });
        event(&json!({
            "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": self.model, "choices": [choice],
        }))
    }

    fn events(&self) -> Vec<String> {
        let mut events = vec![self.chunk(&json!({ "role": "assistant", "content": "" }), None)];
        if let Some(calls) = self.calls() {
            let mut begun = calls.clone();
            begun[0]["function"]["arguments"] = "".into();
            events.push(self.chunk(&json!({ "tool_calls": begun }), None));
            let arguments = calls[0]["function"]["arguments"].as_str().unwrap_or_default();
            let (first, rest) = arguments.split_at(arguments.len() / 2);
            for piece in [first, rest] {
                let call = json!({ "index": 0, "function": { "arguments": piece } });
                events.push(self.chunk(&json!({ "tool_calls": [call] }), None));
            }
            events.push(self.chunk(&json!({}), Some("tool_calls")));
        } else {
            let kept = if self.breaks { 2 } else { self.pieces.len() };
            events.extend(self.pieces[..kept].iter().map(|piece| self.chunk(&json!({ "content": piece }), None)));
            if self.breaks {
                let error = json!({ "message": "as asked for", "type": "server_error", "code": "server_error" });
                events.push(event(&json!({ "error": error })));
                return events;
            }
            events.push(self.chunk(&json!({}), Some("stop")));
        }
        if self.usage {
            events.push(event(&json!({
                "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": self.model, "choices": [],
                "usage": self.usage(),
            })));
        }
        events.push("data: [DONE]\n\n".to_owned());
        events
    }

    fn stream(self) -> http::Response<Body> {
        let events = self.events().into_iter();
        let pace = self.pace;
        let frames = futures_util::stream::unfold(events, move |mut events| async move {
            let event = events.next()?;
            tokio::time::sleep(pace).await;
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from(event))), events))
        });
        let mut answer = http::Response::new(StreamBody::new(frames).boxed_unsync());
        let kind = http::HeaderValue::from_static("text/event-stream");
        answer.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        answer
    }
}

fn event(value: &Value) -> String {
    format!("data: {value}\n\n")
}
