#!/bin/sh
# newest-slurm.sh DIRECTORY PROGRAM [ARGUMENT...]: runs a test program beside the newest Slurm that Debian has packages of, in a
# tree of that Debian, which is made in DIRECTORY/root once. Needs root, debootstrap and ip.
#
# The program, and all that it starts, has mounts, processes, a host name and a network of its own (loopback only): nothing of
# them stays, and a Slurm that runs on this machine is not disturbed. The project is there at its own place, read-only. Cargo
# starts this as its runner, in the project and with CARGO set.
set -eu
mirror=http://deb.debian.org/debian
# The next release: its packages are a few days behind those of sid and fit together.
release=forky
out=${1:?names no directory} program=${2:?names no program}
shift 2
[ "$(id -u)" -eq 0 ] || { echo 'newest-slurm.sh: only root can make the tree and its mounts' >&2; exit 1; }
[ -n "${CARGO:-}" ] || { echo 'newest-slurm.sh: CARGO is not set; make e2e-newest-slurm sets it' >&2; exit 1; }

if [ ! -e "$out/.made" ]; then
    mkdir -p "$out"
    rm -rf "$out/root"
    # Older debootstraps do not know the release's name; all of Debian's are made by one script.
    debootstrap --variant=minbase --include=slurmctld,slurmd,slurm-client,munge "$release" "$out/root" "$mirror" \
        /usr/share/debootstrap/scripts/sid >"$out/debootstrap.log" 2>&1 || { tail "$out/debootstrap.log" >&2; exit 1; }
    touch "$out/.made"
fi
echo "$(chroot "$out/root" slurmd -V) and $(chroot "$out/root" munged --version | head -n 1); rm -r $out gets newer ones" >&2

# The first process of the namespace stays a shell, which waits for whatever daemons leave behind: to Slurm, a process that
# nobody waited for would still run. With that shell all others end.
# shellcheck disable=SC2016 # for the inner shell
exec unshare --mount --net --uts --ipc --pid --fork --kill-child sh -euc '
    project=$1 root=$2
    shift 2
    mount --make-rprivate /
    ip link set lo up
    # With 127.0.0.1 alone, slurmctld finds no kind of address to listen on (AI_ADDRCONFIG). This one is for documentation.
    ip address add 192.0.2.1/32 dev lo
    hostname newest-slurm
    mount -t tmpfs tmpfs "$root/tmp"
    mount -t tmpfs tmpfs "$root/run"
    mount -t proc proc "$root/proc"
    mount -t sysfs sysfs "$root/sys"
    mount --bind /dev "$root/dev"
    # After /tmp, where the project may be.
    mkdir -p "$root$project"
    mount --bind "$project" "$root$project"
    mount -o remount,bind,ro "$root$project"
    chmod 1777 "$root/tmp"
    echo "127.0.0.1 localhost newest-slurm" >"$root/etc/hosts"
    # The tests let cargo build the simulator, which make has done before: there, nothing is left to do.
    mkdir -p "$root${CARGO%/*}"
    ln -sf /bin/true "$root$CARGO"
    status=0
    chroot "$root" env -i --chdir="$project" PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "$@" || status=$?
    exit $status
' sh "$PWD" "$(realpath "$out/root")" "$program" "$@"
