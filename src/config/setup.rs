//! The set-up of agents and routes, from raw to checked.

use crate::config::checker::Checker;
use crate::config::raw::RawSetup;
use crate::message::{Greeting, Setup, Tool};

/// Checks a set-up table of an agent or a route.
pub fn setup(at: &[&str], raw: &RawSetup, tools: &[&str], check: &mut Checker<'_>) -> Setup {
    let key = |name: &'static str| -> Vec<&str> { [at, &[name]].concat() };
    let instructions = match (&raw.instructions, &raw.instructions_file) {
        (Some(_), Some(_)) => {
            check.wrong_key(&key("instructions_file"), "`instructions` is given too", "keep one of the two".to_owned());
            None
        }
        (Some(text), None) => Some(text.clone()),
        (None, Some(file)) => check.content(&key("instructions_file"), file),
        (None, None) => None,
    };
    let greeting = raw.greeting.clone().and_then(|greeting| match greeting {
        Greeting::Clip(file) => check.file(&[at, &["greeting", "clip"]].concat(), &file).map(Greeting::Clip),
        other => Some(other),
    });
    for (index, tool) in raw.tools.iter().flatten().enumerate().filter(|(_, tool)| !tools.contains(&tool.as_str())) {
        check.dangling(&[at, &["tools", &index.to_string()]].concat(), "tool", tool, tools.iter().copied());
    }
    let spoken = match &greeting {
        Some(Greeting::Say(text) | Greeting::Prompt(text)) => Some(text),
        _ => None,
    };
    let texts = [
        ("instructions", instructions.as_ref()),
        ("voice", raw.voice.as_ref()),
        ("language", raw.language.as_ref()),
        ("model", raw.model.as_ref()),
        ("greeting", spoken),
    ];
    for (field, text) in texts {
        for placeholder in text.into_iter().flat_map(|text| misspelt_placeholders(text)) {
            let help = "possible: {claim.x} {vars.x} {context.x} {now}".to_owned();
            check.wrong(&key(field), format!("`{{{placeholder}}}` stands for nothing"), help);
        }
    }
    Setup {
        instructions,
        voice: raw.voice.clone(),
        language: raw.language.clone(),
        model: raw.model.clone(),
        greeting,
        transcribe: raw.transcribe,
        turns: raw.turns,
        tools: raw.tools.as_ref().map(|tools| tools.iter().cloned().map(Tool::Named).collect()),
    }
}

/// Placeholders whose first word is nearly one that is known.
fn misspelt_placeholders(text: &str) -> Vec<String> {
    const ROOTS: [&str; 3] = ["claim", "vars", "context"];
    let inner = text.split('{').skip(1).filter_map(|part| part.split_once('}')).map(|(inner, _)| inner);
    let strange = inner.filter(|inner| {
        inner.split_once('.').is_some_and(|(root, rest)| {
            let proper = !rest.is_empty() && rest.chars().all(|c| c.is_alphanumeric() || "._-".contains(c));
            proper && !ROOTS.contains(&root) && ROOTS.iter().any(|known| strsim::levenshtein(root, known) == 1)
        })
    });
    strange.map(str::to_owned).collect()
}
