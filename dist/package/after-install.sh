#!/bin/sh
# after-install.sh first|again ROOT UNITDIR: what follows the files of 'make install'.
#
# The first time the unit is enabled, by the link that 'systemctl enable' makes, so that it works in an image, too.
# Where a systemd runs for these files, the exporter is started, or restarted if it was running.
set -eu
wants=$2/etc/systemd/system/multi-user.target.wants
if [ "$1" = first ]; then
    mkdir -p "$wants"
    ln -sf "$3/dcgm-exporter.service" "$wants/dcgm-exporter.service"
fi
if [ -z "$2" ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload || true
    systemd-tmpfiles --create dcgm-exporter.conf || true
    verb=try-restart
    [ "$1" = again ] || verb=start
    systemctl "$verb" dcgm-exporter.service ||
        echo "dcgm-exporter does not run yet; 'dcgm-exporter --check' says what is missing" >&2
fi
