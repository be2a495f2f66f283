//! The timers of a session.

use crate::time::TimerName;

/// The timers of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// The agent should be ready by now.
    AgentReady,
    /// The end of `max_s`, or of the caller's token, is near.
    MaxWarning,
    /// One of them is over.
    Max,
    /// Nobody has spoken for long.
    Idle,
    /// Nobody has spoken since the warning.
    IdleGrace,
    /// Nobody came back to the session.
    Resume,
    /// The node's patience is over.
    Drain,
    /// The agent has hung up and its last words should have been played.
    Goodbye,
    /// Another agent should be dialled beside one that is slow.
    Hedge,
    /// The agent should have given a sign of its answer.
    Answer,
    /// A fresh upstream of the agent should be dialled.
    Rollover,
    /// It takes over now at the latest.
    RolloverBy,
    /// The caller has been silent for as long as ends a turn.
    CallerSilent,
    /// A pause of the agent's voice is settled now at the latest.
    Pause,
    /// What was dialled to take over should be ready by now.
    StandbyReady,
    /// All agents should be tried again.
    Redial,
    /// Messages are kept no longer.
    Keep,
}

impl TimerName for Timer {
    const ALL: &'static [Timer] = &[
        Timer::AgentReady,
        Timer::MaxWarning,
        Timer::Max,
        Timer::Idle,
        Timer::IdleGrace,
        Timer::Resume,
        Timer::Drain,
        Timer::Goodbye,
        Timer::Hedge,
        Timer::Answer,
        Timer::Rollover,
        Timer::RolloverBy,
        Timer::CallerSilent,
        Timer::Pause,
        Timer::StandbyReady,
        Timer::Redial,
        Timer::Keep,
    ];
    fn index(self) -> usize {
        self as usize
    }
}

impl Timer {
    /// For traces.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Timer::AgentReady => "agent_ready",
            Timer::MaxWarning => "max_warning",
            Timer::Max => "max",
            Timer::Idle => "idle",
            Timer::IdleGrace => "idle_grace",
            Timer::Resume => "resume",
            Timer::Drain => "drain",
            Timer::Goodbye => "goodbye",
            Timer::Hedge => "hedge",
            Timer::Answer => "answer",
            Timer::Rollover => "rollover",
            Timer::RolloverBy => "rollover_by",
            Timer::CallerSilent => "caller_silent",
            Timer::Pause => "pause",
            Timer::StandbyReady => "standby_ready",
            Timer::Redial => "redial",
            Timer::Keep => "keep",
        }
    }
}
