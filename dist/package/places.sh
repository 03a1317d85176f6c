# shellcheck shell=sh disable=SC2034 # read by the scripts that include this
# Where everything goes: for install.sh and uninstall.sh, which the Makefile tells what differs.
DESTDIR=${DESTDIR:-}
DESTDIR=${DESTDIR%/}
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

# is_masked UNIT: a link to /dev/null is an administrator's 'systemctl mask'.
is_masked() {
    [ "$(readlink "$DESTDIR$UNITDIR/$1")" = /dev/null ]
}

# is_unchanged FILE: it is as it was installed.
is_unchanged() {
    _sum=$(sha256sum <"$DESTDIR$1" | cut -d ' ' -f 1)
    grep -qsxF "$_sum  $1" "$DESTDIR$SUMS"
}
