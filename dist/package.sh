#!/bin/sh
# Makes the release files in target/dist: a tarball, a .deb and a .rpm for x86-64, and checks what is in them.
#
# The binary is linked by zig (from PyPI) against glibc 2.28, so that one file runs on RHEL 8, SLES 15, Ubuntu 22.04 and
# everything later. For aarch64 (Grace): rustup target add aarch64-unknown-linux-gnu; dist/package.sh aarch64
set -eu
cd "$(dirname "$0")/.."

machine=${1:-x86_64}
glibc=2.28
largest=3145728
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
target=$machine-unknown-linux-gnu
name=dcgm-exporter-$version-linux-$machine
out=target/dist
case $machine in
    x86_64) deb=amd64 ;;
    aarch64) deb=arm64 ;;
    *) echo "$0: $machine is not known; expected x86_64 or aarch64" >&2; exit 1 ;;
esac

# zig and its cargo front end live in the tree and go with 'make clean'.
tools=target/zig-venv
if [ ! -x $tools/bin/cargo-zigbuild ]; then
    python3 -m venv $tools
    $tools/bin/pip install --quiet ziglang cargo-zigbuild
fi
PATH=$PWD/$tools/bin:$PATH cargo zigbuild --release --locked --bin dcgm-exporter --target "$target.$glibc"
binary=target/$target/release/dcgm-exporter

newest=$(objdump -T "$binary" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1)
if [ "$(printf '%s\n' "GLIBC_$glibc" "$newest" | sort -V | tail -n 1)" != "GLIBC_$glibc" ]; then
    echo "$binary needs $newest; it is to run with glibc $glibc" >&2; exit 1
fi
size=$(wc -c <"$binary")
if [ "$size" -gt "$largest" ]; then
    echo "$binary has $size bytes; $largest are the most" >&2; exit 1
fi

rm -rf "$out"
mkdir -p "$out/$name/bin" "$out/root"
cp -r Makefile counters dist LICENSE README.md CHANGELOG.md "$out/$name/"
cp "$binary" "$out/$name/bin/"
tar -C "$out" --owner=0 --group=0 --sort=name -czf "$out/$name.tar.gz" "$name"

# The packages hold what 'make install' of the tarball puts in place.
make --no-print-directory -C "$out/$name" install DESTDIR="$PWD/$out/root" PREFIX=/usr UNITDIR=/lib/systemd/system >/dev/null
(cd "$out/root" && find etc -type f | sed 's|^|/|' | sort) >"$out/conffiles"

mkdir -p "$out/root/DEBIAN"
cp "$out/conffiles" "$out/root/DEBIAN/conffiles"
cat >"$out/root/DEBIAN/control" <<END
Package: dcgm-exporter
Version: $version
Architecture: $deb
Maintainer: the dcgm-exporter developers <root@localhost>
Section: admin
Priority: optional
Depends: libc6 (>= $glibc), libgcc-s1
Recommends: datacenter-gpu-manager-4-core
Description: NVIDIA datacenter GPUs as Prometheus metrics
 Polls NVIDIA DCGM and serves its fields on port 9400, as NVIDIA's dcgm-exporter does.
END
cat >"$out/root/DEBIAN/postinst" <<'END'
#!/bin/sh
set -e
[ ! -d /run/systemd/system ] || { systemctl daemon-reload; systemd-tmpfiles --create dcgm-exporter.conf || true; }
END
chmod 0755 "$out/root/DEBIAN/postinst"
dpkg-deb --root-owner-group --build "$out/root" "$out/dcgm-exporter_${version}_$deb.deb" >/dev/null
rm -r "$out/root/DEBIAN"

if command -v rpmbuild >/dev/null 2>&1; then
    cat >"$out/dcgm-exporter.spec" <<END
Name: dcgm-exporter
Version: $version
Release: 1
Summary: NVIDIA datacenter GPUs as Prometheus metrics
License: Apache-2.0
%description
Polls NVIDIA DCGM and serves its fields on port 9400, as NVIDIA's dcgm-exporter does.
%install
cp -a $PWD/$out/root/. %{buildroot}/
%files
/usr/bin/*
/usr/lib/tmpfiles.d/*
/usr/share/man/man1/*
/usr/share/bash-completion/completions/*
/lib/systemd/system/*
%config(noreplace) /etc/dcgm-exporter/*
END
    rpmbuild --quiet -bb --target "$machine" --define "_topdir $PWD/$out/rpm" --define '_build_id_links none' \
        --define '__strip /bin/true' --buildroot "$PWD/$out/rpmroot" "$out/dcgm-exporter.spec" >/dev/null 2>&1
    mv "$out"/rpm/RPMS/*/*.rpm "$out/"
else
    echo "rpmbuild is not installed (Debian: apt-get install rpm); no .rpm was made" >&2
fi
rm -rf "$out/rpm" "$out/rpmroot" "$out/root" "$out/conffiles" "$out/dcgm-exporter.spec" "${out:?}/$name"
ls -l "$out"
