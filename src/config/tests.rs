//! What an operator sees.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::*;
use crate::config::settings::{AgentKind, LimitKey, LimitUnit};
use crate::media::clip::Clip;
use crate::route::plan::DownStep;

/// Variables and files of an imagined machine.
#[derive(Default)]
struct Machine {
    env: BTreeMap<String, String>,
    files: BTreeMap<PathBuf, String>,
}

impl Machine {
    fn with(env: &[(&str, &str)], files: &[(&str, &str)]) -> Machine {
        Machine {
            env: env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            files: files.iter().map(|(path, text)| (PathBuf::from(path), text.to_string())).collect(),
        }
    }

    fn check(&self, texts: &[&str]) -> Result<Settings, ConfigErrors> {
        check(&files(texts), &self.env, self)
    }

    fn print(&self, texts: &[&str], origin: bool) -> String {
        print(&files(texts), &self.env, self, origin).unwrap()
    }
}

impl Lookup for Machine {
    fn env(&self, name: &str) -> Option<String> {
        self.env.get(name).cloned()
    }
    fn read(&self, path: &Path) -> Result<String, String> {
        self.files.get(path).cloned().ok_or_else(|| "no such file".to_owned())
    }
    fn bytes(&self, path: &Path) -> Result<Vec<u8>, String> {
        let text = self.read(path)?;
        let wav = path.extension().is_some_and(|ending| ending == "wav") && text != "no audio";
        Ok(if wav { Clip { rate: 8_000, samples: vec![0; 8_000] }.to_wav() } else { text.into_bytes() })
    }
    fn exists(&self, path: &Path) -> bool {
        self.files.contains_key(path)
    }
}

/// The first is `a.toml` in the folder `conf`, the next `b.toml`, …
fn files(texts: &[&str]) -> Vec<FileText> {
    let names = ["a.toml", "b.toml", "c.toml"];
    texts
        .iter()
        .zip(names)
        .map(|(text, name)| FileText { name: name.into(), dir: "conf".into(), text: text.to_string() })
        .collect()
}

fn good(text: &str) -> Settings {
    Machine::default().check(&[text]).unwrap_or_else(|errors| panic!("{errors}"))
}

fn faults(text: &str) -> Vec<ConfigError> {
    Machine::default().check(&[text]).expect_err("the file should be refused").errors
}

/// A fault as `line:column what the caret marks | message | help`.
fn brief(error: &ConfigError) -> String {
    let text = error.to_string();
    let mut lines = text.lines();
    let head = lines.next().unwrap();
    let source = lines.next().unwrap_or_default();
    let carets = lines.next().unwrap_or_default();
    let from = carets.find('^').unwrap_or(0);
    let marked: String = source.chars().skip(from).take(carets.matches('^').count()).collect();
    let place = format!("{}:{}", error.line().unwrap_or(0), error.column().unwrap_or(0));
    assert!(head.starts_with(&format!("a.toml:{place}: ")), "{head}");
    format!("{place} {marked} | {} | {}", error.message, error.help.clone().unwrap_or_default())
}

#[track_caller]
fn refused(text: &str, wanted: &[&str]) {
    let found: Vec<String> = faults(text).iter().map(brief).collect();
    assert_eq!(found.len(), wanted.len(), "{found:#?}");
    for (found, wanted) in found.iter().zip(wanted) {
        let (place, rest) = wanted.split_once(" | ").unwrap();
        assert!(found.starts_with(&format!("{place} | ")), "{found}\nis not at\n{place}");
        for part in rest.split(" | ") {
            assert!(found.contains(part), "{found}\ndoes not say\n{part}");
        }
    }
}

const ROUTE: &str = "[[route]]\nname = \"r\"\nto = \"echo\"\n";

// ------------------------------------------------------------------------------------------------------- faults

#[test]
fn an_unknown_key_is_shown_with_the_nearest_one() {
    refused(
        "[http]\nhandshake_m = 5\n",
        &["2:1 handshake_m | unknown key `handshake_m` in `http` | mean `handshake_ms`"],
    );
    refused("[agents.x]\nkind = \"echo\"\n", &["1:2 agents | unknown key `agents` at the top | mean `agent`"]);
    refused(
        &format!("{ROUTE}audio = {{ gap_wait = 3 }}\n"),
        &["4:11 gap_wait | in `route.audio` | mean `gap_wait_ms`"],
    );
    refused(&format!("{ROUTE}[route.match]\nagnt = \"x\"\n"), &["5:1 agnt | in `route.match` | mean `agent`"]);
    refused(
        "[agent.a]\nkind = \"websocket\"\nurl = \"ws://h\"\nheadrs = {}\n",
        &["4:1 headrs | unknown key `headrs` in `agent.a` | mean `headers`"],
    );
}

#[test]
fn a_key_of_another_table_is_sent_there() {
    refused(
        "[listen]\nmax_connections = 5\n",
        &["2:1 max_connections | unknown key | `max_connections` is a key of `http`"],
    );
    refused(
        "[agent.echo]\nurl = \"ws://h\"\n",
        &["2:1 url | no meaning for an agent of kind `echo` | belongs to kind `websocket`"],
    );
}

#[test]
fn a_wrong_type_is_shown_with_what_is_wanted() {
    refused(
        "[http]\nmax_headers = \"many\"\n",
        &["2:15 \"many\" | `http.max_headers` must be a whole number | \"many\""],
    );
    refused("[demo]\nenabled = 1\n", &["2:11 1 | must be true or false, not 1"]);
    refused("[http]\norigins = 5\n", &["2:11 5 | `http.origins` must be a string or a list of strings"]);
    refused("[http]\norigins = [\"localhost\", 5]\n", &["2:25 5 | `http.origins` must be"]);
    refused("listen = 5\n", &["1:10 5 | `listen` must be a table, not 5"]);
    refused(&format!("{ROUTE}max_s = -1\n"), &["4:9 -1 | `route.max_s` must be from 1 to 604800"]);
    refused(
        &format!("{ROUTE}sticky = \"usr\"\n"),
        &["4:10 \"usr\" | `usr` is not possible for `route.sticky` | mean `user`"],
    );
    refused(
        &format!("{ROUTE}match = {{ transport = [\"websocket\", \"websoket\"] }}\n"),
        &["4:37 \"websoket\" | not possible | mean `websocket`"],
    );
    refused("agent.x = 5\n", &["1:11 5 | must be a table"]);
    refused("[[route]]\nname = \"r\"\nto = 5\n", &["3:6 5 | `route.to` must be the name of an agent"]);
}

