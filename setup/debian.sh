#!/bin/sh
# Installs what the tests need and a fresh Debian lacks. Works as root and through sudo; does nothing when all is there.
# One line per package: package | how to see that it is there | what needs it
set -eu

packages() {
    cat <<'LIST'
gcc             | command -v cc                                   | libopus, the TLS library, pesq
libc6-dev       | test -e /usr/include/stdio.h                     | the same
make            | command -v make                                 | this set-up, and libopus below cmake
cmake           | command -v cmake                                | libopus
prometheus      | command -v promtool                             | checks /metrics; its server is not started
systemd         | command -v systemd-analyze                      | checks the service unit
espeak-ng       | command -v espeak-ng                            | speech for the tests of audio quality
python3         | command -v python3                              | tests from outside, in another language
python3-venv    | python3 -c 'import ensurepip, venv'             | their packages, in a folder of their own
python3-dev     | test -e "$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" | builds pesq
nodejs          | command -v node                                  | builds and tests the browser client
npm             | command -v npm                                   | its packages
chromium        | command -v chromium                              | holds calls on the demo page
firefox-esr     | command -v firefox-esr                           | the same, as another engine
redis-server    | command -v redis-server                          | limits over several nodes; no server is left running
redis-tools     | command -v redis-cli                             | the same: clusters, failover
ca-certificates | test -e /etc/ssl/certs/ca-certificates.crt      | Python packages by HTTPS
LIST
}

missing=$(packages | while IFS='|' read -r package proof reason; do
    if ! sh -c "$proof" </dev/null >/dev/null 2>&1; then
        echo "missing:" $package "($(echo $reason))" >&2
        echo "$package"
    fi
done)
# shellcheck disable=SC2086
set -- $missing
if [ $# -eq 0 ]; then
    echo "all Debian packages are there"
    exit 0
fi
if ! command -v apt-get >/dev/null 2>&1; then
    echo "this is no Debian: install these by your own means, then try again: $*" >&2
    exit 1
fi
as_root=""
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null 2>&1 || { echo "needs root: apt-get install $*" >&2; exit 1; }
    as_root=sudo
fi
# Tools are wanted, not services: tell Debian not to start any, unless somebody has a policy of their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap '$as_root rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
fi
echo "installing: $*"
$as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" </dev/null
