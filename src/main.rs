//! The antiphon daemon and its tools.

fn main() {}