#[test]
fn a_number_out_of_range_is_shown_with_the_range() {
    refused("[runtime]\nworkers = 5000\n", &["2:11 5000 | `runtime.workers` must be from 0 to 1024"]);
    refused(&format!("{ROUTE}match.percent = 100.5\n"), &["4:17 100.5 | from 0 to 100"]);
    refused("[agent.echo]\ndelay_ms = 2001\n", &["2:12 2001 | `agent.echo.delay_ms` must be from 0 to 2000"]);
    refused(&format!("{ROUTE}audio.opus.complexity = 11\n"), &["4:25 11 | from 0 to 10"]);
    refused(
        "[[route]]\nname = \"r\"\nto = [{ agent = \"echo\", weight = -1 }]\n",
        &["3:34 -1 | `route.to.weight` must be from 0 to 1000000"],
    );
    refused("[runtime]\nmax_sessions = 99999999999999999999\n", &["2:16 99999999999999999999 | whole number"]);
}

#[test]
fn a_name_that_nothing_is_called_is_shown_with_the_nearest() {
    refused("[[route]]\nname = \"r\"\nto = \"ecko\"\n", &["3:6 \"ecko\" | there is no agent `ecko` | mean `echo`"]);
    refused(
        &format!("{ROUTE}fallback = [\"clip\", \"klip\"]\n"),
        &["4:21 \"klip\" | there is no agent `klip` | mean `clip`"],
    );
    refused(&format!("{ROUTE}fallback = \"klip\"\n"), &["4:12 \"klip\" | mean `clip`"]);
    refused(&format!("{ROUTE}limits = \"l\"\n"), &["4:10 \"l\" | there is no limits `l` | add `[limits.l]`"]);
    refused(
        &format!("{ROUTE}admit = \"crm\"\n[hook.crn]\nurl = \"https://h\"\n"),
        &["4:9 \"crm\" | there is no hook | mean `crn`"],
    );
    refused(
        &format!("{ROUTE}taps = [{{ agent = \"x\" }}]\n"),
        &["4:19 \"x\" | there is no agent `x` | there are clip, echo"],
    );
    refused(
        "[[route]]\nname = \"r\"\nto = [{ agent = \"x\" }, \"y\"]\n",
        &["3:17 \"x\" | no agent `x`", "3:24 \"y\" | no agent `y`"],
    );
    refused("[agent.echo.setup]\ntools = [\"end_cal\"]\n", &["2:10 \"end_cal\" | no tool `end_cal` | mean `end_call`"]);
    refused("[limits.a]\nuse = [\"b\"]\n", &["2:8 \"b\" | there is no limit `b`"]);
    refused("[node]\ndefault_agent = \"ecko\"\n", &["2:17 \"ecko\" | no agent `ecko` | mean `echo`"]);
    refused(&format!("{ROUTE}idle.prompt = \"echo\"\n"), &["4:15 \"echo\" | not an agent of kind `clip`"]);
}

#[test]
fn the_steps_when_all_agents_are_down_are_checked_like_everything_else() {
    let writer = "[agent.writer]\nkind = \"chat\"\nurl = \"https://models.example.com/v1\"\nmodel = \"m\"\n";
    let route = |steps: &str| format!("{ROUTE}when_down = {steps}\n{writer}");
    let settings = good(&route("[\"clip\", { text = \"writer\" }, { keep_s = 60 }, \"keep\", \"end\"]"));
    let steps: Vec<_> = settings.routes[0].policy.when_down.iter().map(DownStep::label).collect();
    assert_eq!(steps, ["clip", "text", "keep", "keep"]);
    let kept = |at: usize| settings.routes[0].policy.when_down[at].clone();
    let seconds = |s| DownStep::Keep(std::time::Duration::from_secs(s));
    assert_eq!((kept(2), kept(3)), (seconds(60), seconds(300)));
    refused(&route("[{ text = \"riter\" }]"), &["4:23 \"riter\" | no agent `riter` | mean `writer`"]);
    refused(&route("[{ text = \"clip\" }]"), &["4:23 \"clip\" | does not take text messages | kind `chat`"]);
    refused(&route("[\"end\", \"keep\"]"), &["4:14 \"end\" | nothing comes after the end | last"]);
    refused(&route("[\"keap\"]"), &["4:14 \"keap\" | `keap` is not possible | mean `keep`"]);
    refused(
        &route("[{ keep_s = 5, clip = \"a\" }]"),
        &["4:14 { keep_s = 5, clip = \"a\" } | is no single step | keep_s = 300"],
    );
    let behind = format!("{ROUTE}fallback = \"clip\"\nwhen_down = [\"keep\"]\n");
    refused(&behind, &["5:13 [\"keep\"] | is never reached: `clip` can always be reached | take `clip` out"]);
    let zone =
        format!("{ROUTE}zone = \"eu\"\nwhen_down = [{{ text = \"writer\" }}]\n[agent.echo]\nzone = \"eu\"\n{writer}");
    let told = faults(&zone)[0].to_string();
    assert!(told.contains("would leave zone `eu`: agent `writer`"), "{told}");
}

#[test]
fn an_audio_file_that_cannot_be_played_is_refused_where_it_is_named() {
    let machine = Machine::with(&[], &[("conf/good.wav", ""), ("conf/bad.wav", "no audio")]);
    let route = |file: &str| {
        format!("{ROUTE}fallback_notice = \"{file}\"\n[agent.sorry]\nkind = \"clip\"\nfile = \"{file}\"\n")
    };
    let settings = machine.check(&[&route("good.wav")]).unwrap_or_else(|errors| panic!("{errors}"));
    let notice = settings.routes[0].policy.fallback_notice.as_ref().unwrap();
    assert_eq!(notice.length(), std::time::Duration::from_secs(1));
    let errors = machine.check(&[&route("bad.wav")]).unwrap_err().to_string();
    assert_eq!(errors.matches("cannot play conf/bad.wav: neither a WAV").count(), 2, "{errors}");
}

#[test]
fn a_built_in_agent_that_is_off_says_what_would_switch_it_on() {
    refused(
        "[[route]]\nname = \"r\"\nto = \"openai\"\n",
        &["3:6 \"openai\" | `openai` is off: OPENAI_API_KEY is not set"],
    );
}

