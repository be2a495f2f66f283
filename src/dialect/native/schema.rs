//! The JSON Schema of `antiphon.v1`.
