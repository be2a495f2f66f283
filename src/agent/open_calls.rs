//! Tool calls that wait for their results, for vendors whose results repeat what the call said.

use std::collections::VecDeque;

/// Calls that are kept; the oldest is forgotten.
const MOST: usize = 64;

/// Calls without a result, by the vendor's id, each with the `T` that its result repeats.
#[derive(Debug)]
pub(crate) struct OpenCalls<T> {
    calls: VecDeque<(String, T)>,
}

impl<T> Default for OpenCalls<T> {
    fn default() -> OpenCalls<T> {
        OpenCalls { calls: VecDeque::new() }
    }
}

impl<T> OpenCalls<T> {
    pub(crate) fn open(&mut self, id: String, call: T) {
        if self.calls.len() == MOST {
            self.calls.pop_front();
        }
        self.calls.push_back((id, call));
    }

    /// The call that a result belongs to, which is closed by it.
    pub(crate) fn close(&mut self, id: &str) -> Option<T> {
        let at = self.calls.iter().position(|(open, _)| open == id)?;
        self.calls.remove(at).map(|(_, call)| call)
    }

    pub(crate) fn clear(&mut self) {
        self.calls.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_closed_by_its_result_once_and_the_oldest_is_forgotten() {
        let mut calls = OpenCalls::default();
        for n in 0..=MOST {
            calls.open(n.to_string(), n);
        }
        assert_eq!(calls.close("0"), None);
        assert_eq!(calls.close("1"), Some(1));
        assert_eq!(calls.close("1"), None);
    }
}
