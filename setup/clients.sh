#!/bin/sh
# The npm packages that build and test clients/, in clients/node_modules; installed anew when their list changes, else
# left alone. They run no scripts of their own.
set -eu
cd "$(dirname "$0")/../clients"
stamp=node_modules/.package-lock.installed.json
if cmp -s package-lock.json "$stamp"; then
    echo "the npm packages are there"
    exit 0
fi
npm ci --ignore-scripts --no-audit --no-fund --loglevel=error </dev/null
cp package-lock.json "$stamp"
