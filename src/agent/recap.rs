//! What was said before, in words, for wires that have no field for it; and the request to go on from there.

use crate::message::{ContextItem, Role};

/// What an agent is asked for when it takes over, or comes back, while the caller waits for an answer.
pub const GO_ON: &str = "Go on with this conversation where it stopped: answer what the caller said last, or finish what \
                         you were saying. Do not greet again and do not mention an interruption.";
/// Longest text, in bytes; the oldest utterances go first.
const LONGEST: usize = 32 * 1024;

/// One text of all utterances; `None` if nothing was said.
pub(super) fn recap(items: &[ContextItem]) -> Option<String> {
    let line = |item: &ContextItem| {
        let who = if item.role == Role::User { "User" } else { "You" };
        format!("{who}: {}\n", item.text)
    };
    let mut lines: Vec<String> = items.iter().map(line).collect();
    let mut length: usize = lines.iter().map(String::len).sum();
    let mut skip = 0;
    while length > LONGEST && skip < lines.len() {
        length -= lines[skip].len();
        skip += 1;
    }
    lines.drain(..skip);
    (!lines.is_empty())
        .then(|| format!("This conversation has been going on. What was said so far:\n{}", lines.concat()))
}
