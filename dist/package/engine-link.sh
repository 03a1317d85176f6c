# shellcheck shell=sh
# engine_link ROOT: the exporter's Wants= for nvidia-dcgm.service, where that is enabled. Part of 'make install' and of both
# packages, after each installation and upgrade.
#
# It is the link that 'systemctl add-wants' makes, not a line in the unit: 'systemctl disable nvidia-dcgm' removes it with
# its own, so that the exporter never starts an engine that an administrator has disabled. Works in an image, too.
engine_link() {
    _wants=$1/etc/systemd/system/dcgm-exporter.service.wants
    for _link in "$1"/etc/systemd/system/*.wants/nvidia-dcgm.service "$1"/usr/lib/systemd/system/*.wants/nvidia-dcgm.service; do
        case $_link in "$_wants"/*) continue ;; esac
        if [ -L "$_link" ] && [ "$(readlink "$1/etc/systemd/system/nvidia-dcgm.service")" != /dev/null ]; then
            mkdir -p "$_wants"
            ln -sfn /usr/lib/systemd/system/nvidia-dcgm.service "$_wants/nvidia-dcgm.service"
            return 0
        fi
    done
    engine_unlink "$1"
}

# engine_unlink ROOT: takes it away.
engine_unlink() {
    rm -f "$1/etc/systemd/system/dcgm-exporter.service.wants/nvidia-dcgm.service"
    rmdir "$1/etc/systemd/system/dcgm-exporter.service.wants" 2>/dev/null || true
}
