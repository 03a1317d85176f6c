# shellcheck shell=sh
# before-remove.sh ROOT: stops and disables the exporter. Part of 'make uninstall' and of both packages.
if [ -z "$1" ] && [ -d /run/systemd/system ]; then
    systemctl disable --now dcgm-exporter.socket dcgm-exporter.service || true
fi
rm -f "$1/etc/systemd/system/multi-user.target.wants/dcgm-exporter.service" \
    "$1/etc/systemd/system/sockets.target.wants/dcgm-exporter.socket"
