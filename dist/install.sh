#!/bin/sh
# Puts the exporter in place, on this node or, with DESTDIR, into an image; 'make install' calls it.
#
# What is the same already is not touched, what an administrator has changed in /etc/dcgm-exporter is kept, a masked unit
# stays masked, and a unit that was there before is enabled or not as it was. Each file is written aside and then renamed: a
# full disk leaves the old one. Needs no network, no cargo, and for an image no running systemd.
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

# A unit that somebody else has written would be lost.
own=$DESTDIR$UNITDIR/dcgm-exporter.service
if [ -e "$own" ] && ! is_masked dcgm-exporter.service && ! grep -qs '^Documentation=man:dcgm-exporter(1)' "$own"; then
    refuse "$own is a unit of this site. Move what differs from dist/systemd/dcgm-exporter.service into \
$SYSCONFDIR/dcgm-exporter/environment, or into a drop-in (dcgm-exporter.service.d), and remove it; then run this again."
fi

work=$(mktemp -d)
aside=
trap 'rm -rf "$work" ${aside:+"$aside"}' EXIT
trap 'exit 1' HUP INT TERM
tab=$(printf '\t')

# plan MODE SOURCE TARGET: a file to install. With 'link' as mode the source is what the link has.
plan() {
    printf '%s\t%s\t%s\n' "$1" "$2" "$3" >>"$work/plan"
}

# filled SOURCE: a copy with the places of this installation; prints its name.
filled() {
    mkdir -p "$work/$(dirname "$1")"
    sed "s|@PREFIX@|$PREFIX|g; s|@SYSCONFDIR@|$SYSCONFDIR|g; s|@DATADIR@|$DATADIR|g
        s|/etc/dcgm-exporter/|$SYSCONFDIR/dcgm-exporter/|g" "$1" >"$work/$1"
    echo "$work/$1"
}

plan 755 "$BINARY" "$PREFIX/bin/dcgm-exporter"
for file in counters/*.csv dist/systemd/environment; do
    plan 644 "$file" "$SYSCONFDIR/dcgm-exporter/${file##*/}"
    echo "$(sha256sum <"$file" | cut -d ' ' -f 1)  $SYSCONFDIR/dcgm-exporter/${file##*/}" >>"$work/sums"
