#!/bin/sh
# What a build needs: cargo, a C compiler and cmake. Says what is missing and how to get it; installs nothing.
set -eu
cd "$(dirname "$0")/.."
missing=""

need() { # command, what for, Debian package
    command -v "$1" >/dev/null 2>&1 && return
    echo "missing: $1 ($2)" >&2
    missing="$missing $3"
}

need "${CC:-cc}" "a C compiler, for libopus and the TLS library" gcc
need cmake "builds libopus" cmake
if ! command -v cargo >/dev/null 2>&1; then
    echo "missing: cargo (the Rust build tool): see https://rustup.rs, or:" >&2
    echo "    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh" >&2
    exit 1
fi
if [ -n "$missing" ]; then
    echo "on Debian or Ubuntu:  sudo apt-get install$missing" >&2
    echo "on Fedora:            sudo dnf install gcc cmake" >&2
    exit 1
fi

wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
found=$(cargo --version | sed -n 's/^cargo \([0-9.]*\).*/\1/p')
oldest=$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n 1)
if [ "$oldest" != "$wanted" ]; then
    echo "cargo $found is too old: antiphon needs Rust $wanted (rustup update stable)" >&2
    exit 1
fi
