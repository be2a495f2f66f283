//! Why a caller is not let in: a closed list, each with its own code on the wire, in metrics and in `docs/errors.md`.

use crate::message::ErrorCode;

/// Why credentials, or what they allow, were not enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{}", self.meaning())]
pub enum Denied {
    /// There are none, and the route asks for them.
    NoCredentials,
    /// Different ones in two places.
    TwoCredentials,
    /// In the query, where the route does not take them.
    Place,
    /// Longer than any token.
    TooLarge,
    /// Neither a token nor a key.
    Malformed,
    /// The header says that there is no signature.
    Unsigned,
    /// Not the algorithm of the key.
    Algorithm,
    /// The key's id is no id.
    KeyId,
    /// No key has this id.
    UnknownKey,
    /// The key set could not be fetched yet.
    KeysUnavailable,
    /// The signature is not the key's.
    Signature,
    /// A claim is missing, or of the wrong type.
    Claims,
    /// Too old.
    Expired,
    /// Not valid yet.
    NotYetValid,
    /// For another service.
    Audience,
    /// By an issuer that is not known.
    Issuer,
    /// It may be used once, and was.
    Used,
    /// No such key.
    UnknownApiKey,
    /// It does not reach this route, agent or endpoint.
    Scope,
    /// Too many failures from this address.
    TooManyFailures,
    /// The pre-call hook refuses.
    Hook,
    /// The pre-call hook could not be asked.
    HookFailed,
}

impl Denied {
    /// Every reason, in the order of the documentation.
    pub const ALL: [Denied; 22] = [
        Denied::NoCredentials,
        Denied::TwoCredentials,
        Denied::Place,
        Denied::TooLarge,
        Denied::Malformed,
        Denied::Unsigned,
        Denied::Algorithm,
        Denied::KeyId,
        Denied::UnknownKey,
        Denied::KeysUnavailable,
        Denied::Signature,
        Denied::Claims,
        Denied::Expired,
        Denied::NotYetValid,
        Denied::Audience,
        Denied::Issuer,
        Denied::Used,
        Denied::UnknownApiKey,
        Denied::Scope,
        Denied::TooManyFailures,
        Denied::Hook,
        Denied::HookFailed,
    ];

