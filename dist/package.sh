#!/bin/sh
# Makes the release files in target/dist/MACHINE: a tarball, a .deb, a .rpm, a list of what is linked in (CycloneDX) and
# SHA256SUMS, for x86-64, and checks what is in them. The same commit, compiler and tools give the same bytes in any folder.
#
# The binary is linked by zig (from PyPI) against glibc 2.28, so that one file runs on RHEL 8, SLES 15, Ubuntu 22.04 and
# everything later. For aarch64 (Grace): rustup target add aarch64-unknown-linux-gnu; dist/package.sh aarch64
set -eu
cd "$(dirname "$0")/.."
umask 022
export LC_ALL=C TZ=UTC

machine=${1:-x86_64}
# Whom users of the packages write to: your site's team, say.
maintainer=${MAINTAINER:-dcgm-exporter developers <dcgm-exporter@packages.invalid>}
case $maintainer in
    *[[:cntrl:]%\\]* | *"|"*)
        echo "$0: MAINTAINER= has %, |, a backslash or a control character, which rpm's spec misreads; leave it out" >&2; exit 1 ;;
    ?*" <"?*@?*">") ;;
    *) echo "$0: MAINTAINER=$maintainer is not of the form 'GPU team <gpu@site>'" >&2; exit 1 ;;
esac
case $PWD in
    *[!A-Za-z0-9/._+-]*)
        echo "$0: rpmbuild cannot work in $PWD; use a folder of letters, digits, and / . _ + - only" >&2; exit 1 ;;
esac
# The compiler of the published files. Another one makes other bytes, not worse ones.
rust=1.95.0
glibc=2.28
# What was measured and 5 %; benches/FIGURES.md says what is in it. A dependency that adds more is to be noticed.
largest=${LARGEST:-4400000}
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
case $(rustc --version) in
    "rustc $rust "*) ;;
    *) echo "$0: $(rustc --version), not $rust: these files will differ from published ones" >&2 ;;
esac
# All times in the files: that of the commit.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}
export SOURCE_DATE_EPOCH

# zig and its cargo front end live in the tree and go with 'make clean'.
tools=target/zig-venv
if ! cmp -s dist/package/build-tools.txt $tools/tools.txt; then
    rm -rf $tools
    python3 -m venv $tools
    $tools/bin/pip install --quiet --no-deps --only-binary :all: --require-hashes -r dist/package/build-tools.txt
    cp dist/package/build-tools.txt $tools/tools.txt
