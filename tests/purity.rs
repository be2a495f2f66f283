//! The rules of the architecture that the compiler does not know, held against the source text.

use std::fs;
use std::path::{Path, PathBuf};

const PURE: [&str; 8] = ["media", "session", "room", "dialect", "agent", "route", "auth", "limit"];
/// Pure but for the files that read a configuration from disk.
const CONFIG: &str = "config";
const MAX_LINES: usize = 500;

/// A Rust source file.
struct Source {
    /// From the root of the repository, with `/`.
    path: String,
    /// All of it.
    text: String,
}

impl Source {
    /// Numbered lines before the unit tests.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_test_file = self.path.ends_with("/tests.rs") || self.path.contains("/tests/");
        let lines: Vec<&str> = if is_test_file { vec![] } else { self.text.lines().collect() };
        let end = (0..lines.len())
            .find(|&at| lines[at] == "#[cfg(test)]" && lines.get(at + 1).is_some_and(|next| next.ends_with("tests {")))
            .unwrap_or(lines.len());
        lines.into_iter().take(end).enumerate().map(|(at, line)| (at + 1, line))
    }

    /// Lines of code that are no comments.
    fn statements(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code().filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    fn is_in(&self, folder: &str) -> bool {
        self.path.starts_with(&format!("src/{folder}/")) || self.path == format!("src/{folder}.rs")
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Files below `folder` (or the file itself) that end in one of `endings`.
fn files(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    if folder.is_file() {
        return vec![folder.to_path_buf()];
    }
    let Ok(entries) = fs::read_dir(folder) else { return vec![] };
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .flat_map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !["target", "node_modules", ".venv", ".git"].contains(&name.as_str()) {
                files(&path, endings)
            } else if path.is_file() && endings.iter().any(|ending| name.ends_with(ending)) {
                vec![path]
            } else {
                vec![]
            }
        })
        .collect();
    found.sort();
    found
}

fn sources() -> Vec<Source> {
    let sources: Vec<Source> = files(&root().join("src"), &[".rs"])
        .into_iter()
        .map(|path| Source {
            path: path.strip_prefix(root()).unwrap().to_string_lossy().into_owned(),
            text: fs::read_to_string(&path).unwrap(),
        })
        .collect();
    assert!(sources.len() > 10, "the source was found");
    sources
}

/// Whether `word` stands in `line` with no letter, digit or underscore beside it.
fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let bare_end = word.ends_with(|c: char| !part(c));
        !line[..at].ends_with(part) && (bare_end || !line[at + word.len()..].starts_with(part))
    })
}

fn refuse(offences: Vec<String>) {
    assert!(offences.is_empty(), "\n{}", offences.join("\n"));
}

