#!/bin/sh
# The Python environment of the tests, in .venv; made anew when its list changes, else left alone.
set -eu
cd "$(dirname "$0")/.."
stamp=.venv/requirements.txt
if [ -x .venv/bin/python ] && cmp -s setup/requirements.txt "$stamp" && .venv/bin/python -c pass; then
    echo "the Python environment is there"
    exit 0
fi
rm -rf .venv
python3 -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r setup/requirements.txt </dev/null
cp setup/requirements.txt "$stamp"
