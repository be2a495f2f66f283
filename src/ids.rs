//! Identifiers, each a type of its own.

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(pub Arc<str>);

        impl $name {
            /// The text of the id.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }
        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The id after this one.
            pub const fn next(self) -> Self {
                Self(self.0.wrapping_add(1))
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

text_id!(
    /// One session: one caller's stay in one conversation, over any number of links.
    SessionId
);
text_id!(
    /// A conversation, which may outlive sessions.
    ConversationId
);
text_id!(
    /// An agent's name: the key of its table in the configuration.
    AgentName
);
text_id!(
    /// A route's name.
    RouteName
);
text_id!(
    /// One utterance in the transcript, of either side. The agent's own item ids are kept where it has them.
    ItemId
);
text_id!(
    /// A text message.
    MessageId
);
text_id!(
    /// A tool call.
    CallId
);
number_id!(
    /// A client's connection to a session, numbered within the session.
    LinkId(u32)
);
number_id!(
    /// A session's connection to an agent, numbered within the session.
    UpstreamId(u32)
);
number_id!(
    /// One continuous answer of the agent, numbered from 1 within the session; 0 is no turn.
    TurnId(u32)
);
number_id!(
    /// Counts flushes: audio of an older generation is never sent once a newer one has begun.
    Generation(u32)
);
number_id!(
    /// Numbers the control messages of a session towards its client, from 1.
    Seq(u64)
);
number_id!(
    /// One flush, numbered within the session.
    FlushId(u32)
);
