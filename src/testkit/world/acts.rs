//! What a test makes happen.

use std::time::Duration;

use super::{Up, World, link_info};
use crate::ids::CallId;
use crate::message::{AgentAudio, AgentError, FailureClass, FromAgent, FromClient, RtpMeta};
use crate::session::{Command, LinkChange, ToolAnswer, UpstreamChange};
use crate::testkit::client::Client;

impl World {
    /// The agent speaks `span` of PCM16 whose samples all are `value`, in one burst of 100 ms chunks.
    pub fn agent_speaks(&mut self, span: Duration, value: i16, item: Option<&str>) {
        let mut left = self.formats_of(self.upstream).1.bytes_in(span).expect("a scripted agent speaks PCM") / 2;
        while left > 0 {
            let samples = left.min(2_400);
            left -= samples;
            let payload = value.to_le_bytes().repeat(samples).into();
            let audio = AgentAudio { arrival: self.now, item: item.map(Into::into), rtp: None, payload };
            self.agent_says(FromAgent::Audio(audio));
        }
    }

    /// The client says something now; it crosses the network.
    pub fn client_says(&mut self, message: FromClient) {
        self.up.send(Up::Message(self.link, message), self.now);
    }

    /// The client sends an audio frame now.
    pub fn client_sends(&mut self, rtp: Option<RtpMeta>, payload: bytes::Bytes) {
        self.up.send(Up::Audio(self.link, rtp, payload), self.now);
    }

    /// A tool that was run by HTTP answers.
    pub fn tool_answers(&mut self, call: &CallId, status: u16, body: &'static str) {
        self.session.on_tool(call, &ToolAnswer::Answered { status, body: body.into() }, self.now);
        self.drain();
    }

    /// The operator wants something.
    pub fn command(&mut self, command: Command) {
        self.session.on_command(command, self.now);
        self.drain();
    }

    /// The next `dials` fail.
    pub fn refuse_dials(&mut self, dials: u32) {
        self.refused_dials = dials;
    }

    /// The client takes nothing from the network for `span`.
    pub fn stall_client(&mut self, span: Duration) {
        self.down.held_until = self.now + span;
        self.client.received_since_stall = 0;
    }

    /// The link breaks; what is under way is lost.
    pub fn lose_link(&mut self) {
        self.up.cut();
        self.down.cut();
        self.session.on_link(self.link, LinkChange::Lost, self.now);
        self.drain();
    }

    /// A new link takes over, of a client that has messages up to `have`.
    pub fn resume(&mut self, have: Option<u64>) {
        self.tokens += 1;
        self.link = self.session.next_link();
        self.client = Client::new(self.build.client, self.build.formats.1, self.now);
        let info = link_info(&self.build, self.tokens, have);
        self.session.on_link(self.link, LinkChange::Attached(info), self.now);
        self.drain();
    }

    /// The agent's connection breaks.
    pub fn lose_agent(&mut self) {
        let error = AgentError { class: FailureClass::Lost, code: None, message: "reset".into() };
        self.session.on_upstream(self.upstream, UpstreamChange::Failed(error), self.now);
        self.drain();
    }
}
