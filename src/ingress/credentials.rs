//! Where callers show who they are, and what of it is true.

use std::net::IpAddr;
use std::time::Duration;

use hyper::header::{self, HeaderMap};
use secrecy::{ExposeSecret, SecretString};

use super::admit::Refused;
use crate::auth::{Denied, Principal, Use};
use crate::dialect::openai;
use crate::message::{Error, ErrorCode};
use crate::runtime::node::Node;
use crate::telemetry::Refusal;

/// The subprotocol behind which browsers put a token, because they cannot set headers.
const TOKEN_PROTOCOL: &str = "antiphon.token.";
/// The parameter of the query with a token.
const PARAMETER: &str = "token";
/// When a caller may come again who was not let in for a fault that is not its own.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Where a token was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// `Authorization: Bearer …`.
    Header,
    /// Among the subprotocols that are offered.
    Subprotocol,
    /// In the query of the URL.
    Query,
    /// In the first message.
    Message,
}

/// What a request shows of its caller.
#[derive(Clone, Default)]
pub(super) struct Shown(Vec<(Place, SecretString)>);

impl Shown {
    /// What stands in a request's headers and query.
    pub(super) fn of(headers: &HeaderMap, query: Option<&str>) -> Shown {
        let text = |value: &header::HeaderValue| value.to_str().ok().map(str::to_owned);
        let values = headers.get_all(header::AUTHORIZATION).iter().filter_map(text);
        let tokens = values.filter_map(|value| bearer(&value));
        let mut shown = Shown(tokens.map(|token| (Place::Header, token)).collect());
        for offered in headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(text) {
            let tokens = offered.split(',').map(str::trim).filter_map(|name| {
                name.strip_prefix(TOKEN_PROTOCOL).or_else(|| name.strip_prefix(openai::KEY_PROTOCOL))
            });
            shown.0.extend(tokens.map(|token| (Place::Subprotocol, token.to_owned().into())));
        }
        shown.add_query(query);
        shown
    }

    /// What stands in headers that are known by name and value only, and in a query.
    pub(super) fn of_pairs<'h>(headers: impl Iterator<Item = (&'h str, &'h str)>, query: Option<&str>) -> Shown {
        let values = headers.filter(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        let tokens = values.filter_map(|(_, value)| bearer(value));
        let mut shown = Shown(tokens.map(|token| (Place::Header, token)).collect());
        shown.add_query(query);
        shown
    }

    fn add_query(&mut self, query: Option<&str>) {
        let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        let tokens = pairs.filter(|(name, _)| name == PARAMETER);
        self.0.extend(tokens.map(|(_, token)| (Place::Query, token.into_owned().into())));
    }

    /// Whether anything stands in the header: then its client can read an HTTP status.
    pub(super) fn is_in_header(&self) -> bool {
        self.0.iter().any(|(place, _)| *place == Place::Header)
    }

    /// A token that stands in the request, for the node that has to look at it.
    pub(super) fn handed_on(&self) -> Option<String> {
        self.0.first().map(|(_, token)| token.expose_secret().to_owned())
    }

    /// The one token that is shown, in the request or in the first message.
    fn token(&self, first: Option<&str>) -> Result<Option<(Place, SecretString)>, Denied> {
        let first = first.map(|token| (Place::Message, SecretString::from(token.to_owned())));
        let mut all = self.0.iter().cloned().chain(first);
        let Some(one) = all.next() else { return Ok(None) };
        if all.any(|(_, other)| other.expose_secret() != one.1.expose_secret()) {
            return Err(Denied::TwoCredentials);
        }
        Ok(Some(one))
    }
}

/// The token behind the scheme `Bearer` (RFC 6750 section 2.1); other schemes are not ours.
fn bearer(value: &str) -> Option<SecretString> {
    let (scheme, token) = value.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned().into())
}

/// A caller, and where its token was.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) principal: Principal,
    pub(super) place: Option<Place>,
}

