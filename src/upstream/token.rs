//! Tokens that a command prints: one run at a time per command, the token kept until it is to be refreshed.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use secrecy::SecretString;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::Instant;

use crate::config::vendor::TokenCommand;
use crate::message::{AgentError, FailureClass};
use crate::upstream::dial::failure;

/// Longest token, in bytes.
const MAX_TOKEN: u64 = 16 * 1024;

type Slot = Arc<tokio::sync::Mutex<Option<Held>>>;

#[derive(Debug)]
struct Held {
    token: SecretString,
    until: Instant,
}

/// The tokens of a process, by command; there are as many as the configuration names.
#[derive(Clone, Debug, Default)]
pub(super) struct Tokens {
    slots: Arc<Mutex<HashMap<TokenCommand, Slot>>>,
}

impl Tokens {
    /// The token of `command`: the one kept, or what it prints now. The caller keeps the deadline.
    ///
    /// # Errors
    /// If the command cannot be run, fails, or prints no token. What it prints is never in the error.
    pub(super) async fn token(self, command: TokenCommand) -> Result<SecretString, AgentError> {
        let slot =
            self.slots.lock().unwrap_or_else(PoisonError::into_inner).entry(command.clone()).or_default().clone();
        // Whoever comes meanwhile waits for the same run.
        let mut held = slot.lock().await;
        if let Some(kept) = held.as_ref().filter(|kept| Instant::now() < kept.until) {
            return Ok(kept.token.clone());
        }
        let asked = Instant::now();
        let token = run(&command.command).await?;
        *held = Some(Held { token: token.clone(), until: asked + command.refresh });
        Ok(token)
    }
}

async fn run(command: &[String]) -> Result<SecretString, AgentError> {
    let (program, arguments) = command.split_first().ok_or_else(|| wrong("token_command", "names no program"))?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| wrong(program, &format!("cannot be run: {error}")))?;
    let mut printed = String::new();
    if let Some(out) = child.stdout.take() {
        let read = out.take(MAX_TOKEN + 1).read_to_string(&mut printed).await;
        read.map_err(|error| wrong(program, &format!("printed no text: {error}")))?;
    }
    if printed.len() as u64 > MAX_TOKEN {
        return Err(wrong(program, "printed more than a token"));
    }
    let status = child.wait().await.map_err(|error| wrong(program, &error.to_string()))?;
    if !status.success() {
        return Err(wrong(program, &format!("ended with {status}")));
    }
    let token = printed.trim();
    if token.is_empty() || token.contains(char::is_whitespace) {
        return Err(wrong(program, "printed no token, or more than one word"));
    }
    Ok(token.to_owned().into())
}

fn wrong(program: &str, what: &str) -> AgentError {
    failure(FailureClass::Auth, format!("the token command `{program}` {what}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use secrecy::ExposeSecret;

    use super::*;

    fn shell(script: &str, refresh: Duration) -> TokenCommand {
        TokenCommand { command: vec!["sh".into(), "-c".into(), script.into()], refresh }
    }

    #[tokio::test]
    async fn a_token_is_fetched_once_for_many_and_again_when_it_has_aged() {
        let file = std::env::temp_dir().join(format!("antiphon-token-{}", std::process::id()));
        let script = format!("echo run >> {0}; echo token-$(wc -l < {0})", file.display());
        let tokens = Tokens::default();
        let long = shell(&script, Duration::from_secs(60));
        let many = (0..8).map(|_| tokens.clone().token(long.clone()));
        for token in futures_util::future::join_all(many).await {
            assert_eq!(token.unwrap().expose_secret(), "token-1");
        }
        let short = shell(&script, Duration::ZERO);
        assert_eq!(tokens.clone().token(short.clone()).await.unwrap().expose_secret(), "token-2");
        assert_eq!(tokens.token(short).await.unwrap().expose_secret(), "token-3");
        std::fs::remove_file(file).unwrap();
    }

    #[tokio::test]
    async fn a_command_that_fails_or_prints_no_token_is_told_without_what_it_printed() {
        for (script, what) in [
            ("echo hidden; exit 3", "exit status: 3"),
            ("echo hidden hidden", "more than one word"),
            ("true", "no token"),
        ] {
            let error = Tokens::default().token(shell(script, Duration::ZERO)).await.unwrap_err();
            assert_eq!(error.class, FailureClass::Auth);
            assert!(error.message.contains(what) && !error.message.contains("hidden"), "{}", error.message);
        }
        let missing = TokenCommand { command: vec!["/no/such/program".into()], refresh: Duration::ZERO };
        assert!(Tokens::default().token(missing).await.unwrap_err().message.contains("cannot be run"));
    }
}
