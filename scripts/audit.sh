#!/bin/sh
# Ask for known holes in every package of the locks: `make audit`. Needs a network, and says so without one.
#
# Ends with 0 when none is known, 1 when some are, 2 when it could not be asked.
set -u

cd "$(dirname "$0")/.." || exit 2
tools=${AUDIT_VENV:-.venv-audit}
say() { printf '==> %s\n' "$*"; }

if [ ! -x "$tools/bin/pip-audit" ]; then
    say "installing pip-audit into $tools, beside what is audited"
    if ! { "${PYTHON:-python3}" -m venv "$tools" &&
        "$tools/bin/python" -m pip install -qq --disable-pip-version-check --retries 1 pip-audit==2.10.1; }; then
        say "NOT AUDITED: pip-audit cannot be installed: no network, or no such package in the index"
        rm -rf "$tools"
        exit 2
    fi
fi

worst=0
for lock in requirements.lock requirements-dev.lock; do
    say "known holes in $lock"
    said=$("$tools/bin/pip-audit" --require-hashes --disable-pip --timeout 30 -r "$lock" 2>&1)
    status=$?
    printf '%s\n' "$said"
    # A package that the service does not know of is passed over, and with none left pip-audit says that all is well.
    case $status:$said in
    *"could not be audited"*) worst=2 ;;
    0:*) ;;
    *"Found "*" known vulnerabilit"*) [ "$worst" -eq 2 ] || worst=1 ;;
    *) worst=2 ;;
    esac
done
[ "$worst" -ne 2 ] || say "NOT AUDITED: the service that knows of holes did not answer; that says nothing of the packages"
exit "$worst"
