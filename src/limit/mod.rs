//! How much a caller may do: rates and numbers at once, declared as `[limit.NAME]`, decided here and at once.
//!
//! A decision is a handful of atomic operations on a cell that the session holds already: no lock, no table, no clock.
//! Where several nodes share a limit, each cell has a *lease*: so much it may spend before the cluster must have
//! counted it. What was spent is put into a bounded queue, from which the control plane reports it; its answer brings
//! the cell up to date and renews the lease. Nothing here waits for that answer.
#![deny(clippy::disallowed_methods, clippy::disallowed_macros)]

mod bucket;
mod key;
mod limiter;
mod meter;
mod meters;
mod rate;
mod regime;
mod seats;
mod table;

pub use bucket::{Bucket, Level, REPORT_AFTER, Spent};
pub use key::{Address, Key, Subject};
pub use limiter::{Ask, Counter, Counters, Grant, Kind, Limit, Limiter, Limits, Links, REPORTS, Report, Standing};
pub use meter::Meter;
pub use meters::{Meters, Refusal, Spending, Warned};
pub use rate::Rate;
pub use regime::{Regime, Rule};
pub use seats::{Seat, Seats};
pub use table::{Entry, Table};

#[cfg(test)]
mod tests;
