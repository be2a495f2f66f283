//! The datagrams of one session on their way from its connection's reader.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

/// Bytes that wait at most: 600 ms of PCM at 48 kHz, ten seconds of Opus.
const BOUND: usize = 64 << 10;

/// A bounded queue; what does not fit takes the place of the oldest.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Bytes>,
    bytes: usize,
    dropped: u64,
    waker: Option<Waker>,
}

impl Inbox {
    // Held for a few instructions, by tasks of one thread.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a packet.
    pub fn push(&self, packet: Bytes) {
        let waker = {
            let mut state = self.state();
            state.bytes += packet.len();
            state.queue.push_back(packet);
            while state.bytes > BOUND
                && let Some(oldest) = state.queue.pop_front()
            {
                state.bytes -= oldest.len();
                state.dropped += 1;
            }
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The next packet.
    pub fn poll_pop(&self, cx: &mut Context<'_>) -> Poll<Bytes> {
        let mut state = self.state();
        match state.queue.pop_front() {
            Some(packet) => {
                state.bytes -= packet.len();
                Poll::Ready(packet)
            }
            None => {
                if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    state.waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    /// Packets dropped since the last call.
    pub fn take_dropped(&self) -> u64 {
        std::mem::take(&mut self.state().dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_does_not_read_loses_its_oldest_audio_and_the_loss_is_counted() {
        let inbox = Inbox::default();
        let packet = |number: u8| Bytes::from(vec![number; 8 << 10]);
        (0..10).for_each(|number| inbox.push(packet(number)));
        assert_eq!(inbox.take_dropped(), 2);
        assert_eq!(inbox.take_dropped(), 0);
        let mut cx = Context::from_waker(Waker::noop());
        for number in 2..10 {
            assert_eq!(inbox.poll_pop(&mut cx), Poll::Ready(packet(number)));
        }
        assert_eq!(inbox.poll_pop(&mut cx), Poll::Pending);
    }
}
