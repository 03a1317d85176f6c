# shellcheck shell=sh disable=SC2034 # read by the scripts that include this
# Where everything goes: for install.sh and uninstall.sh, which the Makefile tells what differs. A place that cannot be used
# ends the script before it changes anything.

# One meaning of A-Z in the patterns below.
LC_ALL=C
export LC_ALL
DESTDIR=${DESTDIR:-}
PREFIX=${PREFIX:-/usr/local}
SYSCONFDIR=${SYSCONFDIR:-/etc}
UNITDIR=${UNITDIR:-$SYSCONFDIR/systemd/system}
TMPFILESDIR=${TMPFILESDIR:-$PREFIX/lib/tmpfiles.d}
MANDIR=${MANDIR:-$PREFIX/share/man/man1}
COMPLETIONS=${COMPLETIONS:-$PREFIX/share/bash-completion/completions}
# Debian's own packages use zsh/vendor-completions instead; package.sh says so.
ZSH=${ZSH:-$PREFIX/share/zsh/site-functions}
FISH=${FISH:-$PREFIX/share/fish/vendor_completions.d}
DATADIR=${DATADIR:-$PREFIX/share/dcgm-exporter}
DOCDIR=${DOCDIR:-$PREFIX/share/doc/dcgm-exporter}
UNITS="dcgm-exporter.service dcgm-exporter.socket dcgm-exporter-devices.service"
# What each file was when it was installed; tells files of an administrator from ours.
SUMS=$DATADIR/config.sha256

# refuse MESSAGE: ends the script; whoever reads it has one line without control characters.
refuse() {
    printf '%s: %s Nothing has been changed.' "$0" "$1" | tr -c '[:print:]' '?' >&2
    echo >&2
    exit 1
}

# A directory that is missing is a typing error; a relative one would lie within the release.
case $DESTDIR in
    "" | /) DESTDIR= ;;
    /*) [ -d "$DESTDIR" ] || refuse "there is no directory DESTDIR=$DESTDIR; correct its name, or make it first." ;;
    *) refuse "DESTDIR=$DESTDIR is relative; begin it with a slash." ;;
esac
DESTDIR=${DESTDIR%/}

# resolved PLACE: where it lies behind all links, also if it is not there yet.
resolved() {
    realpath -m -- "$DESTDIR$1"
}

# is_same A B: two places are one directory, as /lib and /usr/lib on most systems.
is_same() {
    [ "$(resolved "$1")" = "$(resolved "$2")" ]
}

# is_inside PLACE: no link leads from it out of DESTDIR. In an image, a link that begins with a slash does.
is_inside() {
    case $(resolved "$1")/ in "$(realpath -m -- "$DESTDIR/" | sed 's|/$||')"/*) return 0 ;; *) return 1 ;; esac
}

# The places become part of units, scripts and sed's commands, where other characters have a meaning.
for _name in PREFIX SYSCONFDIR UNITDIR TMPFILESDIR MANDIR COMPLETIONS ZSH FISH DATADIR DOCDIR; do
    eval "_value=\$$_name"
    case $_value in
        *[!A-Za-z0-9/._+-]*) refuse "$_name=$_value has a character that a unit would misread; use letters, digits, and / . _ + - only." ;;
        /*) ;;
        *) refuse "$_name=$_value is relative; begin it with a slash." ;;
    esac
    case $_name:$_value in
        DATADIR:*/dcgm-exporter | DOCDIR:*/dcgm-exporter) ;;
        DATADIR:* | DOCDIR:*) refuse "$_name=$_value would be removed whole by 'make uninstall'; let it end in /dcgm-exporter." ;;
        PREFIX:*) _value=$_value/bin ;;
        SYSCONFDIR:*) _value=$_value/dcgm-exporter ;;
    esac
    is_inside "$_value" || refuse "$_name=${_value%/bin} leads out of $DESTDIR by a link, to $(resolved "$_value"); make that link relative."
done

# Links that enable units lie there, wherever the units are.
for _place in multi-user.target.wants sockets.target.wants dcgm-exporter.service.wants; do
    _place=/etc/systemd/system/$_place
    is_inside "$_place" || refuse "$DESTDIR$_place leads out of $DESTDIR by a link, to $(resolved "$_place"); make that link relative."
done

# is_masked UNIT: a link to /dev/null is an administrator's 'systemctl mask'.
is_masked() {
    [ "$(readlink "$DESTDIR$UNITDIR/$1")" = /dev/null ]
}

# is_ours FILE: a name that install.sh writes, or an earlier one did, into /etc/dcgm-exporter. The sums lie in the image, and
# may have any.
is_ours() {
    case $1 in
        "$SYSCONFDIR"/dcgm-exporter/*/* | "$SYSCONFDIR"/dcgm-exporter/.*) return 1 ;;
        "$SYSCONFDIR"/dcgm-exporter/environment | "$SYSCONFDIR"/dcgm-exporter/*.csv) return 0 ;;
        *) return 1 ;;
    esac
}

# is_unchanged FILE: it is as it was installed. A link is an administrator's.
is_unchanged() {
    [ -f "$DESTDIR$1" ] && [ ! -L "$DESTDIR$1" ] || return 1
    _sum=$(sha256sum <"$DESTDIR$1" | cut -d ' ' -f 1)
    grep -qsxF "$_sum  $1" "$DESTDIR$SUMS"
}
