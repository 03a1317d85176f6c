#!/bin/sh
# Puts the exporter in place, on this node or, with DESTDIR, into an image; 'make install' calls it.
#
# What is the same already is not touched, what an administrator has changed in /etc/dcgm-exporter is kept, a masked unit
# stays masked, and a unit that was there before is enabled or not as it was. Needs no network, no cargo, and for an image
# no running systemd.
set -eu
cd "$(dirname "$0")/.."

. dist/package/places.sh
. dist/package/engine-link.sh
BINARY=${BINARY:?the binary to install}
ENABLE=${ENABLE:-yes}

# Two installations would share /etc/dcgm-exporter, and the unit in /etc would hide the package's.
for directory in /usr/lib/systemd/system /lib/systemd/system; do
    if ! is_same "$UNITDIR" "$directory" && is_inside "$directory" && [ -e "$DESTDIR$directory/dcgm-exporter.service" ]; then
        refuse "dcgm-exporter is installed as a package here ($DESTDIR$directory/dcgm-exporter.service). Install the newer \
package instead, or remove that one first: apt-get remove dcgm-exporter, or dnf remove dcgm-exporter."
    fi
done

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
keep() {
    sum=$(sha256sum <"$2" | cut -d ' ' -f 1)
    if [ -f "$DESTDIR$3" ] && ! cmp -s "$2" "$DESTDIR$3" && ! is_unchanged "$3"; then
        echo "$DESTDIR$3 was changed and is kept; the new one is $DESTDIR$3.new"
        put "$1" "$2" "$3.new"
    else
        put "$1" "$2" "$3"
    fi
    echo "$sum  $3" >>"$work/sums"
}

# filled SOURCE: with the places of this installation.
filled() {
    sed "s|@PREFIX@|$PREFIX|g; s|@SYSCONFDIR@|$SYSCONFDIR|g; s|@DATADIR@|$DATADIR|g" "$1" >"$work/filled"
}

first=no
if [ ! -e "$DESTDIR$UNITDIR/dcgm-exporter.service" ]; then first=yes; fi

put 755 "$BINARY" "$PREFIX/bin/dcgm-exporter"
for file in counters/*.csv dist/systemd/environment; do
    keep 644 "$file" "$SYSCONFDIR/dcgm-exporter/${file##*/}"
done
put 644 "$work/sums" "$SUMS"
for unit in $UNITS; do
    if is_masked "$unit"; then
        echo "$DESTDIR$UNITDIR/$unit is masked and left alone; after 'systemctl unmask $unit' run this again"
        first=no
        continue
    fi
    filled "dist/systemd/$unit"
    put 644 "$work/filled" "$UNITDIR/$unit"
done
put 644 dist/tmpfiles/dcgm-exporter.conf "$TMPFILESDIR/dcgm-exporter.conf"
put 644 dist/systemd/remote.conf "$DATADIR/remote.conf"
put 755 dist/systemd/make-devices.sh "$DATADIR/make-devices.sh"
# Scripts for Slurm, rules, dashboards: whatever lies in these folders.
for folder in slurm prometheus grafana; do
    [ -d "dist/$folder" ] || continue
    find "dist/$folder" -type f -o -type l | LC_ALL=C sort >"$work/files"
    while IFS= read -r file; do
        installed=$DATADIR/${file#dist/}
        if [ -L "$file" ]; then
            if [ "$(readlink "$DESTDIR$installed")" != "$(readlink "$file")" ]; then
                mkdir -p "$(dirname "$DESTDIR$installed")"
                ln -sf "$(readlink "$file")" "$DESTDIR$installed"
                changed=yes
            fi
            continue
        fi
        mode=644
        if [ -x "$file" ]; then mode=755; fi
        sed "s|/etc/dcgm-exporter/|$SYSCONFDIR/dcgm-exporter/|g" "$file" >"$work/filled"
        put $mode "$work/filled" "$installed"
    done <"$work/files"
done
# A release brings these; elsewhere the binary writes them.
if [ -f share/dcgm-exporter.1 ]; then
    cp share/dcgm-exporter.1 share/dcgm-exporter.bash share/dcgm-exporter.zsh share/dcgm-exporter.fish "$work/"
else
    "$BINARY" --generate man >"$work/dcgm-exporter.1"
    for shell in bash zsh fish; do
        "$BINARY" --generate $shell >"$work/dcgm-exporter.$shell"
    done
fi
# Without a name and a time in it, so that the same page is the same file.
gzip -9n "$work/dcgm-exporter.1"
gzip -9nc CHANGELOG.md >"$work/changelog.gz"
put 644 "$work/dcgm-exporter.1.gz" "$MANDIR/dcgm-exporter.1.gz"
put 644 "$work/dcgm-exporter.bash" "$COMPLETIONS/dcgm-exporter"
put 644 "$work/dcgm-exporter.zsh" "$ZSH/_dcgm-exporter"
put 644 "$work/dcgm-exporter.fish" "$FISH/dcgm-exporter.fish"
put 644 LICENSE "$DOCDIR/LICENSE"
put 644 dist/package/copyright "$DOCDIR/copyright"
put 644 "$work/changelog.gz" "$DOCDIR/CHANGELOG.md.gz"

# Of a release before this one.
rm -f "$DESTDIR$MANDIR/dcgm-exporter.1"

if [ "$ENABLE" = yes ]; then
    engine_link "$DESTDIR"
    for wants in "$DESTDIR"/etc/systemd/system/*.wants/nvidia-dcgm-exporter.service; do
        if [ -L "$wants" ]; then
            echo "NVIDIA's exporter is enabled, too, and uses the same port: systemctl disable --now nvidia-dcgm-exporter"
        fi
    done
fi
if [ "$ENABLE" = yes ] && [ "$first" = yes ]; then
    sh dist/package/after-install.sh first "$DESTDIR" "$UNITDIR"
elif [ "$ENABLE" = yes ] && [ "$changed" = yes ]; then
    sh dist/package/after-install.sh again "$DESTDIR" "$UNITDIR"
elif [ "$changed" = no ]; then
    echo "nothing has changed"
fi
