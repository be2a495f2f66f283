#!/bin/sh
# Licences, banned crates and sources of all dependencies; advisories where their database lies on this machine.
# cargo-deny is the one tool that may be absent: it takes minutes to build, and the rules it checks change with
# Cargo.lock only.
set -eu
cd "$(dirname "$0")/.."
echo "== licences, bans, sources, advisories"
if ! cargo deny --version >/dev/null 2>&1; then
    echo "NOT RUN: cargo-deny is not installed (cargo install --locked cargo-deny)"
    exit 0
fi
# It looks at the crates of all platforms, of which a build has fetched one.
cargo fetch --quiet --locked
cargo deny --offline check licenses bans sources
if ls -d "${CARGO_HOME:-$HOME/.cargo}"/advisory-db*/*/.git >/dev/null 2>&1; then
    cargo deny --offline check advisories
else
    echo "NOT RUN: advisories; their database is not on this machine (cargo deny fetch db)"
fi
