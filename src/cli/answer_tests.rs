//! The subcommands, on real files.

use std::path::{Path, PathBuf};

use clap::Parser;

use super::*;
use crate::cli::{check, example, explain, print_config};

#[derive(Parser)]
#[allow(clippy::large_enum_variant, reason = "parsed once")]
enum Cli {
    Check(check::CheckArgs),
    PrintConfig(print_config::PrintConfigArgs),
    Explain(explain::ExplainArgs),
    Example(example::ExampleArgs),
}

fn antiphon(args: &[&str]) -> Answer {
    match Cli::try_parse_from([&["antiphon"], args].concat()).unwrap_or_else(|error| panic!("{error}")) {
        Cli::Check(args) => check::check(&args),
        Cli::PrintConfig(args) => print_config::print_config(&args),
        Cli::Explain(args) => explain::explain(&args, 0),
        Cli::Example(args) => example::show(&args),
    }
}

/// A folder that is gone when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn with(name: &str, files: &[(&str, &str)]) -> Folder {
        let folder = std::env::temp_dir().join(format!("antiphon-cli-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for (name, text) in files {
            std::fs::write(folder.join(name), text).unwrap();
        }
        Folder(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const GOOD: &str = "[[route]]\nname = \"r\"\nto = \"echo\"\nslo.added_p99_ms = 5\n";

#[test]
fn check_says_ok_and_what_has_no_effect() {
    let folder = Folder::with("good", &[("a.toml", GOOD)]);
    let answer = antiphon(&["check", &folder.path("a.toml")]);
    assert_eq!((answer.code, answer.error.as_str()), (0, ""));
    assert!(answer.text.starts_with("ok\nroutes, in order: r\nagents: clip, echo, storyteller\n"), "{}", answer.text);
    let place = format!("{}:4:1: slo of route `r`", folder.path("a.toml"));
    assert!(answer.text.contains(&place), "{}", answer.text);
}

#[test]
fn check_exits_with_1_for_a_wrong_file_and_2_for_one_that_cannot_be_read() {
    let folder = Folder::with("bad", &[("a.toml", "[http]\nx = 1\n"), ("b.txt", "")]);
    let answer = antiphon(&["check", &folder.path("a.toml")]);
    assert_eq!(answer.code, 1);
    assert!(answer.error.starts_with(&format!("{}:2:1: unknown key `x`", folder.path("a.toml"))), "{}", answer.error);
    let answer = antiphon(&["check", &folder.path("none.toml")]);
    assert_eq!(answer.code, 2);
    assert!(answer.error.contains("none.toml: cannot be read: No such file"), "{}", answer.error);
    let empty = Folder::with("empty", &[]);
    assert_eq!(antiphon(&["check", &empty.path("")]).code, 2, "a folder without files is a mistake");
}

#[test]
fn a_folder_is_its_toml_files_in_the_order_of_their_names() {
    let route = |name: &str| format!("[[route]]\nname = \"{name}\"\nto = \"echo\"\n");
    let (one, two) = (route("one"), route("two"));
    let folder =
        Folder::with("folder", &[("20.toml", &two), ("10.toml", &one), ("x.bak", "rubbish"), (".h.toml", "x")]);
    for args in [&["check", &folder.path("")][..], &["check", "--config", &folder.path("")]] {
        let answer = antiphon(args);
        assert!(answer.text.contains("routes, in order: one, two\n"), "{answer:?}");
    }
    let (first, second) = (folder.path("20.toml"), folder.path("10.toml"));
    assert!(antiphon(&["check", &first, &second]).text.contains("routes, in order: two, one\n"));
}

#[test]
fn print_config_says_where_each_value_was_set() {
    let folder = Folder::with("print", &[("a.toml", "[http]\nmax_headers = 9\n")]);
    let file = folder.path("a.toml");
    let answer = antiphon(&["print-config", "--config", &file, "--origin"]);
    assert!(answer.text.contains(&format!("max_headers = 9  # {file}:2:1\n")), "{}", answer.text);
    let answer = antiphon(&["print-config", "--config", &file]);
    assert!(answer.text.contains("max_headers = 9\n"));
    assert_eq!(antiphon(&["print-config", "--config", &folder.path("none")]).code, 2);
}

#[test]
fn route_explain_takes_claims_and_headers() {
    let text = "[[route]]\nname = \"pro\"\nmatch = { claim.org.plan = \"pro\", claim.age = 7, header.X-A = \"1\", tenant = \"t\" }\n\
                to = \"clip\"\n[[route]]\nname = \"rest\"\nto = \"requested\"\n";
    let folder = Folder::with("explain", &[("a.toml", text)]);
    let file = folder.path("a.toml");
    let config = ["explain", "--config", &file];
    let claims = ["--claim", "org.plan=pro", "--claim", "age=7", "--claim", "tenant=t", "--header", "X-A=1"];
    let answer = antiphon(&[&config[..], &claims, &["--transport", "webrtc", "--remote"]].concat());
    assert_eq!(answer.code, 0, "{answer:?}");
    assert!(
        answer.text.contains("route pro: matches") && answer.text.contains("it has credentials"),
        "{}",
        answer.text
    );
    let answer = antiphon(&[&config[..], &["--agent", "echo"]].concat());
    assert!(answer.text.contains("plan: route rest\n    agent: echo (echo)"), "{}", answer.text);
    let answer = antiphon(&[&config[..], &["--remote"]].concat());
    assert_eq!(answer.code, 1, "{}", answer.text);
    let answer = antiphon(&[&config[..], &["--header", "X-Forwarded-For=192.0.2.1"]].concat());
    assert_eq!(answer.code, 1, "a forwarded call does not come from this machine: {}", answer.text);
}

#[test]
fn examples_are_listed_and_printed_as_they_are() {
    let list = antiphon(&["example"]).text;
    for (name, _, text) in crate::config::examples::EXAMPLES {
        assert!(list.contains(name));
        assert_eq!(antiphon(&["example", name]).text, text);
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join("config").exists());
    }
    let answer = antiphon(&["example", "nothing"]);
    assert!(answer.code == 2 && answer.error.contains("own-websocket"));
}
