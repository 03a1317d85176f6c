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
DATADIR=${DATADIR:-$PREFIX/share/dcgm-exporter}