#[test]
fn what_is_missing_is_said_at_the_table() {
    refused("[[route]]\nto = \"echo\"\n", &["1:1 [[route]] | `route` has no `name`"]);
    refused("[[route]]\nname = \"r\"\n", &["1:1 [[route]] | has no `to` | \"requested\""]);
    refused("[agent.a]\nurl = \"ws://h\"\n", &["1:8 a | `agent.a` has no `kind` | websocket"]);
    refused("[agent.a]\nkind = \"websocket\"\n", &["1:8 a | has no `url` | ws://"]);
    refused("[hook.a]\n[limit.b]\nunit = \"bytes\"\n", &["1:7 a | no `url`", "2:8 b | no `rate`"]);
    refused("[http.tls]\ncert = \"x\"\n", &["1:7 tls | has no `key`", "2:8 \"x\" | there is no file conf/x"]);
}

#[test]
fn two_listeners_on_one_port_are_told_both() {
    let both = |tcp: &str, other: &str| format!("`listen.{tcp}` (127.0.0.1:90) and `listen.{other}` (127.0.0.1:90)");
    for (first, second, protocol) in
        [("http", "control", "TCP"), ("http", "webrtc", "TCP"), ("control", "webrtc", "TCP"), ("webrtc", "quic", "UDP")]
    {
        let text = format!("[listen]\n{first} = \"127.0.0.1:90\"\n{second} = \"127.0.0.1:90\"\n");
        let at = format!("3:{} \"127.0.0.1:90\"", second.len() + 4);
        refused(&text, &[&format!("{at} | {} | the same {protocol} port | of its own", both(first, second))]);
    }
    let with_a_default =
        ["2:8 \"127.0.0.1:8082\" | `listen.http` (127.0.0.1:8082) and `listen.webrtc` (127.0.0.1:8082)"];
    refused("[listen]\nhttp = \"127.0.0.1:8082\"\n", &with_a_default);
    let of_all = ["2:8 \"0.0.0.0:8081\" | `listen.http` (0.0.0.0:8081) and `listen.control` (127.0.0.1:8081)"];
    refused("[listen]\nhttp = \"0.0.0.0:8081\"\n", &of_all);
    for apart in [
        "http = \"127.0.0.1:8083\"",
        "http = \"127.0.0.1:0\"\ncontrol = \"127.0.0.1:0\"",
        "http = \"127.0.0.2:8081\"",
        "http = \"[::]:8081\"",
    ] {
        good(&format!("[listen]\n{apart}\n"));
    }
}

#[test]
fn a_wrong_value_is_shown_with_a_right_one() {
    refused("[listen]\nhttp = \"localhost:80\"\n", &["2:8 \"localhost:80\" | not an address | 127.0.0.1:80"]);
    refused("[listen]\nhttp = \":80\"\n", &["2:8 \":80\" | not an address | 0.0.0.0:80"]);
    refused(
        "[agent.a]\nkind = \"websockets\"\nurl = \"ws://h\"\n",
        &["2:8 \"websockets\" | no kind `websockets` | mean `websocket`"],
    );
    refused(
        "[agent.a]\nkind = \"websocket\"\nurl = \"http://h/x\"\n",
        &["3:7 \"http://h/x\" | scheme must be ws or wss, not http"],
    );
    refused(
        "[agent.a]\nkind = \"websocket\"\nurl = \"ws://h\"\naudio_in = \"opus/44100\"\n",
        &["4:12 \"opus/44100\" | no rate of 44100 Hz"],
    );
    refused("[limit.a]\nunit = \"messages\"\nrate = \"5\"\n", &["3:8 \"5\" | only connections and sessions | 5/60s"]);
    refused("[limit.a]\nunit = \"messages\"\nrate = \"5/60\"\n", &["3:8 \"5/60\" | is not a rate | 600/60s"]);
    refused("[limit.a]\nunit = \"sessions\"\nrate = 5\nblock_s = 3\n", &["4:1 block_s | needs a rate with a span"]);
    refused("[limit.a]\nunit = \"sessions\"\nrate = 1.5\n", &["3:8 1.5 | is no number of sessions"]);
    refused(
        "[limit.a]\nunit = \"bytes\"\nrate = \"5/60s\"\nwarn_at = 0.5\non_reach = \"end\"\n",
        &["4:1 warn_at | needs `unit = \"cost\"`", "5:1 on_reach | needs `unit = \"cost\"`"],
    );
    refused(
        "[redis]\nurl = [\"redis://a\", \"redis://b\"]\n",
        &["2:7 [\"redis://a\", \"redis://b\"] | but `mode` is \"single\""],
    );
    refused("[redis]\nurl = \"http://a\"\n", &["2:7 \"http://a\" | must be redis or rediss"]);
    refused(
        "[http]\norigins = [\"app.example.com\"]\n",
        &["2:12 \"app.example.com\" | not an origin | https://app.example.com"],
    );
    refused("[http]\ntrusted_proxies = [\"10.0.0.0/40\"]\n", &["2:20 \"10.0.0.0/40\" | is not a network"]);
    refused("[log]\nlevel = \"chatty\"\n", &["2:9 \"chatty\" | not a log filter | debug"]);
    refused(
        "[agent.echo.setup]\ninstructions = \"{claims.sub}\"\n",
        &["2:16 \"{claims.sub}\" | stands for nothing | {claim.x}"],
    );
    refused("[agent.echo.price]\nminute = \"x\"\n", &["1:13 price | no `currency`", "2:10 \"x\" | must be a number"]);
    refused(
        "[agent.v]\nkind = \"deepgram\"\n[agent.v.price]\ncurrency = \"EUR\"\noutput_tokens = 1\n",
        &["5:1 output_tokens | reports no `output_tokens`"],
    );
}

#[test]
fn a_syntax_error_is_shown_where_it_is() {
    let found = faults("[http]\nmax_headers = \n");
    assert_eq!((found[0].line(), found[0].column()), (Some(2), Some(15)), "{found:?}");
    let found = faults("[http\nx = 1\n");
    assert_eq!(found[0].line(), Some(1), "{found:?}");
    assert!(faults("[http]\nmax_headers = 8\nmax_headers = 9\n")[0].message.contains("duplicate"));
}

#[test]
fn all_faults_of_a_file_are_told_in_the_order_of_its_lines() {
    refused(
        "[http]\nmax_headers = \"x\"\norigin = 1\n[runtime]\nworkers = -1\n[agent.a]\nkind = \"ecko\"\n[[route]]\nto = \"b\"\nmaxs = 1\n",
        &[
            "2:15 \"x\" | whole number",
            "3:1 origin | mean `origins`",
            "5:11 -1 | from 0 to 1024",
            "7:8 \"ecko\" | mean `echo`",
            "8:1 [[route]] | no `name`",
            "9:6 \"b\" | no agent `b`",
            "10:1 maxs | mean `max_s`",
        ],
    );
}

