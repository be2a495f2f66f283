//! What each kind of vendor's agent rests on: which wire, whose library has verified the emulator, and whether the
//! vendor itself was called. `check`, the banner and the documentation say it.

use std::fmt::Write;

use crate::agent::setup;
use crate::config::vendor::VendorKind;
use crate::message::usage::UNITS;

/// What a kind rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The version of the wire.
    pub wire: &'static str,
    /// The vendor's own libraries, with their versions, that hold full sessions with the emulator; `None`: there is
    /// none.
    pub verified_by: Option<&'static str>,
    /// What is built from documents alone, because no library shows it: the kind is experimental; `None`: nothing is.
    pub from_documents: Option<&'static str>,
    /// When the vendor itself was called; `None`: not yet.
    pub live: Option<&'static str>,
}

/// What `kind` rests on.
pub const fn of(kind: VendorKind) -> Standing {
    let from_documents = match kind {
        VendorKind::Live => Some(
            "that its voice is one stream at the pace of speech, silence included, and what its model makes of texts, \
             are known from documents alone",
        ),
        _ => None,
    };
    let (wire, verified_by) = match kind {
        VendorKind::Openai => ("Realtime, GA, WebSocket", Some("openai==3.51.0, openai-agents==0.24.0")),
        VendorKind::Live => ("Live (GPT-Live), WebSocket", Some("openai==3.51.0")),
        VendorKind::Elevenlabs => ("Conversational AI v1, WebSocket", Some("elevenlabs==2.78.0")),
        VendorKind::Deepgram => ("Voice Agent v1, WebSocket", Some("deepgram-sdk==7.16.0")),
        VendorKind::Gemini => ("Live API v1beta, WebSocket", Some("google-genai==3.3.0")),
        VendorKind::Pipecat => {
            ("protobuf frames and RTVI 2.2, WebSocket", Some("pipecat-ai[silero,websocket]==1.14.0"))
        }
        VendorKind::Chat => ("chat completions with SSE, HTTP", Some("openai==3.51.0")),
    };
    Standing { wire, verified_by, from_documents, live: None }
}

/// Why a kind is experimental, if it is.
pub const fn experimental(kind: VendorKind) -> Option<&'static str> {
    match of(kind) {
        Standing { from_documents: Some(what), .. } => Some(what),
        Standing { verified_by: None, .. } => Some("it is built from the vendor's documents alone"),
        _ => None,
    }
}

/// The table of the README.
pub fn table() -> String {
    let mut out = "| `kind` | Wire | Its emulator is verified by | Called live |\n|---|---|---|---|\n".to_owned();
    for kind in VendorKind::ALL {
        let Standing { wire, verified_by, live, .. } = of(kind);
        let mut verified = verified_by.map_or("nobody".to_owned(), |by| format!("`{by}`").replace(", ", "`, `"));
        if experimental(kind).is_some() {
            verified += "; **experimental**";
        }
        let _ = writeln!(out, "| `{}` | {wire} | {verified} | {} |", kind.label(), live.unwrap_or("**not yet**"));
    }
    out
}

/// How an entry of a kind's table begins that is no field of the wire.
const WORDS: &[&str] = &["always", "a first ", "the first "];

/// What becomes of a call when something goes wrong at its vendor; the emulators play each of these.
const WHAT_GOES_WRONG: &str = "
## What goes wrong at a vendor

`antiphon emulate KIND` plays each of these, by options or by a TOML file of the same names (`--script FILE`);
`antiphon emulate KIND --help` lists them.