    /// `error.reason`, the metric label, and the reason of the close frame.
    pub const fn label(self) -> &'static str {
        match self {
            Denied::NoCredentials => "no_credentials",
            Denied::TwoCredentials => "two_credentials",
            Denied::Place => "token_place",
            Denied::TooLarge => "token_too_large",
            Denied::Malformed => "token_malformed",
            Denied::Unsigned => "token_unsigned",
            Denied::Algorithm => "token_algorithm",
            Denied::KeyId => "token_key_id",
            Denied::UnknownKey => "token_key_unknown",
            Denied::KeysUnavailable => "keys_unavailable",
            Denied::Signature => "token_signature",
            Denied::Claims => "token_claims",
            Denied::Expired => "token_expired",
            Denied::NotYetValid => "token_not_yet_valid",
            Denied::Audience => "token_audience",
            Denied::Issuer => "token_issuer",
            Denied::Used => "token_used",
            Denied::UnknownApiKey => "api_key_unknown",
            Denied::Scope => "token_scope",
            Denied::TooManyFailures => "too_many_failures",
            Denied::Hook => "hook_refused",
            Denied::HookFailed => "hook_failed",
        }
    }

    /// The error that a client is told.
    pub const fn code(self) -> ErrorCode {
        match self {
            Denied::Scope | Denied::Place | Denied::Hook => ErrorCode::Forbidden,
            Denied::TooManyFailures => ErrorCode::RateLimited,
            Denied::KeysUnavailable | Denied::HookFailed => ErrorCode::Overloaded,
            _ => ErrorCode::Unauthorized,
        }
    }

    /// Whether the address that brought it is suspected of guessing.
    pub const fn is_suspicious(self) -> bool {
        matches!(
            self,
            Denied::TooLarge
                | Denied::Malformed
                | Denied::Unsigned
                | Denied::Algorithm
                | Denied::KeyId
                | Denied::UnknownKey
                | Denied::Signature
                | Denied::Claims
                | Denied::Used
                | Denied::UnknownApiKey
        )
    }

    /// What has happened.
    pub const fn meaning(self) -> &'static str {
        match self {
            Denied::NoCredentials => "The route asks for credentials, and none were shown.",
            Denied::TwoCredentials => "Different credentials were shown in two places.",
            Denied::Place => "The token was in the query, and the route does not take it there.",
            Denied::TooLarge => "The token is longer than `auth.max_token_bytes`.",
            Denied::Malformed => "What was shown is neither a token nor a key.",
            Denied::Unsigned => "The token says that it has no signature (`alg` is `none`).",
            Denied::Algorithm => "The token is not signed by the algorithm that belongs to its key.",
            Denied::KeyId => {
                "The token's `kid` is longer than 128 characters, or has others than letters, digits and `-._~+=:`."
            }
            Denied::UnknownKey => "No key of the key sets has the token's `kid`.",
            Denied::KeysUnavailable => "The key set could not be fetched yet.",
            Denied::Signature => "The token's signature is not that of the key.",
            Denied::Claims => "A claim that must be there is missing, or a claim has the wrong type.",
            Denied::Expired => "The token's `exp` has passed.",
            Denied::NotYetValid => "The token's `nbf`, or `iat`, lies in the future.",
            Denied::Audience => "The token's `aud` does not name this service.",
            Denied::Issuer => "The token's `iss` is not one that is trusted here.",
            Denied::Used => "The token may be used once, and was.",
            Denied::UnknownApiKey => "There is no such API key.",
            Denied::Scope => "The credentials do not reach this route, agent or endpoint.",
            Denied::TooManyFailures => "Too many wrong credentials came from this address.",
            Denied::Hook => "The operator's pre-call hook refused the call; `message` has its words.",
            Denied::HookFailed => "The operator's pre-call hook did not answer, and the route needs its answer.",
        }
    }

    /// What to do about it.
    pub const fn remedy(self) -> &'static str {
        match self {
            Denied::NoCredentials => {
                "Send a token: by the header `Authorization: Bearer …`, a subprotocol, or `start.token`."
            }
            Denied::TwoCredentials => "Send one, in one place.",
            Denied::Place => "Send it by header, subprotocol or `start.token`; or set `token_in_query` on the route.",
            Denied::TooLarge => "Put less into the token.",
            Denied::Malformed => {
                "Send a JWT of three parts, a client token that begins with `ek_`, or an API key as it was made."
            }
            Denied::Unsigned | Denied::Algorithm => {
                "Sign the token by the algorithm of its key: HS256, RS256, ES256 or EdDSA."
            }
            Denied::KeyId => "Name the key by a plain id.",
            Denied::UnknownKey => {
                "Sign by a key of the published set; a new key is known within a minute of its first use."
            }
            Denied::KeysUnavailable => {
                "Wait `retry_after_ms`, then connect again; operators look at `antiphon_key_fetches_total`."
            }
            Denied::Signature => "Get a new token; check that the issuer and the key set belong together.",
            Denied::Claims => {
                "Give the token an `exp` in whole or fractional seconds, and the claims that the configuration asks for."
            }
            Denied::Expired => "Get a new token and connect again.",
            Denied::NotYetValid => "Compare the clocks of the issuer and of this node.",
            Denied::Audience => "Get a token for this service: one of `auth.jwt.NAME.audience`.",
            Denied::Issuer => "Get a token from an issuer of `auth.jwt.NAME.issuer`.",
            Denied::Used => "Get a new token for each session.",
            Denied::UnknownApiKey => "Check the key; operators list its hash under `[auth.key.NAME]`.",
            Denied::Scope => "Get a token for what is asked for.",
            Denied::TooManyFailures => "Wait `retry_after_ms`, then connect again with right credentials.",
            Denied::Hook => "Do what the message says, or ask the operator.",
            Denied::HookFailed => {
                "Wait `retry_after_ms`, then connect again; operators look at `antiphon_hook_seconds`."
            }
        }
    }
}
