#!/bin/sh
# Puts the exporter in place, on this node or, with DESTDIR, into an image; 'make install' calls it.
#
# What is the same already is not touched, what an administrator has changed in /etc/dcgm-exporter is kept, and a unit
# that was there before is enabled or not as it was. Needs no network, no cargo, and for an image no running systemd.
set -eu
cd "$(dirname "$0")/.."

. dist/package/places.sh
BINARY=${BINARY:?the binary to install}
ENABLE=${ENABLE:-yes}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
changed=no

# put MODE SOURCE TARGET: unless it is there already.
put() {
    if [ -f "$DESTDIR$3" ] && cmp -s "$2" "$DESTDIR$3" && [ "$(stat -c %a "$DESTDIR$3")" = "$1" ]; then return; fi
    install -D -m "$1" "$2" "$DESTDIR$3"
    echo "installed $DESTDIR$3"
    changed=yes
}

# keep SOURCE TARGET: a file that is the administrator's once it is there. One that was never changed is replaced; the
# sums of what was installed tell.
sums=$DATADIR/config.sha256
keep() {
    sum=$(sha256sum <"$2" | cut -d ' ' -f 1)
    if [ -f "$DESTDIR$3" ] && ! cmp -s "$2" "$DESTDIR$3"; then
        old=$(sha256sum <"$DESTDIR$3" | cut -d ' ' -f 1)
        if ! grep -qs "^$old  $3\$" "$DESTDIR$sums"; then
            echo "$DESTDIR$3 was changed and is kept; the new one is $DESTDIR$3.new"
            put "$1" "$2" "$3.new"
            echo "$sum  $3" >>"$work/sums"
            return
        fi
    fi
    put "$1" "$2" "$3"
    echo "$sum  $3" >>"$work/sums"
}

# filled SOURCE: with the places of this installation.
filled() {
    sed "s|@PREFIX@|$PREFIX|g; s|@SYSCONFDIR@|$SYSCONFDIR|g" "$1" >"$work/filled"
}

first=no
[ -e "$DESTDIR$UNITDIR/dcgm-exporter.service" ] || first=yes

put 755 "$BINARY" "$PREFIX/bin/dcgm-exporter"
for file in counters/*.csv dist/systemd/environment; do
    keep 644 "$file" "$SYSCONFDIR/dcgm-exporter/${file##*/}"
done
put 644 "$work/sums" "$sums"
filled dist/systemd/dcgm-exporter.service
put 644 "$work/filled" "$UNITDIR/dcgm-exporter.service"
put 644 dist/systemd/dcgm-exporter.socket "$UNITDIR/dcgm-exporter.socket"
put 644 dist/tmpfiles/dcgm-exporter.conf "$TMPFILESDIR/dcgm-exporter.conf"
put 644 dist/systemd/remote.conf "$DATADIR/remote.conf"
sed "s|/etc/dcgm-exporter/|$SYSCONFDIR/dcgm-exporter/|g" dist/slurm/job-map.sh >"$work/job-map.sh"
put 755 "$work/job-map.sh" "$DATADIR/slurm/job-map.sh"
for role in prolog epilog; do
    if [ ! -L "$DESTDIR$DATADIR/slurm/$role.sh" ]; then
        ln -sf job-map.sh "$DESTDIR$DATADIR/slurm/$role.sh"
        changed=yes
    fi
done
# A release brings these; elsewhere the binary writes them.
if [ -f share/dcgm-exporter.1 ]; then
    cp share/dcgm-exporter.1 share/dcgm-exporter.bash "$work/"
else
    "$BINARY" --generate man >"$work/dcgm-exporter.1"
    "$BINARY" --generate bash >"$work/dcgm-exporter.bash"
fi
put 644 "$work/dcgm-exporter.1" "$MANDIR/dcgm-exporter.1"
put 644 "$work/dcgm-exporter.bash" "$COMPLETIONS/dcgm-exporter"

if [ "$ENABLE" = yes ] && [ "$first" = yes ]; then
    sh dist/package/after-install.sh first "$DESTDIR" "$UNITDIR"
elif [ "$ENABLE" = yes ] && [ "$changed" = yes ]; then
    sh dist/package/after-install.sh again "$DESTDIR" "$UNITDIR"
elif [ "$changed" = no ]; then
    echo "nothing has changed"
fi
