#!/bin/sh
# boot.sh ROOT CGROUP: starts the systemd of a Debian tree in namespaces of its own, with a network of its own that has
# nothing but loopback. Ends with the process that called it. Needs root; needs no container engine.
set -eu
root=$1
cgroup=$2

if [ "${3:-}" != inside ]; then
    mkdir -p "$cgroup"
    echo $$ >"$cgroup/cgroup.procs"
    exec unshare --mount --pid --net --uts --ipc --cgroup --fork --kill-child "$0" "$root" "$cgroup" inside
fi

mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
# What systemd would set there belongs to the machine that the test runs on.
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=0755 tmpfs "$root/dev"
for node in null zero full random urandom tty; do
    touch "$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
ln -s /proc/self/fd "$root/dev/fd"
mkdir "$root/dev/shm" "$root/dev/pts" "$root/dev/mqueue" "$root/dev/hugepages"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
cd "$root"
mkdir -p .host
pivot_root . .host
umount -l /.host
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