#[test]
fn a_fault_looks_like_this() {
    let found = faults("[[route]]\nname = \"jung\"\nto = \"ecko\"\n");
    let text = ConfigErrors { errors: found, unreadable: false }.to_string();
    assert_eq!(
        text,
        "a.toml:3:6: there is no agent `ecko`\n 3 | to = \"ecko\"\n   |      ^^^^^^\n   = help: did you mean `echo`?\n\n1 error"
    );
}

#[test]
fn an_agent_with_a_fault_is_not_reported_again_where_it_is_named() {
    refused("[agent.a]\nkind = \"websocket\"\n[[route]]\nname = \"r\"\nto = \"a\"\n", &["1:8 a | no `url`"]);
}

// ------------------------------------------------------------------------------------------------------- layers

#[test]
fn a_later_file_wins_key_by_key_and_routes_follow_one_another() {
    let settings = Machine::default()
        .check(&[
            "[http]\nmax_headers = 10\nkeep_alive_s = 5\n[[route]]\nname = \"one\"\nto = \"echo\"\n",
            "[http]\nmax_headers = 20\n[[route]]\nname = \"two\"\nto = \"clip\"\n[agent.mine]\nlike = \"echo\"\n",
        ])
        .unwrap();
    assert_eq!((settings.http.max_headers, settings.http.keep_alive.as_secs()), (20, 5));
    let names: Vec<_> = settings.routes.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["one", "two"]);
    assert!(settings.agent("mine").is_some());
}

#[test]
fn a_list_of_a_later_file_replaces_the_earlier_one() {
    let settings =
        Machine::default().check(&["[http]\norigins = [\"*\"]\n", "[http]\norigins = [\"localhost\"]\n"]).unwrap();
    assert_eq!(settings.http.origins.len(), 1);
    assert_eq!(settings.http.origins[0].to_string(), "localhost");
}

#[test]
fn a_name_in_two_files_is_an_error_that_names_both() {
    let agent = "\n[agent.a]\nkind = \"echo\"\n";
    let errors = Machine::default().check(&[agent, agent]).unwrap_err().to_string();
    assert!(errors.contains("b.toml:2:8: agent `a` is defined twice: here and at a.toml:2:8"), "{errors}");
    let errors = Machine::default().check(&[ROUTE, ROUTE]).unwrap_err().to_string();
    assert!(errors.contains("b.toml:2:8: route `r` is defined twice: here and at a.toml:2:8"), "{errors}");
    refused(&format!("{ROUTE}{ROUTE}"), &["5:8 \"r\" | route `r` is defined twice: here and at a.toml:2:8"]);
}

#[test]
fn a_fault_in_the_second_file_names_the_second_file() {
    let errors = Machine::default().check(&[ROUTE, "[[route]]\nname = \"s\"\nto = \"x\"\n"]).unwrap_err();
    assert!(errors.to_string().starts_with("b.toml:3:6: there is no agent `x`"), "{errors}");
}

#[test]
fn variables_win_over_files() {
    let env = [
        ("ANTIPHON_LISTEN__HTTP", "0.0.0.0:9000"),
        ("ANTIPHON_AGENT__ECHO__DELAY_MS", "5"),
        ("ANTIPHON_HTTP__ORIGINS", "[\"*\"]"),
        ("ANTIPHON_NODE__NAME", "7"),
        ("ANTIPHON_CONFIG", "ignored"),
    ];
    let settings = Machine::with(&env, &[]).check(&["[listen]\nhttp = \"127.0.0.1:1\"\n"]).unwrap();
    assert_eq!(settings.listen.http.to_string(), "0.0.0.0:9000");
    assert_eq!(settings.node.name.as_deref(), Some("7"), "a name may look like a number");
    assert_eq!(settings.http.origins[0].to_string(), "*");
    let AgentKind::Echo { delay } = settings.agent("echo").unwrap().kind else { panic!() };
    assert_eq!(delay.as_millis(), 5);
}

#[test]
fn a_fault_in_a_variable_names_the_variable() {
    let fault = |name: &str, value: &str| Machine::with(&[(name, value)], &[]).check(&[]).unwrap_err().to_string();
    let text = fault("ANTIPHON_LISTEN__HTP", "x");
    assert!(
        text.starts_with("ANTIPHON_LISTEN__HTP: unknown key `htp` in `listen`\n    help: did you mean `http`?"),
        "{text}"
    );
    assert!(
        fault("ANTIPHON_RUNTIME__WORKERS", "many").contains("ANTIPHON_RUNTIME__WORKERS: `runtime.workers` must be")
    );
    assert!(fault("ANTIPHON_ROUTE__0__NAME", "x").contains("ANTIPHON_ROUTE__0__NAME: routes cannot be set"));
}

#[test]
fn without_a_file_the_built_in_agents_are_reachable_by_name() {
    let settings = Settings::default();
    assert_eq!(settings.listen.http.to_string(), "127.0.0.1:8080");
    assert_eq!(settings.listen.control.to_string(), "127.0.0.1:8081");
    assert_eq!(settings.listen.webrtc.unwrap().to_string(), "127.0.0.1:8082");
    assert_eq!(settings.listen.quic.unwrap().to_string(), "127.0.0.1:8083");
    assert_eq!(settings.node.default_agent.as_str(), "storyteller");
    let agents: Vec<_> = settings.agents.keys().map(AgentName::as_str).collect();
    assert_eq!(agents, ["clip", "echo", "storyteller"]);
    let off: Vec<_> = settings.off.iter().map(|(name, why)| format!("{name}: {why}")).collect();
    assert_eq!(off[0], "openai: OPENAI_API_KEY is not set");
    assert_eq!(off[1], "elevenlabs: ELEVENLABS_API_KEY and ELEVENLABS_AGENT_ID are not set");
    assert_eq!(off.len(), 4);
    assert_eq!(settings.routes[0].policy, crate::route::plan::Policy::default());
    assert!(settings.inert.is_empty());
}

