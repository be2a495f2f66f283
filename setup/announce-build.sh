#!/bin/sh
# Says how long a build takes before it takes it. The argument is the cargo profile.
cd "$(dirname "$0")/.." || exit 1
folder="${CARGO_TARGET_DIR:-target}/$1"
[ "$1" = dev ] && folder="${CARGO_TARGET_DIR:-target}/debug"
if ! ls "$folder"/deps/libtokio-*.rlib >/dev/null 2>&1; then
    echo "== first build: about 5 minutes on 2 cores (libopus and the TLS library are compiled once);"
    echo "   later builds take seconds"
fi