fi
# Panics name their source; not by this machine's folders. The unit separator stands between flags, which may have blanks.
home=${CARGO_HOME:-$HOME/.cargo}
separator=$(printf '\037')
flags="--remap-path-prefix=$PWD=/dcgm-exporter"
for registry in "$home"/registry/src/*; do
    flags="$flags$separator--remap-path-prefix=$registry=/crates"
done
PATH=$PWD/$tools/bin:$PATH CARGO_ENCODED_RUSTFLAGS=$flags \
    cargo zigbuild --release --locked --bin dcgm-exporter --target "$target.$glibc"
binary=target/$target/release/dcgm-exporter

newest=$(readelf --version-info --wide "$binary" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1)
if [ -z "$newest" ] || [ "$(printf '%s\n' "GLIBC_$glibc" "$newest" | sort -V | tail -n 1)" != "GLIBC_$glibc" ]; then
    echo "$binary needs ${newest:-no glibc that can be told}; it is to run with glibc $glibc" >&2; exit 1
fi
size=$(wc -c <"$binary")
if [ "$size" -gt "$largest" ]; then
    echo "$binary has $size bytes; $largest are the most" >&2; exit 1
fi
for folder in "$PWD" "$home"; do
    if grep -qF "$folder/" "$binary"; then
        echo "$binary names $folder, a folder of this machine" >&2; exit 1
    fi
done

rm -rf "$out"
mkdir -p "$out/$name/bin" "$out/$name/share" "$out/root/DEBIAN"
cp -r Makefile counters dist LICENSE README.md CHANGELOG.md CONTRIBUTING.md "$out/$name/"
mkdir "$out/$name/benches"
cp benches/FIGURES.md benches/compare.py "$out/$name/benches/"
cp "$binary" "$out/$name/bin/"
# Man page and completions are the same on every machine; this one's binary writes them.
writer=$binary
if [ "$machine" != "$(uname -m)" ]; then
    cargo build --release --locked --bin dcgm-exporter
    writer=target/release/dcgm-exporter
fi
"$writer" --generate man >"$out/$name/share/dcgm-exporter.1"
for shell in bash zsh fish; do
    "$writer" --generate $shell >"$out/$name/share/dcgm-exporter.$shell"
done
find "$out/$name" -exec touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +
tar -C "$out" --format=gnu --owner=0 --group=0 --numeric-owner --sort=name -cf "$out/$name.tar" "$name"
gzip -9n "$out/$name.tar"

# The packages hold what 'make install' of the tarball puts in place, but for what packages do by themselves.
make --no-print-directory -C "$out/$name" install \
    DESTDIR="$PWD/$out/root" PREFIX=/usr UNITDIR=/usr/lib/systemd/system ENABLE=no >/dev/null
rm "$out/root/usr/share/dcgm-exporter/config.sha256"
# Debian's zsh looks for packages' functions in another folder than Red Hat's; the .deb is made first.
zsh=$out/root/usr/share/zsh
mv "$zsh/site-functions" "$zsh/vendor-completions"
description="Polls NVIDIA DCGM and serves its fields on port 9400, as NVIDIA's dcgm-exporter does."
sed '/^# shellcheck/d' dist/package/engine-link.sh >"$out/engine-link"

# with_link FILE: with the functions of engine-link.sh.
with_link() {
    sed -e "/^@ENGINE_LINK@\$/{r $out/engine-link" -e 'd}' "$1"
}

doc=$out/root/usr/share/doc/dcgm-exporter
{
    printf 'dcgm-exporter (%s) stable; urgency=medium\n\n  * See CHANGELOG.md.gz.\n\n' "$version"
    printf ' -- %s  %s\n' "$maintainer" "$(date -R -d "@$SOURCE_DATE_EPOCH")"
} | gzip -9n >"$doc/changelog.gz"
for script in postinst prerm postrm; do
    with_link "dist/package/deb/$script" >"$out/root/DEBIAN/$script"
    chmod 0755 "$out/root/DEBIAN/$script"
done
(cd "$out/root" && find etc -type f | sed 's|^|/|' | sort) >"$out/root/DEBIAN/conffiles"
(cd "$out/root" && find usr -type f -exec md5sum {} + | sort -k 2) >"$out/root/DEBIAN/md5sums"
cat >"$out/root/DEBIAN/control" <<END
Package: dcgm-exporter
Version: $version
Architecture: $deb
Maintainer: $maintainer
Section: admin
Priority: optional
Installed-Size: $(du -k -s --apparent-size "$out/root/usr" | cut -f 1)
Depends: libc6 (>= $glibc), init-system-helpers (>= 1.54~)
Recommends: datacenter-gpu-manager-4-core
Conflicts: datacenter-gpu-manager-exporter
Replaces: datacenter-gpu-manager-exporter
Provides: datacenter-gpu-manager-exporter
Description: NVIDIA datacenter GPUs as Prometheus metrics
 $description
END
# One thread: several compress to other bytes.
DPKG_DEB_THREADS_MAX=1 dpkg-deb -Zxz --root-owner-group --build "$out/root" "$out/dcgm-exporter_${version}_$deb.deb" >/dev/null
rm -r "$out/root/DEBIAN" "$doc/changelog.gz"
mv "$zsh/vendor-completions" "$zsh/site-functions"

with_link dist/package/dcgm-exporter.spec | sed -e "s|@VERSION@|$version|; s|@DESCRIPTION@|$description|" \
    -e "s|@ROOT@|$PWD/$out/root|; s|@MAINTAINER@|$(printf %s "$maintainer" | sed 's/&/\\&/g')|; s|@LICENSE@|$(python3 dist/package/third-party.py license)|" \
    -e "s|@DATE@|$(date -d "@$SOURCE_DATE_EPOCH" '+%a %b %d %Y')|" >"$out/dcgm-exporter.spec"
rpmbuild --quiet -bb --target "$machine" --define "_topdir $PWD/$out/rpm" --define '_build_id_links none' \
    --define '__strip /bin/true' --define '_buildhost localhost' --define 'use_source_date_epoch_as_buildtime 1' \
    --define 'clamp_mtime_to_source_date_epoch 1' --define '_binary_payload w9.gzdio' \
    --buildroot "$PWD/$out/rpmroot" "$out/dcgm-exporter.spec" >"$out/rpmbuild.log" 2>&1 ||
    { cat "$out/rpmbuild.log" >&2; exit 1; }
mv "$out"/rpm/RPMS/*/*.rpm "$out/"
rm -rf "$out/rpm" "$out/rpmroot" "$out/rpmbuild.log" "$out/root" "$out/dcgm-exporter.spec" "$out/engine-link" "${out:?}/$name"
python3 dist/package/third-party.py sbom "$version" >"$out/$name.cdx.json"
(cd "$out" && sha256sum -- * >SHA256SUMS)
ls -l "$out"
