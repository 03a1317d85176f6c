#!/bin/sh
# Builds Prometheus 3 and VictoriaMetrics's programs from their Go modules into DIRECTORY/bin: newest.sh DIRECTORY
set -eu
PROMETHEUS=v0.316.0         # Prometheus 3.16.0
VICTORIA_METRICS=v1.151.0
mkdir -p "$1/bin"
cd "$1"
command -v go >/dev/null || { echo 'newest.sh: go is not installed; Prometheus 3 needs Go 1.25 or newer (golang.org, or a package)' >&2; exit 1; }

# A program of a module with replace lines cannot be installed by its name; as a dependency it can be built.
build() {
    module=$1 version=$2
    shift 2
    mkdir -p "$(basename "$module")"
    cd "$(basename "$module")"
    [ -f go.mod ] || go mod init newest
    go get "$module@$version"
    for program; do
        [ -x "../bin/$(basename "$program")" ] || go build -mod=mod -p "${JOBS:-2}" -o ../bin/ "$module/$program"
    done
    cd ..
}
build github.com/prometheus/prometheus $PROMETHEUS cmd/prometheus cmd/promtool
build github.com/VictoriaMetrics/VictoriaMetrics $VICTORIA_METRICS app/victoria-metrics app/vmagent app/vmalert
bin/prometheus --version
