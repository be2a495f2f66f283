//! What is wrong with Redis, in one word.

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// It was not reached yet.
    Connecting,
    /// No connection, or a lost one.
    Unreachable,
    /// No answer in time.
    Late,
    /// The password is wrong, or is missing, or does not allow what is needed.
    Auth,
    /// It has no memory left.
    Full,
    /// It is a replica, loads its data, or has lost its cluster.
    NotReady,
    /// It said something else.
    Refused,
}

impl Trouble {
    /// Every kind.
    pub const ALL: [Trouble; 7] = [
        Trouble::Connecting,
        Trouble::Unreachable,
        Trouble::Late,
        Trouble::Auth,
        Trouble::Full,
        Trouble::NotReady,
        Trouble::Refused,
    ];

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Trouble::Connecting => "connecting",
            Trouble::Unreachable => "unreachable",
            Trouble::Late => "late",
            Trouble::Auth => "auth",
            Trouble::Full => "full",
            Trouble::NotReady => "not_ready",
            Trouble::Refused => "refused",
        }
    }

    /// What an error of the client library says.
    pub(super) fn of(error: &RedisError) -> Trouble {
        match (error.kind(), error.code()) {
            _ if error.is_timeout() => Trouble::Late,
            (ErrorKind::AuthenticationFailed, _) | (ErrorKind::Server(ServerErrorKind::NoPerm), _) => Trouble::Auth,
            (_, Some("NOAUTH" | "WRONGPASS")) => Trouble::Auth,
            (_, Some("OOM" | "MISCONF")) => Trouble::Full,
            (
                ErrorKind::Server(
                    ServerErrorKind::BusyLoading
                    | ServerErrorKind::ReadOnly
                    | ServerErrorKind::MasterDown
                    | ServerErrorKind::ClusterDown
                    | ServerErrorKind::TryAgain
                    | ServerErrorKind::Moved
                    | ServerErrorKind::Ask,
                ),
                _,
            ) => Trouble::NotReady,
            (ErrorKind::Server(_), _) if error.to_string().contains("OOM") => Trouble::Full,
            (ErrorKind::Server(_) | ErrorKind::Extension, _) => Trouble::Refused,
            (ErrorKind::MasterNameNotFoundBySentinel, _) => Trouble::NotReady,
            _ => Trouble::Unreachable,
        }
    }

    /// Whether another connection may help.
    pub(super) const fn needs_another_connection(self) -> bool {
        !matches!(self, Trouble::Full | Trouble::Refused)
    }
}
