//! Set-up: precedence and templates.

use serde_json::Value;

use crate::message::{Greeting, Setup};

/// The largest `context` that a client may give, in bytes of JSON.
pub const CONTEXT_BYTES: usize = 2048;

/// `base` with every field that `over` names replaced by it.
pub fn overlaid(base: &Setup, over: &Setup) -> Setup {
    Setup {
        instructions: over.instructions.clone().or_else(|| base.instructions.clone()),
        voice: over.voice.clone().or_else(|| base.voice.clone()),
        language: over.language.clone().or_else(|| base.language.clone()),
        model: over.model.clone().or_else(|| base.model.clone()),
        greeting: over.greeting.clone().or_else(|| base.greeting.clone()),
        transcribe: over.transcribe.or(base.transcribe),
        turns: over.turns.or(base.turns),
        tools: over.tools.clone().or_else(|| base.tools.clone()),
    }
}

/// What templates are filled from.
#[derive(Clone, Copy, Debug)]
pub struct Template<'a> {
    /// `{claim.x}`: the token's claims.
    pub claims: &'a Value,
    /// `{vars.x}`: from the pre-call hook.
    pub vars: &'a Value,
    /// `{context.x}`: from the client; control characters are taken out.
    pub context: &'a Value,
    /// `{now}`: Unix time in seconds.
    pub now: u64,
}

impl Template<'_> {
    /// The set-up with every placeholder of instructions, voice, language, model and a spoken greeting filled in.
    pub fn fill_setup(&self, setup: &Setup) -> Setup {
        let fill = |text: &Option<String>| text.as_deref().map(|text| self.fill(text));
        Setup {
            instructions: fill(&setup.instructions),
            voice: fill(&setup.voice),
            language: fill(&setup.language),
            model: fill(&setup.model),
            greeting: setup.greeting.as_ref().map(|greeting| match greeting {
                Greeting::Say(text) => Greeting::Say(self.fill(text)),
                Greeting::Prompt(text) => Greeting::Prompt(self.fill(text)),
                other => other.clone(),
            }),
            ..setup.clone()
        }
    }

    /// The text with `{claim.x}`, `{vars.x}`, `{context.x}` and `{now}` replaced; what is missing becomes empty, other
    /// braces stay, and what was filled in is not looked at again.
    pub fn fill(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            let (before, from_brace) = rest.split_at(open);
            out.push_str(before);
            let value = from_brace[1..].split_once('}').and_then(|(name, after)| Some((self.value(name)?, after)));
            match value {
                Some((value, after)) => {
                    out.push_str(&value);
                    rest = after;
                }
                None => {
                    out.push('{');
                    rest = &from_brace[1..];
                }
            }
        }
        out.push_str(rest);
        out
    }

    fn value(&self, name: &str) -> Option<String> {
        if name == "now" {
            return Some(rfc3339(self.now));
        }
        let (root, path) = name.split_once('.')?;
        let proper = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || "_-".contains(c));
        if !path.split('.').all(proper) {
            return None;
        }
        match root {
            "claim" => Some(lookup(self.claims, path).map(text_of).unwrap_or_default()),
            "vars" => Some(lookup(self.vars, path).map(text_of).unwrap_or_default()),
            "context" => Some(lookup(self.context, path).map(|value| harmless(&text_of(value))).unwrap_or_default()),
            _ => None,
        }
    }
}

/// The value at a dotted path.
pub fn lookup<'a>(root: &'a Value, path: &str) -> Option<&'a Value> {
    root.get(path).or_else(|| path.split('.').try_fold(root, |value, part| value.get(part)))
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Line breaks and tabs become spaces, other control characters vanish.
pub(super) fn harmless(text: &str) -> String {
    text.chars()
        .filter_map(|c| match c {
            '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}' => Some(' '),
            c if c.is_control() => None,
            c => Some(c),
        })
        .collect()
}

/// Unix seconds as RFC 3339 in UTC (days to civil date after Hinnant).
fn rfc3339(unix: u64) -> String {
    let (days, seconds) = (unix / 86_400, unix % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fill(text: &str) -> String {
        let (claims, vars) = (json!({"name": "Ada", "org": {"id": 7}}), json!({"first_name": "{now}"}));
        let context = json!({"mood": "so\nso\u{7}", "list": [1, 2]});
        Template { claims: &claims, vars: &vars, context: &context, now: 1_795_233_600 }.fill(text)
    }

    #[test]
    fn placeholders_are_filled_and_other_braces_stay() {
        assert_eq!(fill("Hi {claim.name} of {claim.org.id}!"), "Hi Ada of 7!");
        assert_eq!(fill(r#"{"a": {claim.missing}} {x} {now"#), r#"{"a": } {x} {now"#);
        assert_eq!(fill("{context.list}{claim.}{"), "[1,2]{claim.}{");
    }

    #[test]
    fn what_was_filled_in_is_not_looked_at_again() {
        assert_eq!(fill("{vars.first_name}"), "{now}");
    }

    #[test]
    fn a_client_cannot_break_lines_in_instructions() {
        assert_eq!(fill("mood: {context.mood}"), "mood: so so");
    }

    #[test]
    fn now_is_a_date_that_people_and_models_read() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(4_107_542_399), "2100-02-28T23:59:59Z");
        assert_eq!(rfc3339(4_107_542_400), "2100-03-01T00:00:00Z");
    }
}
