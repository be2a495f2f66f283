//! Congestion control for calls.
//!
//! A call sends some 50 packets a second whatever the path does: it cannot slow down, only be late. NewReno (RFC 9002
//! section 7) is kept for what is not paced by a call, but its window never falls below what the calls of a connection
//! have in flight on a long path, so that neither slow start nor a few lost packets hold audio back. With the window far
//! above what is sent, quinn's pacer (bursts of 10 packets at once) does not delay either. The rate is bounded by the calls
//! themselves: audio leaves at the pace of the ear, and what is behind that is dropped (RFC 8085 section 3.1.2 allows a
//! fixed rate to applications that bound it).

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use quinn::congestion::{Controller, ControllerFactory, NewRenoConfig};

/// What one call may have in flight: 100 ms of PCM at 24 kHz with its headers, or 600 ms of Opus.
const CALL_BYTES: u64 = 6 << 10;

/// Makes the controllers of a listener.
#[derive(Debug)]
pub struct ForCalls {
    inner: Arc<NewRenoConfig>,
    floor: u64,
}

impl ForCalls {
    /// For connections of at most so many calls.
    pub fn new(calls: u32) -> Arc<ForCalls> {
        let floor = CALL_BYTES * u64::from(calls.max(4));
        let mut inner = NewRenoConfig::default();
        inner.initial_window(floor);
        Arc::new(ForCalls { inner: Arc::new(inner), floor })
    }
}

impl ControllerFactory for ForCalls {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Floored { inner: self.inner.clone().build(now, current_mtu), floor: self.floor })
    }
}

/// A controller whose window has a floor.
struct Floored {
    inner: Box<dyn Controller>,
    floor: u64,
}

impl Controller for Floored {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &quinn_proto::RttEstimator) {
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.inner.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent_congestion: bool, lost_bytes: u64) {
        self.inner.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.inner.window().max(self.floor)
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Floored { inner: self.inner.clone_box(), floor: self.floor })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window().max(self.floor)
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