| At the vendor | Option | What becomes of the call |
|---|---|---|
| Speech comes faster than it is spoken, or all at once | `--pace 4`, `--pace 0` | It is kept, and heard at its own pace |
| Messages of any size, samples cut in two | `--chunk-bytes 3001,640,1` | Put together again |
| Nothing is read or written for a while | `--stall-at-ms`, `--stall-s` | It waits; after the route's `answer_within_ms` the next agent takes over |
| Speech still comes after an interruption | `--late-audio-ms` | Dropped, and counted |
| Events come twice, audio apart | `--duplicate` | Heard once where events have numbers (`openai`, `live`), as are tool calls by their id everywhere; a piece of \
text of `gemini` stands twice |
| An error that ends nothing | `--errors` | Told to the client as `agent_error` |
| The handshake is refused | `--refuse 503` | The next agent takes over, or the call ends: [`docs/errors.md`](errors.md#failures-of-agents-agentreason) |
| The connection is closed in the middle of a word | `--close-at-ms`, `--close-code 1011` | The same; with code 1000 the vendor has hung up, \
and the call ends when its words were heard. A `gemini` session goes on over another connection, by its handle |
| The session has become too old | `--expire-s` | A fresh one takes over before (`session_max_s`); otherwise as a failure of class `expired`. A `pipecat` bot \
just hangs up |
| The end is announced | `--go-away-s` | `gemini`: the session goes on over another connection before. The others announce nothing |
";

/// The Markdown text of `docs/agents.md`.
pub fn page() -> String {
    let mut out = String::from(
        "# Agents of vendors\n\nThis page is written from the code; a test fails when the two differ.\n\n\
         Each kind maps the neutral `setup` onto its wire. What it does not support has no effect, and `antiphon check` \
         says so; what a vendor refuses in a call is in the call record (`not_applied`). `vendor` is merged into the \
         vendor's first message as it stands. `antiphon example KIND` prints a configuration to begin with, and \
         `antiphon emulate KIND` plays the vendor.\n\n",
    );
    out.push_str(&table());
    out.push_str(
        "\n## Usage and cost\n\nWhat vendors report as used is told in common units, to clients as `usage`, in the \
         metric `antiphon_agent_usage_total` and in the call record, for each agent of the call and in sum. Each token is \
         counted in one unit only: what was cached is not in `input_…` again.\n\n",
    );
    out.push_str(&units());
    out.push_str(
        "\n`[agent.NAME.price]` is your own contract: `currency`, and the price of one of each unit; `minute` is a minute \
         in which the agent was in use, from its dial on. Each agent of a call is priced by its own table, and the call \
         by their sum, in the call record and in `antiphon_agent_cost_total`. A cost is `null`, never 0, where a priced \
         unit was not reported, where an agent has no table, and where agents are paid in different currencies. What \
         runs in this process is free, and an agent that never got ready counts as not used. When another agent takes \
         over, what it is told of the conversation so far is counted apart as `replayed_chars`: its vendor counts the \
         same text as input.\n",
    );
    out.push_str(WHAT_GOES_WRONG);
    for kind in VendorKind::ALL {
        let _ = write!(out, "\n## `{}`\n\n", kind.label());
        if let Some(why) = experimental(kind) {
            let _ = write!(out, "Experimental: {why}.\n\n");
        }
        if let Some(url) = kind.default_url() {
            let _ = write!(out, "Reached at `{url}` unless `url` says otherwise.\n\n");
        }
        let _ = write!(out, "{}\n\n", usage(kind));
        out.push_str("| `setup` | On the wire |\n|---|---|\n");
        for (field, wire) in setup::table(kind) {
            let _ = writeln!(
                out,
                "| `{field}` | {} |",
                wire.map_or("not supported".to_owned(), |wire| if WORDS.iter().any(|words| wire.starts_with(words)) {
                    wire.to_owned()
                } else {
                    format!("`{wire}`")
                })
            );
        }
    }
    out
}

/// What a kind reports as used, in words.
fn usage(kind: VendorKind) -> String {
    let units: Vec<String> = kind.units().iter().map(|unit| format!("`{unit}`")).collect();
    match units.is_empty() {
        true => "It reports no usage: a price table can name `minute` only.".to_owned(),
        false => format!("It reports as used: {}.", units.join(", ")),
    }
}

/// The common units, as a table.
fn units() -> String {
    let mut out = "| Unit | What it counts |\n|---|---|\n".to_owned();
    for (unit, counts) in UNITS {
        let _ = writeln!(out, "| `{unit}` | {counts} |");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGENERATE: &str = "WRITE_DOCS=1 cargo test --lib standing";

    fn assert_committed(file: &str, expected: impl Fn(&str) -> String) {
        let path = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        let expected = expected(&committed);
        if std::env::var_os("WRITE_DOCS").is_some() {
            std::fs::write(&path, &expected).unwrap();
        } else {
            assert!(committed == expected, "{file} is not what the code gives; run: {REGENERATE}");
        }
    }

    #[test]
    fn the_committed_page_and_the_table_of_the_readme_are_what_the_code_gives() {
        assert_committed("docs/agents.md", |_| page());
        assert_committed("README.md", |readme| {
            let (before, rest) = readme.split_once("<!-- agents -->\n").expect("the mark before the table");
            let (_, after) = rest.split_once("<!-- end of agents -->").expect("the mark after the table");
            format!("{before}<!-- agents -->\n{}<!-- end of agents -->{after}", table())
        });
    }

    #[test]
    fn a_library_that_verifies_an_emulator_is_among_those_that_the_tests_install() {
        let installed = include_str!("../../setup/requirements.txt");
        for kind in VendorKind::ALL {
            for library in of(kind).verified_by.into_iter().flat_map(|by| by.split(", ")) {
                assert!(installed.lines().any(|line| line == library), "{library} is not in setup/requirements.txt");
            }
        }
    }
}
