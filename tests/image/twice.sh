#!/bin/sh
# twice.sh: makes the release files here and in another folder, and compares them byte for byte; 'make reproducible' calls
# it. The second build shares nothing with the first but the compiler, cargo's unpacked crates and zig.
set -eu
cd "$(dirname "$0")/../.."
machine=$(uname -m)
elsewhere=target/elsewhere/of/another/length
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH

# A fresh clone has none.
mkdir -p target
dist/package.sh "$machine" >target/first.log
rm -rf target/elsewhere
mkdir -p $elsewhere/target
# What is committed and what is not yet, but nothing that was built.
git ls-files --cached --others --exclude-standard | while IFS= read -r file; do
    if [ -e "$file" ] || [ -L "$file" ]; then cp -P --parents "$file" $elsewhere/; fi
done
ln -s "$PWD/target/zig-venv" $elsewhere/target/zig-venv
(umask 077; cd $elsewhere; dist/package.sh "$machine" >../second.log)
if diff -r "target/dist/$machine" "$elsewhere/target/dist/$machine"; then
    cat "target/dist/$machine/SHA256SUMS"
    echo "two builds gave the same bytes"
    rm -rf target/elsewhere
else
    echo "two builds differ; the second is in $elsewhere/target/dist/$machine" >&2
    exit 1
fi