/// Lines of `files` on which `offends` says what is wrong.
fn offences<'a>(
    files: impl Iterator<Item = &'a Source>,
    mut offends: impl FnMut(&Source, &str) -> Option<String>,
) -> Vec<String> {
    files
        .flat_map(|file| {
            file.statements()
                .filter_map(|(number, line)| Some(format!("{}:{number}: {}", file.path, offends(file, line)?)))
                .collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn the_pure_folders_have_no_sockets_clocks_chance_or_metrics() {
    let impure = [
        "tokio",
        "tokio_util",
        "tokio_tungstenite",
        "tungstenite",
        "hyper",
        "hyper_util",
        "rand::",
        "getrandom",
        "metrics::",
        "metrics_exporter_prometheus",
        "std::net",
        "std::thread",
        "std::process",
        "Instant",
        "SystemTime",
        "telemetry",
        "println!",
        "eprintln!",
    ];
    let sources = sources();
    let pure = sources.iter().filter(|file| PURE.iter().chain([&CONFIG]).any(|folder| file.is_in(folder)));
    refuse(offences(pure, |file, line| {
        // The configuration checks addresses; it opens none.
        let allowed = |word: &str| word == "std::net" && file.is_in(CONFIG);
        // `[telemetry]` is also a table of the configuration.
        let table = |word: &str| word == "telemetry" && !line.contains("crate::telemetry");
        let word = impure.iter().find(|word| has_word(line, word) && !allowed(word) && !table(word))?;
        Some(format!("`{word}` in a pure folder"))
    }));
}

#[test]
fn each_pure_folder_denies_the_disallowed_methods() {
    for folder in PURE.iter().chain([&CONFIG]) {
        let root = root().join("src").join(folder);
        if root.exists() {
            let text = fs::read_to_string(root.join("mod.rs")).unwrap();
            let lint = "#![deny(clippy::disallowed_methods, clippy::disallowed_macros)]";
            assert!(text.contains(lint), "src/{folder}/mod.rs lacks {lint}");
        }
    }
}

#[test]
fn files_are_read_in_named_places_of_the_pure_folders_only() {
    let sources = sources();
    let pure = sources.iter().filter(|file| PURE.iter().any(|folder| file.is_in(folder)));
    refuse(offences(pure, |_, line| has_word(line, "std::fs").then(|| "`std::fs` in a pure folder".into())));
}

#[test]
fn translations_know_no_session_and_the_session_knows_no_vendor() {
    let sources = sources();
    let translations = sources.iter().filter(|file| file.is_in("dialect") || file.is_in("agent"));
    let mut found = offences(translations, |_, line| {
        (has_word(line, "crate::session") || line.contains("session::{")).then(|| "names the session".into())
    });
    let vendors =
        ["openai", "elevenlabs", "deepgram", "gemini", "pipecat", "twilio", "livekit", "vapi", "hume", "storyteller"];
    let cores = sources.iter().filter(|file| ["session", "media", "room"].iter().any(|folder| file.is_in(folder)));
    found.extend(cores.flat_map(|file| {
        file.code()
            .filter_map(|(number, line)| {
                let lower = line.to_lowercase();
                let vendor = vendors.iter().find(|vendor| lower.contains(*vendor))?;
                Some(format!("{}:{number}: names {vendor}", file.path))
            })
            .collect::<Vec<_>>()
    }));
    refuse(found);
}

#[test]
fn metrics_are_made_in_telemetry_only() {
    let sources = sources();
    let others = sources.iter().filter(|file| !file.is_in("telemetry"));
    refuse(offences(others, |_, line| {
        let raw = ["counter!(", "gauge!(", "histogram!(", "metrics_exporter_prometheus"];
        let import = line.trim_start().starts_with("use metrics") || line.contains(" ::metrics::");
        (import || raw.iter().any(|word| has_word(line, word))).then(|| "raw metrics outside of telemetry/".into())
    }));
}

#[test]
fn nothing_above_debug_names_an_address_or_words() {
    let private =
        ["peer", "peer_addr", "remote", "remote_addr", "client_addr", "ip", "transcript", "text", "words", "token"];
    let mut found = vec![];
    for file in sources() {
        let code: Vec<(usize, &str)> = file.statements().collect();
        for (at, (number, line)) in code.iter().enumerate() {
            let starts = ["info!(", "warn!(", "error!("].iter().any(|start| has_word(line, start));
            if !starts {
                continue;
            }
            // The invocation reaches to the first line that ends it.
            let end = code[at..].iter().position(|(_, line)| line.trim_end().ends_with(");")).unwrap_or(0);
            for (_, line) in &code[at..=at + end] {
                let fields = line.split('"').step_by(2).collect::<Vec<_>>().join(" ");
                if let Some(word) = private.iter().find(|word| has_word(&fields, word)) {
                    found.push(format!("{}:{number}: logs `{word}` above debug", file.path));
                }
            }
        }
    }
    refuse(found);
}

#[test]
fn no_file_is_longer_than_a_reader_bears() {
    let mut lengths: Vec<(usize, String)> =
        sources().iter().map(|file| (file.code().count(), file.path.clone())).collect();
    lengths.sort_by(|a, b| b.cmp(a));
    println!("longest files, in lines without tests (at most {MAX_LINES}):");
    for (lines, path) in lengths.iter().take(10) {
        println!("{lines:6} {path}");
    }
    refuse(lengths.iter().filter(|(lines, _)| *lines > MAX_LINES).map(|(n, path)| format!("{path}: {n}")).collect());
}

#[test]
fn nothing_is_left_unfinished() {
    // Put together here, so that this file does not accuse itself.
    let words = [
        ["TO", "DO"].concat(),
        ["FIX", "ME"].concat(),
        ["XX", "X:"].concat(),
        ["unimplemented", "!("].concat(),
        ["to", "do!("].concat(),
        ["not yet ", "implemented"].concat(),
        ["for ", "now"].concat(),
    ];
    let tops = [
        "src",
        "tests",
        "benches",
        "loadtest",
        "examples",
        "docs",
        "config",
        "setup",
        "systemd",
        "clients",
        "fuzz",
        "README.md",
        "CHANGELOG.md",
        "Makefile",
        "Cargo.toml",
        "deny.toml",
        ".ci",
    ];
    let endings = [".rs", ".md", ".toml", ".sh", ".py", ".js", ".ts", ".html", ".service", "Makefile", "run", "stages"];
    let mut found = vec![];
    for path in tops.iter().flat_map(|top| files(&root().join(top), &endings)) {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            if let Some(word) = words.iter().find(|word| line.contains(word.as_str())) {
                found.push(format!("{}:{}: {word}", path.strip_prefix(root()).unwrap().display(), number + 1));
            }
        }
    }
    refuse(found);
}
