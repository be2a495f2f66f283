//! Usage as OpenAI Live reports it, in the common units.

use serde_json::Value;

use crate::message::Usage;
use crate::message::usage::without;

/// What a session has used so far, of which the wire tells the sum each time.
#[derive(Debug, Default)]
pub struct Cumulative {
    seconds: f64,
}

impl Cumulative {
    /// A report came: what is new in it.
    pub fn add(&mut self, usage: &Value) -> Option<Usage> {
        let seconds = usage["seconds"].as_f64()?;
        let more = seconds - self.seconds;
        self.seconds = self.seconds.max(seconds);
        Usage::of([("session_seconds", Some(more).filter(|more| *more > 0.0))])
    }
}

/// The tokens of the model behind the session.
pub fn of_backend(usage: &Value) -> Option<Usage> {
    let cached = usage["input_tokens_details"]["cached_tokens"].as_f64();
    Usage::of([
        ("input_text_tokens", without(usage["input_tokens"].as_f64(), cached)),
        ("cached_text_tokens", cached),
        ("output_text_tokens", usage["output_tokens"].as_f64()),
    ])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_a_sum_that_grows_only_what_is_new_is_counted() {
        let mut used = Cumulative::default();
        let mut add =
            |seconds: f64| used.add(&json!({"seconds": seconds})).map(|usage| usage.amounts["session_seconds"]);
        assert_eq!([add(1.5), add(1.5), add(4.0), add(3.0), add(5.0)], [Some(1.5), None, Some(2.5), None, Some(1.0)]);
        assert_eq!(used.add(&json!({})), None);
    }

    #[test]
    fn tokens_that_were_cached_are_told_apart() {
        let usage = json!({"input_tokens": 100, "output_tokens": 7, "input_tokens_details": {"cached_tokens": 60}});
        let amounts = of_backend(&usage).expect("usage").amounts;
        assert_eq!((amounts["input_text_tokens"], amounts["cached_text_tokens"]), (40.0, 60.0));
        assert_eq!(amounts["output_text_tokens"], 7.0);
        assert_eq!(of_backend(&Value::Null), None);
    }
}
