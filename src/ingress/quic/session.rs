//! One stream of a client: the control stream of a new session, or audio of one that runs.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::connection::Shared;
use crate::agent::Wire;
use crate::dialect::native::quic::{Flow, Prelude, StreamKind};
use crate::dialect::native::{DEFAULT_AUDIO, Native};
use crate::dialect::{Dialect, Heard};
use crate::ingress::admit::{Caller, Refused};
use crate::ingress::call::{self, Opened};
use crate::ingress::websocket::Head;
use crate::message::{ErrorCode, Start};
use crate::runtime::line::Line;
use crate::runtime::quic::carrier::Stream;
use crate::runtime::quic::link::{Arrived, INBOX, Inbound, Parts, QuicLink};
use crate::runtime::websocket::SocketError;
use crate::telemetry::Refusal;
use crate::time::Micros;

/// From the first byte of a stream to the end of its prelude.
const PRELUDE_DEADLINE: Duration = Duration::from_secs(5);
/// How long an audio stream may wait for the control stream of its flow.
const CONTROL_DEADLINE: Duration = Duration::from_secs(2);
/// Streams that came in the same packets as `start` are looked at before it decides how audio is carried: a stream takes a
/// few turns of its connection's tasks to get here.
const TURNS_FOR_STREAMS: usize = 8;

/// Serves a stream to its end.
pub(super) async fn serve(shared: Arc<Shared>, mut stream: Stream) {
    let refuse = |mut stream: Stream, code: ErrorCode, refusal| {
        shared.node.telemetry.node().record_refusal(refusal);
        stream.recv.stop(code.close_code());
        stream.send.reset(code.close_code());
    };
    let (prelude, read) = match timeout(PRELUDE_DEADLINE, read_prelude(&mut stream)).await {
        Ok(Some(read)) => read,
        Ok(None) => return refuse(stream, ErrorCode::BadMessage, Refusal::BadRequest),
        Err(_) => return refuse(stream, ErrorCode::BadMessage, Refusal::Timeout),
    };
    match prelude.kind {
        StreamKind::Control => control(shared, stream, prelude.flow, read).await,
        StreamKind::Audio => match timeout(CONTROL_DEADLINE, shared.inbox(prelude.flow)).await {
            Ok(inbox) => {
                let inbound = Inbound::AudioStream { stream: Box::new(stream), read };
                if inbox.send(inbound).await.is_err() {
                    shared.node.telemetry.node().record_refusal(Refusal::Gone);
                }
            }
            Err(_) => refuse(stream, ErrorCode::BadMessage, Refusal::BadRequest),
        },
    }
}

/// The prelude, and what was read beyond it; `None` if there is none.
async fn read_prelude(stream: &mut Stream) -> Option<(Prelude, Bytes)> {
    let (mut bytes, mut buffer) = (BytesMut::new(), [0; 1024]);
    loop {
        let count = std::future::poll_fn(|cx| stream.recv.poll_read(cx, &mut buffer)).await.ok()?;
        bytes.extend_from_slice(&buffer[..count]);
        match Prelude::read(&bytes) {
            Ok(Some((prelude, front))) => return Some((prelude, bytes.freeze().slice(front..))),
            Ok(None) if count > 0 => {}
            _ => return None,
        }
    }
}

async fn control(shared: Arc<Shared>, stream: Stream, flow: Flow, read: Bytes) {
    let node = &shared.node;
    let in_force = node.in_force.load_full();
    let opened = node.clock.now();
    let (inbox, inbound) = mpsc::channel(INBOX);
    let place = shared.enter(flow, inbox);
    let mut link = QuicLink::new(Parts {
        control: stream,
        read,
        outlet: shared.carrier.outlet(flow),
        inbound,
        closed: shared.closed.clone(),
        goodbye: shared.goodbye,
        backlog: in_force.settings.http.websocket.max_write_bytes,
        clock: node.clock,
        telemetry: node.telemetry.clone(),
        ssrc: rand::random(),
    });
    let mut dialect = Box::new(Native::new());
    let started = match &place {
        Ok(_) => match timeout(in_force.settings.http.start, first_message(&shared, &mut link, &mut dialect)).await {
            Ok(started) => started.and_then(|start| check_flow(start, flow)),
            Err(_) => {
                let message = format!("no `start` came within {} ms", in_force.settings.http.start.as_millis());
                Err(Refused::new(ErrorCode::BadMessage, message).with(4408, Refusal::Timeout))
            }
        },
        Err(code) => Err(no_place(*code, flow, shared.settings.max_sessions_per_connection)),
    };
    let start = match started {
        Ok(start) => start,
        Err(refused) => return call::refuse(node, Line::Quic(Box::new(link)), dialect, refused).await,
    };
    for _ in 0..TURNS_FOR_STREAMS {
        tokio::task::yield_now().await;
    }
    let mut audio = start.audio.unwrap_or(DEFAULT_AUDIO);
    audio.flow = Some(flow.number());
    let carriage = (shared.carrier.transport(), link.begin(audio));
    let caller = caller(&shared, opened);
    let admission = Box::new(place.ok());
    let opened = Opened { line: Line::Quic(Box::new(link)), dialect, carriage, audio, admission };
    call::run(node, shared.worker.clone(), caller, start, opened).await;
}

/// The handshake belongs to the set-up of the connection's first session.
fn caller(shared: &Shared, opened: Micros) -> Caller {
    let fresh = shared.fresh.swap(false, Relaxed);
    Caller {
        head: Head { address: shared.carrier.remote_address().ip().to_canonical(), ..shared.head.clone() },
        accepted: if fresh { shared.accepted } else { opened },
        tls: fresh.then(|| shared.connected - shared.accepted),
        upgraded: opened,
        opened,
    }
}

async fn first_message(shared: &Shared, link: &mut QuicLink, dialect: &mut Native) -> Result<Start, Refused> {
    loop {
        let wire = match std::future::poll_fn(|cx| link.poll_control(cx)).await {
            Ok(Arrived::Wire(Wire::Close(..))) | Err(SocketError::Lost(_)) => return Err(Refused::gone()),
            Ok(Arrived::Wire(wire)) => wire,
            Ok(_) => continue,
            Err(SocketError::Violation(message)) => return Err(Refused::new(ErrorCode::BadMessage, message)),
        };
        match dialect.handle_wire(wire, shared.node.clock.now()) {
            Some(Heard::Start(start)) => return Ok(start),
            Some(Heard::Malformed { error, .. }) => return Err(Refused::from(error)),
            Some(Heard::Message(_)) => {
                return Err(Refused::new(ErrorCode::BadMessage, "the first message must be `start`".into()));
            }
            Some(Heard::Unknown(_)) | None => {}
        }
    }
}

/// `start.audio.flow`, where it is given, says what the stream says.
fn check_flow(start: Start, flow: Flow) -> Result<Start, Refused> {
    match start.audio.and_then(|audio| audio.flow) {
        Some(other) if other != flow.number() => {
            let message = format!("`audio.flow` in `start` is {other}, but this stream began with flow {flow}");
            Err(Refused::new(ErrorCode::BadMessage, message).field(Some("audio.flow")))
        }
        _ => Ok(start),
    }
}

fn no_place(code: ErrorCode, flow: Flow, most: u32) -> Refused {
    let message = match code {
        ErrorCode::RateLimited => format!("this connection has {most} sessions; open another connection"),
        _ => format!("flow {flow} has a session on this connection; choose another number"),
    };
    Refused::new(code, message).field(Some("audio.flow"))
}
