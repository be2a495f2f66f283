//! What antiphon tells its operators: metrics, logs and one record per call.
//!
//! Every metric is declared once, in [`names`]. Everything else holds handles: [`NodeMetrics`] for the process and its
//! workers, [`SessionMetrics`] for one session, resolved when the session starts. Nothing here waits for a reader: logs
//! and call records go through bounded queues to a thread of their own and are dropped, and counted, when it lags.

pub mod admission;
mod background;
mod cluster;
pub mod logs;
pub mod metrics;
pub mod names;
pub mod node;
pub mod overload;
mod process;
pub mod record;
mod registry;
#[cfg(test)]
mod tests;

pub use admission::{AdmissionMetrics, HookOutcome};
pub use cluster::{ClusterMetrics, WaitResult};
pub use metrics::{Path, SessionLabels, SessionMetrics, SetupStage};
pub use node::{ActiveSession, NodeMetrics, NodeQueue, OpenConnection, Refusal, ResumeOutcome, WorkerMetrics};
pub use overload::OverloadMetrics;
pub use record::{CallRecordSink, CallRecordTarget};
pub use registry::{DecimalCounter, Telemetry};
