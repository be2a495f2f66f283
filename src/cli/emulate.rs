//! Emulated peers for tests.