#[test]
fn a_vendor_whose_usual_variables_are_set_is_reachable_by_name() {
    let machine = Machine::with(&[("OPENAI_API_KEY", "k"), ("ELEVENLABS_API_KEY", "k"), ("GEMINI_API_KEY", "")], &[]);
    let settings = machine.check(&[]).unwrap();
    let AgentKind::Vendor(vendor) = &settings.agent("openai").unwrap().kind else { panic!() };
    assert!(vendor.api_key.is_some() && vendor.url.as_str() == "wss://api.openai.com/v1/realtime");
    assert_eq!(settings.node.default_agent.as_str(), "storyteller", "nobody is sent to a vendor unasked");
    let off: Vec<_> = settings.off.iter().map(|(name, why)| format!("{name}: {why}")).collect();
    assert_eq!(off[..2], ["elevenlabs: ELEVENLABS_AGENT_ID is not set", "deepgram: DEEPGRAM_API_KEY is not set"]);
    assert_eq!(off[2], "gemini: GEMINI_API_KEY is not set", "an empty variable is none");
    let own = machine.check(&["[agent.openai]\nsetup.voice = \"cedar\"\n"]).unwrap();
    assert_eq!(own.agent("openai").unwrap().setup.voice.as_deref(), Some("cedar"));
    let replaced = machine.check(&["[agent.openai]\nkind = \"echo\"\n"]).unwrap();
    assert!(matches!(replaced.agent("openai").unwrap().kind, AgentKind::Echo { .. }));
    let public = "[listen]\nhttp = \"0.0.0.0:80\"\n[[route]]\nname = \"r\"\nto = \"requested\"\nanonymous = true\n";
    let error = machine.check(&[public]).unwrap_err().to_string();
    assert!(error.contains("`openai`"), "a key in the environment is not given away: {error}");
}

#[test]
fn the_default_agent_is_the_only_one_of_your_own() {
    assert_eq!(good("[agent.mine]\nkind = \"echo\"\n").node.default_agent.as_str(), "mine");
    assert_eq!(
        good("[agent.a]\nlike = \"echo\"\n[agent.b]\nlike = \"echo\"\n").node.default_agent.as_str(),
        "storyteller"
    );
    let text = "[node]\ndefault_agent = \"echo\"\n[agent.mine]\nkind = \"echo\"\n";
    assert_eq!(good(text).node.default_agent.as_str(), "echo");
}

// ------------------------------------------------------------------------------------------------------- agents

#[test]
fn an_agent_inherits_and_overrides() {
    let text = r#"
[agent.a]
kind = "websocket"
url = "ws://a/x"
zone = "eu"
setup = { instructions = "be kind", voice = "one", greeting = { say = "hi" } }
[agent.b]
like = "a"
url = "ws://b/x"
[agent.c]
like = "b"
setup = { voice = "two", greeting = { prompt = "greet" }, instructions_file = "i.md" }
"#;
    let settings = Machine::with(&[], &[("conf/i.md", "be brief")]).check(&[text]).unwrap();
    let c = settings.agent("c").unwrap();
    let AgentKind::Websocket(websocket) = &c.kind else { panic!() };
    assert_eq!(websocket.url.as_str(), "ws://b/x");
    assert_eq!(c.zone.as_deref(), Some("eu"));
    assert_eq!(c.setup.voice.as_deref(), Some("two"));
    assert_eq!(c.setup.instructions.as_deref(), Some("be brief"), "either form replaces the other");
    assert_eq!(c.setup.greeting, Some(crate::message::Greeting::Prompt("greet".into())));
}

#[test]
fn a_circle_of_likes_is_an_error() {
    let found = faults("[agent.a]\nlike = \"b\"\n[agent.b]\nlike = \"a\"\n[agent.c]\nlike = \"b\"\n");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].to_string().contains("`like` goes in a circle: a -> b -> a"), "{}", found[0]);
    let found = faults("[agent.a]\nlike = \"a\"\n");
    assert!(found[0].to_string().contains("`like` goes in a circle: a -> a"), "{}", found[0]);
    refused("[agent.a]\nlike = \"ecko\"\n", &["2:8 \"ecko\" | no agent `ecko` to be like | mean `echo`"]);
}

#[test]
fn a_fault_that_is_inherited_is_shown_where_it_is_written() {
    let text = "[agent.a]\nkind = \"websocket\"\nurl = \"ws://h\"\naudio_in = \"mp3\"\n[agent.b]\nlike = \"a\"\n";
    refused(text, &["4:12 \"mp3\" | is not a format"]);
}

#[test]
fn a_table_without_kind_changes_a_built_in_agent_and_one_with_kind_replaces_it() {
    let settings = good("[agent.echo]\ndelay_ms = 7\n");
    assert!(matches!(settings.agent("echo").unwrap().kind, AgentKind::Echo { delay } if delay.as_millis() == 7));
    let settings = good("[agent.openai]\nkind = \"websocket\"\nurl = \"ws://h\"\n");
    let AgentKind::Websocket(websocket) = &settings.agent("openai").unwrap().kind else { panic!() };
    assert!(websocket.headers.is_empty(), "the built-in key is not sent to another server");
}

#[test]
fn a_kind_that_is_not_built_is_parsed_and_told() {
    let text = "[agent.e]\nkind = \"mux\"\npool = \"x\"\napi_key = \"${env:K}\"\n";
    let settings = Machine::with(&[("K", "v")], &[]).check(&[text]).unwrap();
    assert!(matches!(&settings.agent("e").unwrap().kind, AgentKind::NotBuilt { kind } if kind == "mux"));
    assert_eq!(settings.inert[0].place, "a.toml:1:8");
    assert!(settings.inert[0].key.contains("agent.e"), "{:?}", settings.inert);
    refused("[agent.e]\nkind = \"mux\"\nmax_session = 5\n", &["3:1 max_session | mean `max_sessions`"]);
    refused("[agent.e]\nkind = \"openai\"\nmodel = 5\n", &["3:9 5 | `agent.e.model` must be a string"]);
}

#[test]
fn the_agents_of_vendors_have_their_keys_checked() {
    let text = "[agent.a]\nkind = \"openai\"\nurl = \"wss://me.example.com/openai/v1/realtime\"\nquery.deployment = \"d\"\n\
                auth = \"api-key\"\napi_key = \"${env:K}\"\naudio_in = \"pcmu\"\nheaders.x-region = \"eu\"\n\
                setup.tools = [\"end_call\", \"look\"]\n[tool.look]\ndescription = \"Looks\"\n";
    let machine = Machine::with(&[("K", "v")], &[]);
    machine.check(&[text]).unwrap();
    refused(
        "[agent.a]\nkind = \"openai\"\nagent_id = \"x\"\n",
        &["3:1 agent_id | no meaning for an agent of kind `openai` | `elevenlabs`"],
    );
    refused("[agent.a]\nkind = \"openai\"\nauth = \"basic\"\n", &["3:8 \"basic\" | bearer"]);
    refused(
        "[agent.a]\nkind = \"openai\"\nauth = { token_command = [] }\n",
        &["3:8 { token_command = [] } | names no program"],
    );
    refused(
        "[agent.a]\nkind = \"elevenlabs\"\nagent_id = \"x\"\nauth = { token_command = [\"p\"] }\n",
        &["4:8 { token_command = [\"p\"] } | takes no tokens | `api_key`"],
    );
    refused("[agent.a]\nkind = \"elevenlabs\"\n", &["1:8 a | has no `agent_id`"]);
    refused("[agent.a]\nkind = \"pipecat\"\n", &["1:8 a | has no `url`"]);
    refused("[agent.a]\nkind = \"chat\"\nurl = \"wss://h\"\n", &["3:7 \"wss://h\" | https or http"]);
    refused("[agent.a]\nkind = \"gemini\"\nquery.api_key = \"x\"\n", &["3:7 api_key | a secret in a URL"]);
}

