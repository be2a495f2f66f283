//! Limits at admission: a call is counted before it costs anything, and told when it may come again.

use std::net::IpAddr;

use hyper::header::{HeaderName, HeaderValue};

use super::admit::Refused;
use super::http::Answer;
use crate::limit::{Address, Ask, Grant, Kind, Limit, Refusal, Standing, Subject};
use crate::message::{Error, ErrorCode};
use crate::route::plan::Plan;
use crate::runtime::node::{InForce, Node};

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// Whom a call is counted against.
pub(super) struct Caller<'a> {
    pub(super) user: Option<&'a str>,
    pub(super) tenant: Option<&'a str>,
    pub(super) address: IpAddr,
}

/// Everything that a call is counted by.
pub(super) fn ask(node: &Node, in_force: &InForce, plan: &Plan, caller: &Caller<'_>) -> Ask {
    if plan.limits.is_empty() {
        return Ask::default();
    }
    let subject = Subject {
        user: caller.user,
        tenant: caller.tenant,
        address: address(caller.address),
        route: plan.route.as_str(),
        agent: plan.rungs[0].name().as_str(),
    };
    in_force.limits.of(&plan.limits, &subject, &node.limiter, node.clock.now())
}

/// Takes what a call needs to begin.
///
/// # Errors
/// What the client is told, and when it may come again.
pub(super) async fn take(node: &Node, ask: &Ask) -> Result<Grant, Refused> {
    let mut told = node.cluster.introduce(ask).await;
    if told && ask.short(node.clock.now()).next().is_some() {
        // Whoever was slow to take its seat may find that it was given back, or that another one took it.
        told = node.cluster.introduce(ask).await;
    }
    ask.take(told, node.clock.now()).map_err(Refused::limited)
}

fn address(ip: IpAddr) -> Address {
    match ip.to_canonical() {
        IpAddr::V4(address) => Address::V4(address.to_bits()),
        IpAddr::V6(address) => Address::V6(address.to_bits()),
    }
}

impl Refused {
    /// A limit is reached.
    pub(super) fn limited(refusal: Refusal) -> Refused {
        let after = Some(refusal.retry_after.as_millis() as u64);
        let text = refusal.to_string();
        let error = Error { retryable: true, retry_after_ms: after, ..Error::new(ErrorCode::RateLimited, text) };
        Refused { limit: Some(refusal.limit), ..Refused::from(error) }
    }
}

/// Tells in headers which limit the client has met (draft-ietf-httpapi-ratelimit-headers).
pub(super) fn describe(answer: Answer, limit: Option<&Limit>, retry_after_ms: Option<u64>) -> Answer {
    let Some(limit) = limit.filter(|limit| is_shown(limit)) else { return answer };
    let after = retry_after_ms.map(|ms| format!(";t={}", ms.div_ceil(1000))).unwrap_or_default();
    with_headers(answer, policy_of(limit), format!("\"{}\";r=0{after}", limit.name))
}

/// Tells in headers what is left to a client that was let in, of each limit that counts it.
pub(super) fn describe_standings(answer: Answer, standings: &[Standing]) -> Answer {
    let shown = || standings.iter().filter(|standing| is_shown(&standing.limit));
    if shown().next().is_none() {
        return answer;
    }
    let left = |standing: &Standing| {
        let after = standing.full_after.as_millis().div_ceil(1000);
        let after = if after > 0 { format!(";t={after}") } else { String::new() };
        format!("\"{}\";r={}{after}", standing.limit.name, standing.left)
    };
    let policies: Vec<String> = shown().map(|standing| policy_of(&standing.limit)).collect();
    let lefts: Vec<String> = shown().map(left).collect();
    with_headers(answer, policies.join(", "), lefts.join(", "))
}

/// Whether its name can stand in a header's string (RFC 9651 section 3.3.3).
fn is_shown(limit: &Limit) -> bool {
    limit.name.bytes().all(|b| b.is_ascii_graphic() && !b"\"\\".contains(&b))
}

fn policy_of(limit: &Limit) -> String {
    let (name, settings) = (&limit.name, &limit.settings);
    match (limit.kind, settings.per) {
        (Kind::Rate(_), Some(per)) => format!("\"{name}\";q={};w={}", settings.amount.ceil(), per.as_secs()),
        _ => format!("\"{name}\";q={};qu=\"concurrent-requests\"", settings.amount),
    }
}

fn with_headers(mut answer: Answer, policy: String, left: String) -> Answer {
    for (header, value) in [(POLICY, policy), (LIMIT, left)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            answer.headers_mut().insert(header, value);
        }
    }
    answer
}
