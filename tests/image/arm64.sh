#!/bin/sh
# arm64.sh PROJECT OUT: builds the exporter and the simulator for aarch64 into OUT/bin, and puts Debian's libc for arm64
# into OUT/root, so that qemu-user can run them. Needs root, debootstrap and the zig of dist/package.sh.
#
# The standard library for aarch64 comes from Debian's packages, with the compiler of the same release in a tree of its
# own: Debian's stable release has an older one than the exporter needs. Published files are built with rustup's
# (dist/package.sh aarch64); the linker, its libc and every flag are the same.
set -eu
project=$1
out=$2
mirror=http://deb.debian.org/debian
release=forky
tools=$out/tools
target=aarch64-unknown-linux-gnu

mkdir -p "$out/bin" "$out/fetch"
if [ ! -e "$tools/.made" ]; then
    rm -rf "$tools"
    # Older debootstraps do not know the release's name; all of Debian's are made by one script.
    debootstrap --variant=minbase --include=rustc,cargo,gcc,libc6-dev "$release" "$tools" "$mirror" \
        /usr/share/debootstrap/scripts/sid >"$out/debootstrap.log" 2>&1 || { tail "$out/debootstrap.log" >&2; exit 1; }
    # Only the files of these, which belong to another machine.
    # shellcheck disable=SC2016 # for the inner shell
    chroot "$tools" sh -euc '
        dpkg --add-architecture arm64
        # A mirror may lag behind; what it has is signed all the same.
        apt-get update -qq -o Acquire::Check-Valid-Until=false
        cd /tmp
        version=$(dpkg-query -W -f "\${Version}" libstd-rust-dev)
        apt-get download -qq "libstd-rust-dev:arm64=$version" libc6:arm64 libgcc-s1:arm64
        dpkg -x libstd-rust-dev_* /
        mkdir -p /arm64/usr/lib
        ln -s usr/lib /arm64/lib
        dpkg -x libc6_* /arm64
        dpkg -x libgcc-s1_* /arm64
        rm *.deb'
    touch "$tools/.made"
fi
(cd "$project" && cargo fetch --quiet --locked --target "$target")
rm -rf "$out/root"
cp -a "$tools/arm64" "$out/root"

zig=$(echo "$project"/target/zig-venv/lib/python3*/site-packages/ziglang)
cp "$project/target/zig-venv/bin/cargo-zigbuild" "$tools/usr/local/bin/"
mkdir -p "$tools/zig" "$tools/project" "$tools/cargo" "$tools/out" "$tools/build"
ln -sf /zig/zig "$tools/usr/local/bin/zig"
# Mounts of a namespace of its own, which end with it.
# shellcheck disable=SC2016 # for the inner shell
unshare --mount --net sh -euc '
    project=$1 zig=$2 tools=$3 home=$4 out=$5 target=$6
    mount --make-rprivate /
    mount --bind "$zig" "$tools/zig"
    mount --bind "$project" "$tools/project"
    mount -o remount,bind,ro "$tools/project"
    mount --bind "$home" "$tools/cargo"
    mount --bind "$out" "$tools/out"
    mount -t proc proc "$tools/proc"
    mount --bind /dev "$tools/dev"
    exec chroot "$tools" env -i PATH=/usr/local/bin:/usr/bin:/bin HOME=/out CARGO_HOME=/cargo CARGO_TARGET_DIR=/build \
        sh -euc "cd /project; cargo zigbuild --release --locked --offline --target $target.2.28 --bin dcgm-exporter
            cargo zigbuild --release --locked --offline --target $target.2.28 --package dcgm-simulator
            cp /build/$target/release/dcgm-exporter /build/$target/release/libdcgm_simulator.so /out/bin/"
' sh "$project" "$zig" "$tools" "${CARGO_HOME:-$HOME/.cargo}" "$out" "$target"
