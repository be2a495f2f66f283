//! The committed documents against the code.

use std::path::{Path, PathBuf};

use crate::dialect::native::{errors, schema};

const REGENERATE: &str = "WRITE_DOCS=1 cargo test --lib native::tests::documents";

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)
}

fn assert_committed(name: &str, expected: &str) {
    if std::env::var_os("WRITE_DOCS").is_some() {
        std::fs::write(path(name), expected).unwrap();
    }
    let committed = std::fs::read_to_string(path(name)).unwrap_or_default();
    assert!(committed == expected, "docs/{name} is not what the code gives; run: {REGENERATE}");
}

#[test]
fn the_committed_schema_is_what_the_types_give() {
    let text = serde_json::to_string_pretty(&schema::document()).unwrap() + "\n";
    assert_committed("protocol.schema.json", &text);
}

#[test]
fn the_committed_error_page_is_what_the_code_gives() {
    assert_committed("errors.md", &errors::page());
}