#[test]
fn a_variable_that_is_missing_is_an_error_for_an_agent_of_the_file() {
    let text = "[agent.a]\nkind = \"openai\"\napi_key = \"${env:NOT_THERE}\"\n";
    refused(text, &["3:11 \"${env:NOT_THERE}\" | the variable NOT_THERE is not set | set NOT_THERE"]);
    refused("[agent.openai]\nmax_sessions = 5\n", &["1:8 openai | OPENAI_API_KEY is not set"]);
}

// ------------------------------------------------------------------------------------------------------- secrets

const SECRET: &str = "sk-very-secret-9";

#[test]
fn secrets_come_from_variables_files_and_credentials() {
    let machine = Machine::with(
        &[("KEY", "one"), ("CREDENTIALS_DIRECTORY", "/cred")],
        &[("conf/key.txt", "two\n"), ("/cred/name", "three")],
    );
    for (reference, value) in [("${env:KEY}", "one"), ("${file:key.txt}", "two"), ("${cred:name}", "three")] {
        let text = format!("[agent.a]\nkind = \"websocket\"\nurl = \"ws://h\"\napi_key = \"{reference}\"\n");
        let settings = machine.check(&[&text]).unwrap();
        let AgentKind::Websocket(websocket) = &settings.agent("a").unwrap().kind else { panic!() };
        let (name, shown) = &websocket.headers[0];
        assert_eq!(name, "authorization");
        assert_eq!(secrecy::ExposeSecret::expose_secret(shown), format!("Bearer {value}"));
    }
}

#[test]
fn a_secret_in_the_file_is_refused_and_not_shown() {
    let cases = [
        format!("[agent.a]\nkind = \"openai\"\napi_key = \"{SECRET}\"\n"),
        format!("[agent.a]\nkind = \"openai\"\ncredential.acme = {{ api_key = \"{SECRET}\", x = 1 }}\n"),
        format!("[agent.a]\nkind = \"websocket\"\nurl = \"ws://h\"\nheaders = {{ Authorization = \"{SECRET}\" }}\n"),
        format!("[agent.a]\nkind = \"websocket\"\nurl = \"ws://u:{SECRET}@h\"\n"),
        format!("[hook.h]\nurl = \"https://h\"\nsecret = \"{SECRET}\"\n"),
        format!("[tool.t]\ndescription = \"d\"\nrun = \"http\"\nurl = \"https://h\"\nsecret = \"{SECRET}\"\n"),
        format!("[webrtc]\nice_servers = [{{ urls = \"turn:h\", credential = \"{SECRET}\" }}]\n"),
        format!("[redis]\nurl = \"redis://:{SECRET}@h\"\n"),
        format!("[agent.a]\nkind = \"openai\"\napi_key = \"{SECRET}\n"),
        format!("[agent.a]\nkind = \"openai\"\nvendor = {{ session.password = \"{SECRET}\" }}\n"),
        format!("[agent.a]\nkind = \"openai\"\napi_key = [\"{SECRET}\"]\n"),
    ];
    for text in cases {
        let errors = Machine::default().check(&[&text]).expect_err(&text);
        for shown in [errors.to_string(), format!("{errors:?}")] {
            assert!(!shown.contains("very-secret"), "{shown}");
        }
    }
    refused(
        &format!("[agent.a]\nkind = \"openai\"\napi_key = \"{SECRET}\" # the key\n"),
        &["3:11 \"***\" | `agent.a.api_key` must not hold the secret itself | write api_key = \"${env:NAME}\""],
    );
}

