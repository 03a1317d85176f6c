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

# not_in_force ROOT: names settings that look as if they were in force and are not, and what to do. 'dcgm-exporter --check'
# names each one.
not_in_force() {
    _settings=$1/etc/dcgm-exporter/environment
    for _file in "$1"/etc/systemd/system/nvidia-dcgm-exporter.service.d/*.conf; do
        [ -f "$_file" ] || continue
        _lost=
        if grep -qs -e WEB_CONFIG_FILE -e web-config-file "$_file" && ! grep -qs '^[[:space:]]*DCGM_EXPORTER_WEB_CONFIG_FILE=' "$_settings"; then
            _lost=" It names a web configuration, so the port has neither TLS nor a password now."
        fi
        echo "dcgm-exporter: $_file belongs to nvidia-dcgm-exporter.service and is not in force for dcgm-exporter.service.$_lost" \
            "Put its settings into $_settings; 'dcgm-exporter --check' writes them out" >&2
    done
    _unit=$1/etc/systemd/system/dcgm-exporter.service
    if [ ! -f "$_unit" ] || [ -L "$_unit" ] || [ ! -f "$1/usr/lib/systemd/system/dcgm-exporter.service" ]; then
        return 0
    elif grep -qs '^Documentation=man:dcgm-exporter(1)' "$_unit"; then
        echo "dcgm-exporter: $_unit, which 'make install' has made, hides the unit of this package." \
            "Remove it: 'make uninstall' in the directory of that release; then: systemctl enable --now dcgm-exporter" >&2
    else
        _lost=
        if ! grep -qs '^EnvironmentFile=.*/etc/dcgm-exporter/environment' "$_unit"; then _lost=" and does not read $_settings"; fi
        echo "dcgm-exporter: $_unit, a unit of this site, hides the unit of this package$_lost. Move what differs into" \
            "$_settings or a drop-in (systemctl edit dcgm-exporter); then: rm $_unit; systemctl daemon-reload;" \
            "systemctl restart dcgm-exporter" >&2
    fi
}