/// Who shows this. Where no credentials are configured, nobody's are looked at.
///
/// # Errors
/// Why they are not good. Wrong ones are never taken for none.
pub(super) async fn identify(
    node: &Node,
    address: IpAddr,
    shown: &Shown,
    first: Option<&str>,
    purpose: Use,
) -> Result<Known, Refused> {
    let in_force = node.in_force.load_full();
    let nobody = Known { principal: Principal::anonymous(), place: None };
    if !in_force.settings.auth.is_configured() {
        return Ok(nobody);
    }
    let deny = |why: Denied| denied(node, why);
    let Some((place, token)) = shown.token(first).map_err(deny)? else { return Ok(nobody) };
    if let Err(wait) = in_force.failures.check(address, node.clock.now()) {
        return Err(deny(Denied::TooManyFailures).retry_after(wait));
    }
    let now = node.clock.unix_seconds(Duration::ZERO);
    match in_force.gatekeeper.identify(token.expose_secret(), purpose, now).await {
        Ok(principal) => Ok(Known { principal, place: Some(place) }),
        Err(why) => {
            if why.is_suspicious() {
                let _ = in_force.failures.spend(address, node.clock.now());
            }
            Err(deny(why))
        }
    }
}

/// The refusal for a reason, counted.
pub(super) fn denied(node: &Node, why: Denied) -> Refused {
    node.telemetry.admission().record_denied(why);
    tracing::debug!(reason = why.label(), "a caller was not let in");
    let message = format!("{} {}", why.meaning(), why.remedy());
    let error = Error { reason: Some(why.label().to_owned()), ..Error::new(why.code(), message) };
    let refusal = match why.code() {
        ErrorCode::RateLimited => Refusal::Limit,
        ErrorCode::Overloaded => Refusal::Overload,
        _ => Refusal::Auth,
    };
    let refused = Refused::from(error).with(why.code().close_code(), refusal);
    if why.code().retryable() { refused.retry_after(RETRY_AFTER) } else { refused }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(
        headers: &[(&str, &str)],
        query: Option<&str>,
        first: Option<&str>,
    ) -> Result<Option<(Place, String)>, Denied> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(header::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        let token = Shown::of(&map, query).token(first)?;
        Ok(token.map(|(place, token)| (place, token.expose_secret().to_owned())))
    }

    #[test]
    fn a_token_is_found_wherever_clients_put_it() {
        let found = |place, token: &str| Ok(Some((place, token.to_owned())));
        assert_eq!(shown(&[("authorization", "Bearer t1")], None, None), found(Place::Header, "t1"));
        assert_eq!(shown(&[("authorization", "bearer  t1 ")], None, None), found(Place::Header, "t1"));
        let native = ("sec-websocket-protocol", "antiphon.v1, antiphon.token.t1");
        assert_eq!(shown(&[native], None, None), found(Place::Subprotocol, "t1"));
        let openai = ("sec-websocket-protocol", "realtime,openai-insecure-api-key.ek_1,openai-agents-sdk.1");
        assert_eq!(shown(&[openai], None, Some("ek_1")), found(Place::Subprotocol, "ek_1"));
        assert_eq!(shown(&[], Some("agent=x&token=a%2Bb"), None), found(Place::Query, "a+b"));
        assert_eq!(shown(&[], None, Some("t1")), found(Place::Message, "t1"));
        assert_eq!(shown(&[("authorization", "Basic dTpw")], Some("tokens=x"), None), Ok(None));
    }

    #[test]
    fn two_tokens_must_be_the_same() {
        let header = ("authorization", "Bearer t1");
        assert_eq!(shown(&[header], Some("token=t2"), None), Err(Denied::TwoCredentials));
        assert_eq!(shown(&[header, ("authorization", "Bearer t2")], None, None), Err(Denied::TwoCredentials));
        assert_eq!(shown(&[header], None, Some("t2")), Err(Denied::TwoCredentials));
        assert!(shown(&[header], Some("token=t1"), Some("t1")).is_ok());
    }
}