#[test]
fn secrets_never_appear_in_debug_or_in_printed_configuration() {
    let names = ["A", "B", "C", "D", "E", "F", "G"];
    let values: Vec<String> = names.iter().map(|name| format!("{SECRET}-{name}")).collect();
    let mut env: Vec<(&str, &str)> = names.iter().copied().zip(values.iter().map(String::as_str)).collect();
    let redis = format!("redis://:{SECRET}@h/");
    env.push(("ANTIPHON_REDIS__URL", &redis));
    let key = format!("{SECRET}-env");
    env.push(("ANTIPHON_AGENT__A__API_KEY", &key));
    let text = r#"
[agent.a]
kind = "websocket"
url = "ws://h"
credential.acme.api_key = "${env:A}"
headers = { X-Api-Key = "${env:B}", X-Other = "a ${env:C}" }
[agent.o]
kind = "openai"
api_key = "${env:D}"
[hook.h]
url = "https://h"
secret = "${env:E}"
[tool.t]
description = "d"
run = "http"
url = "https://h"
secret = "${env:F}"
[webrtc]
ice_servers = [{ urls = "turn:h", credential = "${env:G}" }]
"#;
    let machine = Machine::with(&env, &[]);
    let settings = machine.check(&[text]).unwrap();
    let router = crate::route::Router::new(&settings);
    let mut shown = vec![format!("{:?}", settings.hooks), format!("{:?}", settings.tools), format!("{router:?}")];
    shown.push(format!("{:?} {:?} {:?}", settings.redis, settings.webrtc, settings.credentials));
    shown.push(machine.print(&[text], true));
    for shown in &shown {
        assert!(!shown.contains("very-secret"), "{shown}");
    }
    let printed = shown.pop().unwrap();
    assert!(printed.contains(r#"api_key = "${env:D}"  # a.toml:9:1"#), "{printed}");
    assert!(printed.contains(r#"url = "***"  # ANTIPHON_REDIS__URL"#), "{printed}");
}

// ---------------------------------------------------------------------------------------- zones, anonymous callers

#[test]
fn a_route_with_a_zone_keeps_its_calls_in_it() {
    let agents = "[agent.eu]\nkind = \"echo\"\nzone = \"eu\"\n[agent.us]\nkind = \"echo\"\nzone = \"us\"\n[agent.none]\nkind = \"echo\"\n";
    let zone = "[[route]]\nname = \"r\"\nzone = \"eu\"\n";
    assert!(Machine::default().check(&[&format!("{agents}{zone}to = \"eu\"\n")]).is_ok());
    refused(
        &format!("{zone}to = \"us\"\n{agents}"),
        &["4:6 \"us\" | route `r` would leave zone `eu`: agent `us` is in zone `us`"],
    );
    refused(
        &format!("{zone}to = \"eu\"\nfallback = \"none\"\n{agents}"),
        &["5:12 \"none\" | agent `none` has no zone"],
    );
    refused(
        &format!("{zone}to = \"eu\"\ntaps = [{{ agent = \"us\" }}]\n{agents}"),
        &["5:8 [{ agent = \"us\" }] | agent `us`"],
    );
    refused(
        &format!("{zone}to = \"requested\"\n[agent.x]\nkind = \"echo\"\n"),
        &["4:6 \"requested\" | agent `x` has no zone"],
    );
}

#[test]
fn anyone_may_not_spend_a_key_without_bounds() {
    let env = [("K", "v")];
    let head = "[agent.a]\nkind = \"websocket\"\nurl = \"ws://h\"\napi_key = \"${env:K}\"\n[limit.l]\nunit = \"sessions\"\nrate = 5\n[limits.s]\nuse = \"l\"\n";
    let route = |rest: &str| format!("[[route]]\nname = \"open\"\nanonymous = true\n{rest}\n");
    // listener, route, agent reached => allowed
    let matrix = [
        ("127.0.0.1:1", "to = \"a\"", true),
        ("[::1]:1", "to = \"a\"", true),
        ("0.0.0.0:1", "to = \"a\"", false),
        ("[::]:1", "to = \"a\"", false),
        ("192.0.2.1:1", "to = \"echo\"\nfallback = \"a\"", false),
        ("0.0.0.0:1", "to = \"echo\"\ntaps = [{ agent = \"a\" }]", false),
        ("0.0.0.0:1", "to = \"requested\"", false),
        ("0.0.0.0:1", "to = \"echo\"", true),
        ("0.0.0.0:1", "to = \"a\"\nlimits = \"s\"", false),
        ("0.0.0.0:1", "to = \"a\"\nmax_s = 600", false),
        ("0.0.0.0:1", "to = \"a\"\nlimits = \"s\"\nmax_s = 600", true),
    ];
    for (listen, rest, allowed) in matrix {
        let text = format!("{head}[listen]\nhttp = \"{listen}\"\n{}", route(rest));
        let result = Machine::with(&env, &[]).check(&[&text]);
        assert_eq!(result.is_ok(), allowed, "{listen} {rest}: {result:?}");
        if let Err(errors) = result {
            let text = errors.to_string();
            for part in ["route `open`", "agent `a`", "anonymous = true", "`limits` and `max_s`", "127.0.0.1"] {
                assert!(text.contains(part), "{text}\ndoes not say {part}");
            }
        }
    }
    let text = format!("{head}[listen]\nhttp = \"0.0.0.0:1\"\n[[route]]\nname = \"closed\"\nto = \"a\"\n");
    assert!(Machine::with(&env, &[]).check(&[&text]).is_ok(), "a route that wants credentials is no risk");
    let text = format!("{head}[listen]\nwebrtc = \"0.0.0.0:1\"\n{}", route("to = \"a\""));
    assert!(Machine::with(&env, &[]).check(&[&text]).is_err(), "every listener counts");
}

// -------------------------------------------------------------------------------------------------- what it can say

#[test]
fn the_limits_of_the_five_systems_can_be_said() {
    let text = r#"
[http.websocket]
max_message_bytes = 131072          # jung: limits on audio and message size
[limit.connections]                 # jung: 100 connections/60 s, then blocked 60 s
key = ["user"]
unit = "connections"
rate = "100/60s"
block_s = 60
[limit.chunks]                      # jung: 600 audio chunks/60 s, then blocked 30 s
key = "user"
unit = "audio_frames"
rate = "600/60s"
block_s = 30
[limit.messages]                    # avai: 60 messages a minute per user
key = "user"
unit = "messages"
rate = "60/1m"
[limit.concurrent]                  # jung: 100 concurrent conversations
key = []
unit = "sessions"
rate = 100
[limits.jung]
use = ["connections", "chunks", "concurrent"]
[limits.avai]
use = "messages"
[[route]]
name = "jung"
to = "echo"
limits = ["jung", "avai"]
"#;
    let settings = good(text);
    let chunks = &settings.limits["chunks"];
    assert_eq!((chunks.unit, chunks.key.as_slice()), (LimitUnit::AudioFrames, [LimitKey::User].as_slice()));
    assert_eq!((chunks.amount, chunks.per.unwrap().as_secs(), chunks.block.as_secs()), (600.0, 60, 30));
    assert_eq!((settings.limits["concurrent"].amount, settings.limits["concurrent"].per), (100.0, None));
    assert_eq!(settings.routes[0].limits, ["jung", "avai"]);
}

#[test]
fn a_key_without_effect_is_told_with_its_place() {
    let settings = good(&format!("{ROUTE}slo.added_p99_ms = 5\n[demo]\nenabled = true\n"));
    let told: Vec<_> = settings.inert.iter().map(|inert| format!("{} {}", inert.place, inert.key)).collect();
    assert_eq!(told, ["a.toml:4:1 slo of route `r`", "a.toml:5:2 demo"]);
}

#[test]
fn printed_configuration_is_what_it_was_printed_from() {
    let text = r#"
[http]
origins = ["localhost", "https://*.example.com"]
[[route]]
name = "a b"
match = { agent = ["x*"], claim.plan.name = ["pro", 5], header.X-A = "1" }
to = [{ agent = "echo", weight = 3, label = "A" }, "clip"]
[route.setup]
instructions = "two\nlines \"quoted\""
[[route]]
name = "rest"
to = "requested"
[agent."odd name"]
like = "echo"
display = { name = "N", list = [1, 2.5, true] }
"#;
    let machine = Machine::default();
    let printed = machine.print(&[text], false);
    assert_eq!(machine.print(&[&printed], false), printed);
    let (once, twice) = (good(text), good(&printed));
    assert_eq!(
        format!("{:?}", (&once.routes, &once.agents, &once.http)),
        format!("{:?}", (&twice.routes, &twice.agents, &twice.http))
    );
    let origins = machine.print(&[text], true);
    assert!(origins.contains("http = \"127.0.0.1:8080\"  # built in"), "{origins}");
    assert!(origins.contains("name = \"rest\"  # a.toml:11:1"), "{origins}");
    assert!(origins.contains("max_s = 3600  # built in"), "{origins}");
}

#[test]
fn print_config_shows_the_text_of_instructions() {
    let machine = Machine::with(&[], &[("conf/i.md", "Be kind.\nBe brief.")]);
    let printed = machine.print(&["[agent.echo.setup]\ninstructions_file = \"i.md\"\n"], false);
    assert!(printed.contains("instructions_file = \"i.md\"\n#   Be kind.\n#   Be brief.\n"), "{printed}");
}

#[test]
fn a_reload_says_which_keys_need_a_restart() {
    let old = Settings::default();
    assert_eq!(restart_keys(&old, &good(ROUTE)), Vec::<&str>::new());
    let new = good("[listen]\nhttp = \"127.0.0.1:9\"\n[runtime]\nworkers = 3\n[http]\nmax_headers = 9\n");
    assert_eq!(restart_keys(&old, &new), ["listen.http", "runtime.workers"]);
}

// -------------------------------------------------------------------------------------------------- shipped files

/// The machine on which every example works.
fn example_machine() -> Machine {
    let env = ["AGENT_KEY", "AGENT_KEY_ACME", "TURN_PASSWORD", "TOOL_SECRET", "HOOK_SECRET", "REDIS_PASSWORD"]
        .map(|name| (name, "x"));
    let mut machine = Machine::with(&env, &[]);
    machine.env.insert("REDIS_URL".into(), "redis://127.0.0.1".into());
    for name in ["JWT_SECRET", "TOKEN_SECRET", "TOKEN_SECRET_BEFORE"] {
        machine.env.insert(name.into(), "a secret of 32 bytes or some more".into());
    }
    let key = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
    machine.files.insert("conf/keys/public.pem".into(), key.into());
    for file in ["fullchain.pem", "privkey.pem", "sorry.wav", "one-moment.wav", "prompts/support.md"] {
        machine.files.insert(Path::new("conf").join(file), "text".into());
    }
    let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    machine.files.insert("conf/ca.pem".into(), certificate.into());
    machine.files.insert("conf/tools/lookup_order.json".into(), "{\"type\": \"object\"}".into());
    machine
}

/// The reference with every `#key` line set.
fn uncommented() -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.starts_with(' ') => rest.to_owned(),
        _ => line.to_owned(),
    };
    examples::example("antiphon").unwrap().lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_shipped_file_is_right() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut machine = example_machine();
    for vendor in ["OPENAI", "AZURE_OPENAI", "XAI", "ELEVENLABS", "DEEPGRAM", "GEMINI"] {
        machine.env.insert(format!("{vendor}_API_KEY"), "x".into());
    }
    machine.env.insert("ELEVENLABS_AGENT_ID".into(), "x".into());
    let mut found = Vec::new();
    for folder in [folder.clone(), folder.join("examples")] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                let text = std::fs::read_to_string(&path).unwrap();
                if let Err(errors) = machine.check(&[&text]) {
                    panic!("{}: {errors}", path.display());
                }
                found.push((path, text));
            }
        }
    }
    assert!(found.len() > 3, "{found:?}");
    for (name, _, text) in examples::EXAMPLES {
        assert!(found.iter().any(|(_, shipped)| shipped == text), "{name} is no shipped file");
        assert!(name == "antiphon" || text.lines().count() <= 25, "{name} is too long for an example");
    }
}

