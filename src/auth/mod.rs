//! Who calls, and what they may do: tokens of identity providers (JWT), API keys, and client tokens of our own.
//!
//! Time is an argument, in seconds of Unix time; key sets are fetched, and single uses are counted, elsewhere.
#![deny(clippy::disallowed_methods, clippy::disallowed_macros)]

pub mod api_key;
pub mod client_token;
mod denied;
pub mod jwt;
pub mod keys;
mod principal;
pub mod verifier;

pub use denied::Denied;
pub use principal::{Means, Principal, Scope, SingleUse};
pub use verifier::{Unverified, Use, Verifier};

#[cfg(test)]
mod tests;
