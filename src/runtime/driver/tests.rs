//! A driver over a real socket, with a defect in it.

use std::pin::pin;

use futures_util::{SinkExt, StreamExt, poll};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;
use crate::agent::Wire;
use crate::config::settings::Settings;
use crate::dialect::native::{DEFAULT_AUDIO, Native};
use crate::dialect::{Dialect, Heard};
use crate::ids::{Seq, SessionId};
use crate::message::Start;
use crate::route::{RouteRequest, Router};
use crate::runtime::registry::Registry;
use crate::runtime::stream::Stream;
use crate::runtime::websocket::{Bounds, WebSocket};
use crate::session::{Carriage, LinkInfo, SessionParams, Transport};
use crate::telemetry::SessionLabels;

/// Understands nothing: it has a defect.
struct Defective(Native);

impl Dialect for Defective {
    fn handle_wire(&mut self, _: Wire, _: Micros) -> Option<Heard> {
        panic!("a defect")
    }

    fn encode(&mut self, seq: Option<Seq>, message: &ToClient) -> Option<Wire> {
        self.0.encode(seq, message)
    }
}

fn driver(socket: WebSocket, registry: &Arc<Registry>) -> Driver {
    let (clock, telemetry) = (Clock::start(), Telemetry::new());
    let id = SessionId::from("defective");
    let mut request = RouteRequest::new(Transport::Websocket, id.clone());
    request.loopback = true;
    let plan = Arc::new(Router::new(&Settings::default()).route(&request, 0).unwrap());
    let (seat, mailbox) =
        registry.enter(id.clone(), "token".into(), "anonymous".into(), crate::limit::Links::default());
    let info = LinkInfo {
        transport: Transport::Websocket,
        carriage: Carriage::Ordered,
        audio: DEFAULT_AUDIO,
        resume_token: "token".into(),
        have: None,
    };
    let metrics = telemetry.session(SessionLabels {
        transport: Transport::Websocket,
        route: plan.route.clone(),
        agent: plan.rungs[0].name().clone(),
        label: None,
    });
    let params = SessionParams {
        id,
        conversation_id: "conversation".into(),
        plan: plan.clone(),
        start: Start::default(),
        link: info.clone(),
        expires_at: None,
        token_for: None,
        budget: Arc::new(crate::media::playout::Budget::new(u64::MAX / 2)),
        load: Arc::default(),
        meters: crate::limit::Meters::default(),
    };
    let (settings, limiter) = (crate::config::settings::Settings::default(), Arc::new(crate::limit::Limiter::new(10)));
    let (cluster, _) = crate::cluster::Cluster::new(&settings, limiter, clock, telemetry.cluster());
    let around = Surroundings {
        clock,
        pulse: Arc::new(Pulse::new(clock.now())),
        gate: Arc::default(),
        worker: 0,
        timer: Timer::new(clock).unwrap(),
        dialer: Dialer::default(),
        tools: crate::upstream::exchange::Exchanges::on(tokio::runtime::Handle::current()),
        cluster: Arc::new(cluster),
        seat,
        mailbox,
        halt: Arc::default(),
        telemetry,
        metrics,
        ping: Duration::from_secs(15),
        pong: Duration::from_secs(10),
        seed: 1,
        accepted: clock.now(),
        conversation_id: "conversation".into(),
        setup: Setup::default(),
    };
    let dialect = Box::new(Defective(Native::new()));
    let link = NewLink {
        line: crate::runtime::line::Line::WebSocket(socket),
        dialect,
        info,
        worker: 0,
        admission: Box::new(()),
    };
    Driver::new(Session::new(params, clock.now()), plan, link, around)
}

/// A caller's WebSocket, and the relay's end of it.
async fn sockets() -> (WebSocketStream<TcpStream>, WebSocket) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let client = WebSocketStream::from_raw_socket(tcp, Role::Client, None).await;
    let (tcp, _) = listener.accept().await.unwrap();
    (client, WebSocket::accept(Stream::from(tcp), Default::default(), Bounds::CLIENT).await)
}

#[tokio::test]
async fn a_defect_ends_its_session_with_4500_and_leaves_a_record() {
    let (mut client, socket) = sockets().await;
    let registry = Arc::new(Registry::default());
    let running = tokio::spawn(driver(socket, &registry).run());
    client.send(Message::text("{}")).await.unwrap();
    let code = loop {
        match client.next().await.expect("no close frame").unwrap() {
            Message::Close(frame) => break u16::from(frame.unwrap().code),
            _ => continue,
        }
    };
    assert_eq!(code, 4500);
    let finished = running.await.unwrap();
    assert_eq!((finished.reason, finished.record.call.reason), (CloseReason::Bug, CloseReason::Bug));
    assert_eq!(finished.record.call.session_id.as_str(), "defective");
    assert!(registry.is_empty());
}

/// A driver whose worker has not looked at its sockets for 2 ms, and which is told to end.
fn belated(socket: WebSocket, registry: &Arc<Registry>) -> Driver {
    let mut driver = driver(socket, registry);
    driver.around.pulse = Arc::new(Pulse::new(Micros(0)));
    while driver.around.clock.now() < Micros::from_millis(2) {
        std::hint::spin_loop();
    }
    registry.mailboxes()[0].try_send(Mail::Command(Command::End(CloseReason::ClientHangup))).unwrap();
    driver
}

#[tokio::test]
async fn while_its_worker_is_behind_a_session_does_the_rest_when_the_gate_lets_it_through() {
    let (_client, socket) = sockets().await;
    let registry = Arc::new(Registry::default());
    let driver = belated(socket, &registry);
    let (gate, pulse, clock) = (driver.around.gate.clone(), driver.around.pulse.clone(), driver.around.clock);
    let mut keeping = pin!(gate.keep(&pulse, clock));
    assert!(poll!(&mut keeping).is_pending());
    let mut running = pin!(driver.run());
    assert!(poll!(&mut running).is_pending(), "it is held");
    // To the look at the sockets, and on.
    assert!(poll!(&mut keeping).is_pending());
    assert!(poll!(&mut keeping).is_pending());
    assert!(poll!(&mut running).is_ready());
}

#[tokio::test]
async fn a_session_is_held_for_a_frame_at_most_and_that_is_counted() {
    let (_client, socket) = sockets().await;
    let registry = Arc::new(Registry::default());
    let driver = belated(socket, &registry);
    let (gate, clock, telemetry) = (driver.around.gate.clone(), driver.around.clock, driver.around.telemetry.clone());
    let pulse = driver.around.pulse.clone();
    let mut keeping = pin!(gate.keep(&pulse, clock));
    assert!(poll!(&mut keeping).is_pending());
    let mut running = pin!(driver.run());
    let begun = clock.now();
    while poll!(&mut running).is_pending() {}
    assert!(clock.now() - begun >= Duration::from_millis(20));
    assert!(telemetry.render().contains("antiphon_worker_holds_overdue_total 1"));
}