#[test]
fn the_reference_says_the_defaults() {
    let reference = good(examples::example("antiphon").unwrap());
    assert_eq!(format!("{reference:?}"), format!("{:?}", Settings::default()));
}

#[test]
fn every_line_that_the_reference_leaves_out_is_right_too() {
    let machine = example_machine();
    let settings = machine.check(&[&uncommented()]).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(settings.agents.len(), 11);
    let (default, route) = (crate::route::plan::Policy::default(), &settings.routes[0].policy);
    let same = crate::route::plan::Policy {
        idle: default.idle.clone(),
        client_bitrate: default.client_bitrate,
        when_down: default.when_down.clone(),
        ..route.clone()
    };
    assert_eq!(same, default, "the reference shows other defaults for routes");
}

#[test]
fn the_reference_mentions_every_key() {
    let document = document::Document::parse(files(&[&uncommented()]).remove(0)).unwrap_or_else(|e| panic!("{e:?}"));
    let shown: BTreeSet<String> = document
        .keys()
        .map(|(path, _)| {
            let mut path: Vec<&str> = path.iter().map(String::as_str).filter(|p| p.parse::<usize>().is_err()).collect();
            if ["agent", "tool", "limit", "limits", "hook"].contains(&path[0]) && path.len() > 1 {
                path[1] = "NAME";
            }
            if path.len() > 2 && path[0] == "auth" && ["jwt", "key"].contains(&path[1]) {
                path[2] = "NAME";
            }
            if path.len() > 3 && path[2] == "credential" {
                path[3] = "NAME";
            }
            path.join(".")
        })
        .collect();
    let text = uncommented();
    let missing: Vec<String> = keys::all()
        .into_iter()
        .filter(|key| !key.ends_with(".NAME") && !shown.contains(key))
        .filter(|key| !shown.contains(&key.replace("route.setup.", "agent.NAME.setup.")))
        .filter(|key| {
            let (table, last) = key.rsplit_once('.').unwrap_or(("", key));
            !(table.ends_with("greeting") && text.contains(&format!("{{ {last} }}")))
        })
        .collect();
    assert!(missing.is_empty(), "not in config/antiphon.toml: {missing:#?}");
    assert!(shown.len() > 100);
}

// -------------------------------------------------------------------------------------------------- robustness

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic_and_every_fault_points_into_the_text(
        cuts in proptest::collection::vec((0usize..12_000, 0usize..40, "[a-zäö\\[\\]{}=\"'.#\n 0-9-]{0,6}"), 1..4),
    ) {
        let mut text: Vec<char> = uncommented().chars().collect();
        for (at, length, insert) in cuts {
            let at = at.min(text.len());
            let end = (at + length).min(text.len());
            text.splice(at..end, insert.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(errors) = example_machine().check(&[&text]) {
            proptest::prop_assert!(!errors.errors.is_empty());
            for error in &errors.errors {
                let shown = error.to_string();
                proptest::prop_assert!(shown.starts_with(error.source()));
                if let (Some(line), Some(column)) = (error.line(), error.column()) {
                    let written = text.split('\n').nth(line - 1).unwrap_or_default();
                    proptest::prop_assert!(column <= written.chars().count() + 1, "{shown}");
                }
            }
        }
    }
}