done
for unit in $UNITS; do plan 644 "$(filled "dist/systemd/$unit")" "$UNITDIR/$unit"; done
plan 644 dist/tmpfiles/dcgm-exporter.conf "$TMPFILESDIR/dcgm-exporter.conf"
plan 644 dist/systemd/remote.conf "$DATADIR/remote.conf"
plan 755 dist/systemd/make-devices.sh "$DATADIR/make-devices.sh"
# Scripts for Slurm, rules, dashboards: whatever lies in these folders, but for the guide and what makes the dashboards.
for folder in slurm prometheus grafana; do
    [ -d "dist/$folder" ] || continue
    find "dist/$folder" ! -type d ! -name README.md ! -name make.py ! -name requirements.txt | LC_ALL=C sort >"$work/files"
    while IFS= read -r file; do
        mode=644
        if [ -x "$file" ]; then mode=755; fi
        if [ -L "$file" ]; then
            plan link "$(readlink "$file")" "$DATADIR/${file#dist/}"
        else
            plan $mode "$(filled "$file")" "$DATADIR/${file#dist/}"
        fi
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
plan 644 "$work/dcgm-exporter.1.gz" "$MANDIR/dcgm-exporter.1.gz"
plan 644 "$work/dcgm-exporter.bash" "$COMPLETIONS/dcgm-exporter"
plan 644 "$work/dcgm-exporter.zsh" "$ZSH/_dcgm-exporter"
plan 644 "$work/dcgm-exporter.fish" "$FISH/dcgm-exporter.fish"
# In the same folders as here, so that links from one to another lead somewhere.
for file in README.md CONTRIBUTING.md benches/FIGURES.md dist/status-page.png dist/config.yaml dist/*/README.md; do
    plan 644 "$file" "$DOCDIR/$file"
done
plan 644 LICENSE "$DOCDIR/LICENSE"
plan 644 dist/package/copyright "$DOCDIR/copyright"
plan 644 "$work/changelog.gz" "$DOCDIR/CHANGELOG.md.gz"
# The last one: what was installed before is needed until then.
plan 644 "$work/sums" "$SUMS"

cut -f 3 "$work/plan" | sed 's|/[^/]*$||' | sort -u >"$work/directories"
while IFS= read -r directory; do
    is_inside "$directory" ||
        refuse "$DESTDIR$directory leads out of $DESTDIR by a link, to $(resolved "$directory"); make that link relative."
done <"$work/directories"

changed=no

# put MODE SOURCE TARGET: unless it is there already. A link in its place is replaced, not followed.
put() {
    to=$DESTDIR$3
    if [ "$1" = link ]; then
        if [ "$(readlink "$to")" = "$2" ]; then return; fi
    elif [ -f "$to" ] && [ ! -L "$to" ] && cmp -s "$2" "$to" && [ "$(stat -c %a "$to")" = "$1" ]; then
        return
    fi
    mkdir -p "${to%/*}"
    aside=$(mktemp "${to%/*}/.dcgm-exporter.XXXXXX")
    if [ "$1" = link ]; then
        ln -sfnT "$2" "$aside"
    else
        install -m "$1" -T "$2" "$aside"
    fi
    mv -fT "$aside" "$to"
    aside=
    echo "installed $to"
    changed=yes
}

# keep MODE SOURCE TARGET: a file that is the administrator's once it is there. One that was never changed is replaced; the
# sums of what was installed tell.
keep() {
    if { [ -e "$DESTDIR$3" ] || [ -L "$DESTDIR$3" ]; } && ! cmp -s "$2" "$DESTDIR$3" && ! is_unchanged "$3"; then
        echo "$DESTDIR$3 was changed and is kept; the new one is $DESTDIR$3.new"
        put "$1" "$2" "$3.new"
    else
        put "$1" "$2" "$3"
    fi
}

first=no
if [ ! -e "$DESTDIR$UNITDIR/dcgm-exporter.service" ]; then first=yes; fi
while IFS=$tab read -r mode source target; do
    case $target in
        "$SYSCONFDIR"/dcgm-exporter/*) keep "$mode" "$source" "$target" ;;
        "$UNITDIR"/*.service | "$UNITDIR"/*.socket)
            unit=${target##*/}
            if is_masked "$unit"; then
                echo "$DESTDIR$target is masked and left alone; after 'systemctl unmask $unit' run this again"
                first=no
            else
                put "$mode" "$source" "$target"
            fi
            ;;
        *) put "$mode" "$source" "$target" ;;
    esac
done <"$work/plan"

# Of a release before this one.
for file in slurm/README.md prometheus/README.md grafana/README.md grafana/make.py grafana/requirements.txt; do
    rm -f "$DESTDIR$DATADIR/$file"
done
rm -f "$DESTDIR$MANDIR/dcgm-exporter.1"

if [ "$changed" = no ]; then echo "nothing has changed"; fi
[ "$ENABLE" = yes ] || exit 0
engine_link "$DESTDIR"
not_in_force "$DESTDIR"
for wants in "$DESTDIR"/etc/systemd/system/*.wants/nvidia-dcgm-exporter.service; do
    if [ -L "$wants" ]; then
        echo "NVIDIA's exporter is enabled, too, and uses the same port: systemctl disable --now nvidia-dcgm-exporter"
    fi
done
step=none
if [ "$changed" = yes ]; then step=again; fi
if [ "$first" = yes ]; then step=first; fi
sh dist/package/after-install.sh "$step" "$DESTDIR" "$UNITDIR" "$SYSCONFDIR"
