#!/bin/sh
# after-install.sh first|again|none ROOT UNITDIR SYSCONFDIR: what follows the files of 'make install'.
#
# The first time the unit is enabled, by the link that 'systemctl enable' makes, so that it works in an image, too.
# Where a systemd runs for these files, the exporter is started, or restarted if it was running. The last line says how it
# is, and what comes next.
set -eu
step=$1 root=$2 unit=$3/dcgm-exporter.service settings=$4/dcgm-exporter/environment
wants=$root/etc/systemd/system/multi-user.target.wants
if [ "$step" = first ]; then
    mkdir -p "$wants"
    ln -sfn "$unit" "$wants/dcgm-exporter.service"
fi
is_live=no
if [ -z "$root" ] && [ -d /run/systemd/system ]; then is_live=yes; fi
if [ $is_live = yes ] && [ "$step" != none ]; then
    systemctl daemon-reload || true
    systemd-tmpfiles --create dcgm-exporter.conf || true
    verb=try-restart
    [ "$step" = again ] || verb=start
    systemctl "$verb" dcgm-exporter.service ||
        echo "dcgm-exporter does not run yet; 'dcgm-exporter --check' says what is missing" >&2
fi
is_enabled=no
for wants in "$root"/etc/systemd/system/*.wants/dcgm-exporter.service "$root"/etc/systemd/system/*.wants/dcgm-exporter.socket; do
    if [ -L "$wants" ]; then is_enabled=yes; fi
done
if [ "$(readlink "$root$unit")" = /dev/null ]; then
    echo "dcgm-exporter.service is masked in ${root:-/}; nothing starts it"
elif [ -n "$root" ] && [ $is_enabled = yes ]; then
    echo "dcgm-exporter.service is enabled in $root. Next: settings in $root$settings; then dcgm-exporter --check --root $root"
elif [ -n "$root" ]; then
    echo "dcgm-exporter.service is not enabled in $root. Next: systemctl --root=$root enable dcgm-exporter"
elif [ $is_enabled = no ]; then
    echo "dcgm-exporter.service is not enabled. Next: systemctl enable --now dcgm-exporter"
elif [ $is_live = yes ] && systemctl --quiet is-active dcgm-exporter.service; then
    echo "dcgm-exporter.service is enabled and runs. Next: settings in $settings; then dcgm-exporter --check"
else
    echo "dcgm-exporter.service is enabled and does not run. Next: dcgm-exporter --check"
fi
