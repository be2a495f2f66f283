//! The states of a conversation and the table of their transitions.

use crate::message::State;

const ALL: [State; 7] = [
    State::Idle,
    State::Listening,
    State::Processing,
    State::Speaking,
    State::WaitingForUser,
    State::Error,
    State::Ended,
];

/// Whether a conversation in `from` may enter `to`: neighbours in the chain idle, listening, processing, speaking,
/// waiting_for_user move both ways; waiting_for_user also returns to listening; any state may enter error and come
/// back; any may end.
pub fn may_enter(from: State, to: State) -> bool {
    use State::*;
    match (from, to) {
        (Ended, _) => false,
        (a, b) if a == b => false,
        (_, Error | Ended) | (Error, _) => true,
        (Idle, Listening) | (Listening, Idle) => true,
        (Listening, Processing) | (Processing, Listening) => true,
        (Processing, Speaking) | (Speaking, Processing) => true,
        (Speaking, WaitingForUser) | (WaitingForUser, Speaking) => true,
        (WaitingForUser, Listening) => true,
        _ => false,
    }
}

/// The state of one conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    state: State,
}

impl Conversation {
    /// The present state.
    pub fn state(self) -> State {
        self.state
    }

    /// Enters `to` in one allowed step.
    ///
    /// # Errors
    /// The present state, if the table does not allow the step; nothing changes then.
    pub fn enter(&mut self, to: State) -> Result<State, State> {
        if !may_enter(self.state, to) {
            return Err(self.state);
        }
        Ok(std::mem::replace(&mut self.state, to))
    }

    /// Walks towards `to` by the shortest allowed way, one step a call; `None` once it is there or there is no way.
    pub fn step_towards(&mut self, to: State) -> Option<(State, State)> {
        let next = first_step(self.state, to)?;
        let from = std::mem::replace(&mut self.state, next);
        Some((from, next))
    }
}

/// The first state on the shortest allowed way, without a detour through `error`.
fn first_step(from: State, to: State) -> Option<State> {
    if from == to {
        return None;
    }
    let mut distance = [u8::MAX; ALL.len()];
    distance[to as usize] = 0;
    for _ in 0..ALL.len() {
        for a in ALL {
            for b in ALL {
                let detour = b == State::Error && to != State::Error;
                if may_enter(a, b) && !detour {
                    distance[a as usize] = distance[a as usize].min(distance[b as usize].saturating_add(1));
                }
            }
        }
    }
    let reachable = |state: &State| {
        may_enter(from, *state)
            && distance[*state as usize] < distance[from as usize]
            && (*state != State::Error || to == State::Error)
    };
    ALL.into_iter().filter(reachable).min_by_key(|state| distance[*state as usize])
}

#[cfg(test)]
mod tests {
    use super::*;
    use State::*;

    #[test]
    fn a_greeting_walks_the_chain() {
        let mut conversation = Conversation::default();
        let mut way = Vec::new();
        while let Some((_, to)) = conversation.step_towards(Speaking) {
            way.push(to);
        }
        assert_eq!(way, [Listening, Processing, Speaking]);
    }

    #[test]
    fn an_interruption_goes_through_waiting_for_user_or_processing() {
        let mut conversation = Conversation { state: Speaking };
        let (_, first) = conversation.step_towards(Listening).unwrap();
        assert!(first == WaitingForUser || first == Processing);
        assert_eq!(conversation.step_towards(Listening), Some((first, Listening)));
        assert_eq!(conversation.step_towards(Listening), None);
    }

    #[test]
    fn a_refused_transition_changes_nothing() {
        let mut conversation = Conversation { state: Idle };
        assert_eq!(conversation.enter(Speaking), Err(Idle));
        assert_eq!(conversation.state(), Idle);
        assert_eq!(conversation.enter(Error), Ok(Idle));
        assert_eq!(conversation.enter(Speaking), Ok(Error));
    }

    #[test]
    fn nothing_follows_the_end() {
        for state in ALL {
            assert!(!may_enter(Ended, state));
            assert_eq!(state == Ended, !may_enter(state, Ended));
        }
    }
}
