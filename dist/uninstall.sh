#!/bin/sh
# Takes away what install.sh put in place, but for what an administrator may have changed; 'make uninstall' calls it.
set -eu
cd "$(dirname "$0")/.."

. dist/package/places.sh
sh dist/package/before-remove.sh "$DESTDIR"
for file in "$PREFIX/bin/dcgm-exporter" "$UNITDIR/dcgm-exporter.service" "$UNITDIR/dcgm-exporter.socket" \
    "$TMPFILESDIR/dcgm-exporter.conf" "$MANDIR/dcgm-exporter.1" "$COMPLETIONS/dcgm-exporter"; do
    rm -f "$DESTDIR$file"
done
rm -rf "$DESTDIR$DATADIR"
if [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
echo "$DESTDIR$SYSCONFDIR/dcgm-exporter is kept; remove it if nobody needs it"
