//! One JSON line per finished call.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::background::Background;
use super::{NodeQueue, Telemetry};

/// Records that may wait for a slow disk.
const CAPACITY: usize = 1024;

/// Where call records go: `[telemetry] call_record`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallRecordTarget {
    /// `"log"`: an event of target `antiphon::call` at level info, whose field `record` is the JSON.
    Log,
    /// A path: appended to this file, which is opened for each record, so that it can be rotated at any time.
    File(PathBuf),
}

impl From<&str> for CallRecordTarget {
    fn from(text: &str) -> Self {
        if text == "log" { CallRecordTarget::Log } else { CallRecordTarget::File(text.into()) }
    }
}

type Serialized = Box<dyn FnOnce() -> serde_json::Result<Vec<u8>> + Send>;

/// Takes call records and never blocks; cheap to clone.
#[derive(Clone)]
pub struct CallRecordSink(Background<Serialized>);

impl std::fmt::Debug for CallRecordSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CallRecordSink")
    }
}

impl CallRecordSink {
    /// Starts the writer.
    ///
    /// # Errors
    /// If the file cannot be opened for appending, or no thread can be started.
    pub fn open(target: CallRecordTarget, telemetry: &Telemetry) -> io::Result<Self> {
        if let CallRecordTarget::File(path) = &target {
            append(path, b"")
                .map_err(|error| io::Error::new(error.kind(), format!("call_record {}: {error}", path.display())))?;
        }
        let failed = telemetry.node().call_records_failed();
        let dropped = telemetry.node().dropped(NodeQueue::CallRecords);
        let write = move |record: Serialized| {
            if let Err(error) = record().map_err(io::Error::from).and_then(|line| write(&target, line)) {
                failed.increment(1);
                tracing::warn!(%error, "a call record was not written");
            }
        };
        Background::spawn("call-records", CAPACITY, dropped, write).map(Self)
    }

    /// Queues a record; `false` if it was dropped because the writer lags, which is counted. It is turned into JSON by
    /// the writer.
    pub fn try_send(&self, record: impl Serialize + Send + 'static) -> bool {
        self.0.try_send(Box::new(move || serde_json::to_vec(&record)))
    }

    /// Waits until all records queued before are written, at most for `deadline`; `false` if they are not. Blocks: for
    /// the end of the process.
    pub fn flush(&self, deadline: Duration) -> bool {
        self.0.flush(deadline)
    }
}

fn write(target: &CallRecordTarget, mut line: Vec<u8>) -> io::Result<()> {
    match target {
        CallRecordTarget::Log => {
            let record = String::from_utf8(line).map_err(io::Error::other)?;
            tracing::info!(target: "antiphon::call", record, "call ended");
            Ok(())
        }
        CallRecordTarget::File(path) => {
            line.push(b'\n');
            append(path, &line)
        }
    }
}

fn append(path: &Path, line: &[u8]) -> io::Result<()> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)?.write_all(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Record {
        session_id: &'static str,
        words: &'static str,
    }

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("antiphon-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn each_call_is_one_json_line_even_across_a_rotation() {
        let folder = folder("rotation");
        let path = folder.join("calls.jsonl");
        let sink = CallRecordSink::open(path.to_str().unwrap().into(), &Telemetry::new()).unwrap();
        assert!(sink.try_send(Record { session_id: "s-1", words: "a\nb" }));
        assert!(sink.flush(Duration::from_secs(10)));
        std::fs::rename(&path, folder.join("calls.jsonl.1")).unwrap();
        assert!(sink.try_send(Record { session_id: "s-2", words: "" }));
        assert!(sink.flush(Duration::from_secs(10)));
        for (file, id) in [("calls.jsonl.1", "s-1"), ("calls.jsonl", "s-2")] {
            let text = std::fs::read_to_string(folder.join(file)).unwrap();
            assert_eq!(text.lines().count(), 1, "{text}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["session_id"], id);
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named_at_the_start_and_counted_later() {
        let folder = folder("refused");
        let path = folder.join("missing/calls.jsonl");
        let target = CallRecordTarget::File(path.clone());
        let error = CallRecordSink::open(target.clone(), &Telemetry::new()).unwrap_err().to_string();
        assert!(error.contains("calls.jsonl"), "{error}");

        std::fs::create_dir(folder.join("missing")).unwrap();
        let telemetry = Telemetry::new();
        let sink = CallRecordSink::open(target, &telemetry).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        sink.try_send(Record { session_id: "s-1", words: "" });
        assert!(sink.flush(Duration::from_secs(10)));
        assert!(telemetry.render().contains("antiphon_call_records_failed_total 1"));
    }

    #[test]
    fn the_word_log_is_no_file() {
        assert_eq!(CallRecordTarget::from("log"), CallRecordTarget::Log);
        assert_eq!(CallRecordTarget::from("log.jsonl"), CallRecordTarget::File("log.jsonl".into()));
    }
}
