#!/bin/sh
# Make the virtual environment and install what a target needs, saying what happens.
#
#   scripts/setup.sh demo   the package with what `autoscaler demo` uses
#   scripts/setup.sh test   the same, the development tools, and the real servers that tests use
#
# Safe to run again: what is in place is left alone.
set -eu

want=${1:?usage: scripts/setup.sh demo|test}
cd "$(dirname "$0")/.."

say() { printf '==> %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# debian PACKAGE... installs what is missing, where this machine allows it
debian() {
    missing=
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    if ! command -v apt-get >/dev/null 2>&1; then
        say "no apt-get here: install these yourself, or the tests that need them fail:$missing"
    elif [ "$(id -u)" -ne 0 ]; then
        say "not root: run  sudo apt-get install --no-install-recommends$missing"
    else
        say "installing Debian packages:$missing"
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq
        # a package's service must not start by itself: the tests start each server with its own config
        # shellcheck disable=SC2086  # a list of package names, split on purpose
        RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $missing >/dev/null
    fi
}

python=${PYTHON:-python3}
if ! command -v "$python" >/dev/null 2>&1 || ! "$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then
    debian python3 python3-venv
fi
command -v "$python" >/dev/null 2>&1 || die "no $python: run  apt-get install python3 python3-venv"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "$("$python" --version) is too old: 3.11 or newer is needed (set PYTHON=/path/to/python3.11)"

lock=requirements.lock
[ "$want" = test ] && lock=requirements-dev.lock
stamp=.venv/.installed-$want
sum=$(cat "$lock" pyproject.toml | sha256sum | cut -d' ' -f1)
if [ "$(cat "$stamp" 2>/dev/null)" != "$sum" ]; then
    if [ ! -x .venv/bin/python ]; then
        say "making the virtual environment .venv with $("$python" --version)"
        "$python" -m venv .venv || die "cannot make .venv: run  apt-get install python3-venv"
    fi
    say "installing the locked packages of $lock (hashes checked; half a minute the first time)"
    .venv/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r "$lock"
    .venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
    echo "$sum" >"$stamp"
fi

if [ "$want" = test ]; then
    debian curl haproxy openssh-server prometheus shellcheck systemd
fi
say "set-up done"
