//! `antiphon check --dial` against emulated vendors.

use antiphon::cli::emulate::vendor::script::Script;
use antiphon::config::vendor::VendorKind;

use crate::Vendor;
use crate::harness::{folder, run};

#[tokio::test]
async fn check_connects_to_each_agent_and_names_the_key_that_a_refusal_is_about() {
    let announces = Script { audio_out: Some("pcmu".into()), ..Script::default() };
    let eleven = Vendor::start(VendorKind::Elevenlabs, Some("secret"), announces).await;
    let deep = Vendor::start(VendorKind::Deepgram, Some("secret"), Script::default()).await;
    let config = format!(
        "[agent.good]\nkind = \"elevenlabs\"\nurl = \"{}\"\nagent_id = \"a\"\napi_key = \"${{env:TEST_KEY}}\"\n\
         [agent.deep]\nkind = \"deepgram\"\nurl = \"{}\"\napi_key = \"${{env:TEST_KEY}}\"\n\
         setup.transcribe = false\n\
         [agent.wrong]\nlike = \"deep\"\napi_key = \"${{env:WRONG_KEY}}\"\n\
         [agent.gone]\nlike = \"deep\"\nurl = \"ws://127.0.0.1:9/\"\n",
        eleven.url, deep.url
    );
    let folder = folder();
    let file = folder.join("dial.toml");
    std::fs::write(&file, config).unwrap();
    let name = file.to_str().unwrap();
    let keys = [("TEST_KEY", "secret"), ("WRONG_KEY", "not-the-key")];
    let output = run(&["check", "--dial", name], &keys).await;
    let (text, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{text}{error}");
    let line =
        |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}: {text}"));
    let good = line("agent good (elevenlabs): connected after ");
    assert!(
        good.contains(" ms, first message after ") && good.ends_with("hears pcm16/16000, speaks pcmu/8000"),
        "{good}"
    );
    assert!(line("agent deep (deepgram): ").ends_with("hears pcm16/24000, speaks pcm16/24000"), "{text}");
    assert!(text.contains("it did not apply: transcribe"), "{text}");
    assert!(error.contains("error: agent wrong (deepgram): auth (401): ws://"), "{error}");
    assert!(error.contains(&format!("--> {name}:13:1: `agent.wrong.api_key`")), "{error}");
    assert!(
        error.contains("error: agent gone (deepgram): unreachable: cannot connect to ws://127.0.0.1:9/"),
        "{error}"
    );
    assert!(error.contains(&format!("--> {name}:16:1: `agent.gone.url`")), "{error}");
    assert!(!error.contains("not-the-key") && !text.contains("secret"), "a key is shown");
    // What it only looks at is not spoken to.
    assert!(eleven.logged("/event", "speaking").is_empty() && deep.logged("/event", "speaking").is_empty());
    let _ = std::fs::remove_dir_all(folder);
}

#[tokio::test]
async fn every_kind_of_vendor_tells_its_formats_or_refuses_the_key_by_its_place() {
    let kinds = [
        (VendorKind::Deepgram, "hears pcm16/24000, speaks pcm16/24000"),
        (VendorKind::Elevenlabs, "hears pcm16/16000, speaks pcm16/16000"),
        (VendorKind::Gemini, "hears pcm16/16000, speaks pcm16/24000"),
        (VendorKind::Live, "hears pcm16/24000, speaks pcm16/24000"),
        (VendorKind::Openai, "hears pcm16/24000, speaks pcm16/24000"),
        (VendorKind::Pipecat, "hears pcm16/16000, speaks pcm16/24000"),
        (VendorKind::Chat, "each request is an answer that is paid for"),
    ];
    let (mut config, mut vendors) = (String::new(), Vec::new());
    for (kind, _) in kinds {
        let vendor = Vendor::start(kind, Some("secret"), Script::default()).await;
        let (name, url) = (kind.label(), &vendor.url);
        let id = if kind == VendorKind::Elevenlabs { "agent_id = \"a\"\n" } else { "" };
        config += &format!(
            "[agent.{name}]\nkind = \"{name}\"\nurl = \"{url}\"\napi_key = \"${{env:TEST_KEY}}\"\n{id}\
             [agent.{name}-refused]\nlike = \"{name}\"\napi_key = \"${{env:WRONG_KEY}}\"\n"
        );
        vendors.push(vendor);
    }
    let folder = folder();
    let file = folder.join("dial.toml");
    std::fs::write(&file, &config).unwrap();
    let keys = [("TEST_KEY", "secret"), ("WRONG_KEY", "not-the-key")];
    let output = run(&["check", "--dial", file.to_str().unwrap()], &keys).await;
    let (text, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    for (kind, ends) in kinds {
        let name = kind.label();
        let line = text.lines().find(|line| line.starts_with(&format!("agent {name} ({name}): "))).unwrap_or_default();
        assert!(line.ends_with(ends), "{name}: {line:?} in {text}{error}");
        if kind != VendorKind::Chat {
            assert!(error.contains(&format!("error: agent {name}-refused ({name}): auth")), "{name}: {error}");
            let row = config.lines().position(|line| line == format!("[agent.{name}-refused]")).unwrap() + 3;
            let place = format!("--> {}:{row}:1: `agent.{name}-refused.api_key`", file.display());
            assert!(error.contains(&place), "{place}: {error}");
        }
    }
    assert!(!error.contains("not-the-key") && !text.contains("secret"), "a key is shown");
    let _ = std::fs::remove_dir_all(folder);
}
