//! Why an offer is not answered, before it is put into the words of an endpoint.

use hyper::StatusCode;
use hyper::header;
use serde_json::json;

use super::signalling::with;
use crate::ingress::admit::Refused;
use crate::ingress::http::{self, Answer, busy, problem, refusal};
use crate::ingress::limits;
use crate::ingress::mint::openai_error;
use crate::message::{Error, ErrorCode};

/// Why an offer is not answered.
pub(super) enum Denied {
    /// Admission says no.
    Refused(Box<Refused>),
    /// Something is wrong with the request.
    Request {
        status: StatusCode,
        code: &'static str,
        message: String,
        /// The field that is wrong.
        field: Option<String>,
    },
    /// It has been answered.
    Answered(Box<Answer>),
}

impl Denied {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Denied {
        Denied::Request { status, code, message: message.into(), field: None }
    }

    /// A request with a wrong field.
    pub fn field(name: &str, message: impl Into<String>) -> Denied {
        let (status, code) = (StatusCode::BAD_REQUEST, "bad_message");
        Denied::Request { status, code, message: message.into(), field: Some(name.to_owned()) }
    }

    /// As problem details (RFC 9457).
    pub fn problem(self) -> Answer {
        match self {
            Denied::Refused(refused) => match &refused.error {
                Some(error) => limits::describe(refusal(error), refused.limit.as_deref(), error.retry_after_ms),
                None => problem(StatusCode::BAD_REQUEST, ErrorCode::BadMessage.label(), "not admitted"),
            },
            Denied::Request { status: StatusCode::SERVICE_UNAVAILABLE, code, message, .. } => busy(code, &message),
            Denied::Request { status, code, message, .. } => problem(status, code, &message),
            Denied::Answered(answer) => *answer,
        }
    }

    /// As clients of the Realtime wire read it.
    pub fn openai(self) -> Answer {
        match self {
            Denied::Refused(refused) => {
                let after = refused.error.as_ref().and_then(|error| error.retry_after_ms);
                limits::describe(openai_error(&refused), refused.limit.as_deref(), after)
            }
            Denied::Request { status, code, message, field } => {
                let kind = if status.is_server_error() { "server_error" } else { "invalid_request_error" };
                let error = json!({ "message": message, "type": kind, "code": code, "param": field });
                let answer = http::json(status, "application/json", &json!({ "error": error }));
                match status {
                    StatusCode::METHOD_NOT_ALLOWED => with(answer, header::ALLOW, "POST, OPTIONS"),
                    StatusCode::SERVICE_UNAVAILABLE => with(answer, header::RETRY_AFTER, "5"),
                    _ => answer,
                }
            }
            Denied::Answered(answer) => *answer,
        }
    }
}

impl From<Error> for Denied {
    fn from(error: Error) -> Denied {
        Denied::Refused(Box::new(Refused::from(error)))
    }
}
