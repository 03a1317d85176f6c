#!/bin/sh
# Takes away what install.sh put in place, but for what an administrator may have changed; 'make uninstall' calls it.
set -eu
cd "$(dirname "$0")/.."

DESTDIR=${DESTDIR:-}
PREFIX=${PREFIX:-/usr/local}
SYSCONFDIR=${SYSCONFDIR:-/etc}
UNITDIR=${UNITDIR:-$SYSCONFDIR/systemd/system}

sh dist/package/before-remove.sh "${DESTDIR%/}"
for file in "$PREFIX/bin/dcgm-exporter" "$UNITDIR/dcgm-exporter.service" "$UNITDIR/dcgm-exporter.socket" \
    "${TMPFILESDIR:-$PREFIX/lib/tmpfiles.d}/dcgm-exporter.conf" "${MANDIR:-$PREFIX/share/man/man1}/dcgm-exporter.1" \
    "${COMPLETIONS:-$PREFIX/share/bash-completion/completions}/dcgm-exporter"; do
    rm -f "$DESTDIR$file"
done
rm -rf "$DESTDIR${DATADIR:-$PREFIX/share/dcgm-exporter}"
if [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
echo "$DESTDIR$SYSCONFDIR/dcgm-exporter is kept; remove it if nobody needs it"
