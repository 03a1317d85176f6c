#!/bin/sh
# Takes away what install.sh put in place; 'make uninstall' calls it. What an administrator has changed in
# /etc/dcgm-exporter, or put there, is kept, and so is a mask.
set -eu
cd "$(dirname "$0")/.."

. dist/package/places.sh
. dist/package/engine-link.sh

if [ ! -e "$DESTDIR$PREFIX/bin/dcgm-exporter" ] && [ -e "$DESTDIR/usr/bin/dcgm-exporter" ]; then
    refuse "dcgm-exporter is installed as a package here; remove it as one: apt-get remove dcgm-exporter, or dnf remove \
dcgm-exporter."
fi
is_live=no
if [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; then is_live=yes; fi
if [ $is_live = yes ]; then
    # The process first: it would go on from a file that is there no more.
    systemctl disable --now dcgm-exporter.socket dcgm-exporter.service || true
fi
rm -f "$DESTDIR/etc/systemd/system/multi-user.target.wants/dcgm-exporter.service" \
    "$DESTDIR/etc/systemd/system/sockets.target.wants/dcgm-exporter.socket"
engine_unlink "$DESTDIR"
for unit in $UNITS; do
    if ! is_masked "$unit"; then rm -f "$DESTDIR$UNITDIR/$unit"; fi
done
for file in "$PREFIX/bin/dcgm-exporter" "$TMPFILESDIR/dcgm-exporter.conf" "$MANDIR/dcgm-exporter.1" \
    "$MANDIR/dcgm-exporter.1.gz" "$COMPLETIONS/dcgm-exporter" "$ZSH/_dcgm-exporter" "$FISH/dcgm-exporter.fish"; do
    rm -f "$DESTDIR$file"
done
settings=$SYSCONFDIR/dcgm-exporter
# A package that was installed beside has its settings in the same place.
is_shared=no
if [ -e "$DESTDIR/usr/bin/dcgm-exporter" ]; then is_shared=yes; fi
if [ $is_shared = no ] && [ -f "$DESTDIR$SUMS" ]; then
    while read -r _ file; do
        is_ours "$file" || continue
        rm -f "$DESTDIR$file.new"
        if is_unchanged "$file"; then rm -f "$DESTDIR$file"; fi
    done <"$DESTDIR$SUMS"
fi
rmdir "$DESTDIR$settings" 2>/dev/null || true
rm -rf "$DESTDIR${DATADIR:?}" "$DESTDIR${DOCDIR:?}"
if [ -z "$DESTDIR" ] && [ $is_shared = no ]; then
    rm -rf /run/dcgm-job-map /run/dcgm-exporter
    for directory in /var/lib/dcgm-exporter /var/spool/dcgm-exporter; do
        rmdir "$directory" 2>/dev/null || true
        if [ -e "$directory" ]; then
            echo "$directory, which has summaries of jobs, is kept; remove it if nobody needs it"
        fi
    done
fi
if [ $is_live = yes ]; then systemctl daemon-reload || true; fi
if [ $is_shared = yes ]; then
    echo "$DESTDIR$settings is kept: the package that is installed here uses it"
elif [ -d "$DESTDIR$settings" ]; then
    echo "$DESTDIR$settings has files that were changed or added, and is kept; remove it if nobody needs it"
fi
echo "dcgm-exporter is no longer in ${DESTDIR:-this node}"
