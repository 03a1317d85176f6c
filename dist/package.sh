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
out=target/dist/$machine
case $machine in
    x86_64) deb=amd64 ;;
    aarch64) deb=arm64 ;;
    *) echo "$0: $machine is not known; expected x86_64 or aarch64" >&2; exit 1 ;;
esac
for tool in python3 readelf rpmbuild dpkg-deb; do
    command -v $tool >/dev/null 2>&1 && continue
    echo "$0: $tool is needed (Debian: apt-get install python3-venv binutils rpm dpkg)" >&2; exit 1
done

# zig and its cargo front end live in the tree and go with 'make clean'.
tools=target/zig-venv
if [ ! -x $tools/bin/cargo-zigbuild ]; then
    python3 -m venv $tools
    $tools/bin/pip install --quiet ziglang cargo-zigbuild
fi
PATH=$PWD/$tools/bin:$PATH cargo zigbuild --release --locked --bin dcgm-exporter --target "$target.$glibc"
binary=target/$target/release/dcgm-exporter

newest=$(readelf --version-info --wide "$binary" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1)
if [ -z "$newest" ] || [ "$(printf '%s\n' "GLIBC_$glibc" "$newest" | sort -V | tail -n 1)" != "GLIBC_$glibc" ]; then
    echo "$binary needs ${newest:-no glibc that can be told}; it is to run with glibc $glibc" >&2; exit 1
fi
size=$(wc -c <"$binary")
if [ "$size" -gt "$largest" ]; then
    echo "$binary has $size bytes; $largest are the most" >&2; exit 1
fi

rm -rf "$out"
mkdir -p "$out/$name/bin" "$out/$name/share" "$out/root/DEBIAN"
cp -r Makefile counters dist LICENSE README.md CHANGELOG.md "$out/$name/"
cp "$binary" "$out/$name/bin/"
# Man page and completion are the same on every machine; this one's binary writes them.
writer=$binary
if [ "$machine" != "$(uname -m)" ]; then
    cargo build --release --locked --bin dcgm-exporter
    writer=target/release/dcgm-exporter
fi
"$writer" --generate man >"$out/$name/share/dcgm-exporter.1"
"$writer" --generate bash >"$out/$name/share/dcgm-exporter.bash"
tar -C "$out" --owner=0 --group=0 --sort=name -czf "$out/$name.tar.gz" "$name"

# The packages hold what 'make install' of the tarball puts in place, but for what packages do by themselves.
make --no-print-directory -C "$out/$name" install \
    DESTDIR="$PWD/$out/root" PREFIX=/usr UNITDIR=/usr/lib/systemd/system ENABLE=no >/dev/null
rm "$out/root/usr/share/dcgm-exporter/config.sha256"
description="Polls NVIDIA DCGM and serves its fields on port 9400, as NVIDIA's dcgm-exporter does."
after="$(cat dist/package/after-install.sh)"
before="$(cat dist/package/before-remove.sh)"
unitdir=/usr/lib/systemd/system

# script NAME BODY: a maintainer script of the .deb.
script() {
    printf '#!/bin/sh\nset -e\n%s\n' "$2" >"$out/root/DEBIAN/$1"
    chmod 0755 "$out/root/DEBIAN/$1"
}
(cd "$out/root" && find etc -type f | sed 's|^|/|' | sort) >"$out/root/DEBIAN/conffiles"
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
 $description
END
# dpkg names the version that was configured before, if there was one.
script postinst "[ \"\$1\" = configure ] || exit 0
if [ -z \"\$2\" ]; then set -- first '' $unitdir; else set -- again '' $unitdir; fi
$after"
script prerm "[ \"\$1\" = remove ] || exit 0
set -- ''
$before"
script postrm "[ ! -d /run/systemd/system ] || systemctl daemon-reload"
dpkg-deb --root-owner-group --build "$out/root" "$out/dcgm-exporter_${version}_$deb.deb" >/dev/null
rm -r "$out/root/DEBIAN"

# rpm says how many of this package there are then.
cat >"$out/dcgm-exporter.spec" <<END
Name: dcgm-exporter
Version: $version
Release: 1
Summary: NVIDIA datacenter GPUs as Prometheus metrics
License: Apache-2.0
%description
$description
%install
cp -a $PWD/$out/root/. %{buildroot}/
%files
/usr/bin/dcgm-exporter
/usr/lib/tmpfiles.d/dcgm-exporter.conf
/usr/lib/systemd/system/dcgm-exporter.*
/usr/share/man/man1/dcgm-exporter.1*
/usr/share/bash-completion/completions/dcgm-exporter
/usr/share/dcgm-exporter
%dir /etc/dcgm-exporter
%config(noreplace) /etc/dcgm-exporter/*
%post
if [ "\$1" = 1 ]; then set -- first '' $unitdir; else set -- again '' $unitdir; fi
$after
%preun
[ "\$1" = 0 ] || exit 0
set -- ''
$before
%postun
[ ! -d /run/systemd/system ] || systemctl daemon-reload
END
rpmbuild --quiet -bb --target "$machine" --define "_topdir $PWD/$out/rpm" --define '_build_id_links none' \
    --define '__strip /bin/true' --buildroot "$PWD/$out/rpmroot" "$out/dcgm-exporter.spec" >"$out/rpmbuild.log" 2>&1 ||
    { cat "$out/rpmbuild.log" >&2; exit 1; }
mv "$out"/rpm/RPMS/*/*.rpm "$out/"
rm -rf "$out/rpm" "$out/rpmroot" "$out/rpmbuild.log" "$out/root" "$out/dcgm-exporter.spec" "${out:?}/$name"
ls -l "$out"
