#!/bin/sh
# Makes the device files of every GPU that the driver has, of the driver itself and of MIG instances, where they are
# missing. dcgm-exporter-devices.service runs it. Without root, or without a driver, it does nothing.
#
# NVIDIA's libraries do that by themselves for a process with all rights of root, which the exporter has not.
set -eu
driver=${1:-/proc/driver/nvidia}
modprobe=${2:-/usr/bin/nvidia-modprobe}
[ -r "$driver/version" ] && [ -x "$modprobe" ] || exit 0

# 255 is /dev/nvidiactl.
set -- -c 255
for gpu in "$driver"/gpus/*/information; do
    [ -r "$gpu" ] || continue
    minor=$(sed -n 's/^Device Minor:[[:space:]]*\([0-9][0-9]*\).*/\1/p' "$gpu")
    if [ -n "$minor" ]; then set -- "$@" -c "$minor"; fi
done
# Ways into MIG: for monitoring, and for each instance.
for access in "$driver"/capabilities/mig/monitor "$driver"/capabilities/gpu*/mig/gi*/access \
    "$driver"/capabilities/gpu*/mig/gi*/ci*/access; do
    if [ -r "$access" ]; then set -- "$@" -f "$access"; fi
done
exec "$modprobe" "$@"
