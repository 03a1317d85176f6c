# What a user runs: make run, make test, make install. What a developer runs besides: the targets below them.
# Every server that a target starts listens on loopback and is stopped by its process id.

PREFIX      ?= /usr/local
SYSCONFDIR  ?= /etc
UNITDIR     ?= $(SYSCONFDIR)/systemd/system
DESTDIR     ?=
CARGO       ?= cargo
# A release tarball brings the binary; a checkout builds it.
BINARY      ?= $(firstword $(wildcard bin/dcgm-exporter) target/release/dcgm-exporter)
ENABLE      ?= yes
MACHINE     ?= x86_64
SIMULATOR    = target/release/libdcgm_simulator.so
PORT        ?= 9400

.DEFAULT_GOAL := build
.PHONY: build run test check-format lint audit unit e2e e2e-newest e2e-newest-slurm fleet footprint bench hostile soak fuzz \
        install uninstall dist image reproducible clean simulator

build:
	$(CARGO) build --release --locked

simulator:
	$(CARGO) build --release --locked --package dcgm-simulator

# Serves this machine's GPUs, or simulated ones where there is no libdcgm.
run: build simulator
	@if [ -n "$(LIBDCGM)" ]; then set -- --libdcgm "$(LIBDCGM)"; \
	elif ldconfig -p 2>/dev/null | grep -q 'libdcgm\.so\.[34]'; then set --; \
	else set -- --libdcgm $(SIMULATOR); \
		echo '*** NO LIBDCGM ON THIS MACHINE: SERVING EIGHT SIMULATED GPUS. NO NUMBER BELOW IS REAL. ***' >&2; fi; \
	echo "*** http://localhost:$(PORT)/metrics ***" >&2; \
	exec $(BINARY) --collectors counters/default-counters.csv --address :$(PORT) --collect-interval 1s "$$@"

# Everything that must hold; needs Rust and a C compiler.
test: check-format lint audit unit

# Licences, sources and advisories of what is linked in. Without a network it prints what it could not check.
audit:
	dist/audit.sh

check-format:
	$(CARGO) fmt --all --check

lint:
	$(CARGO) clippy --locked --workspace --all-targets -- --deny warnings

unit:
	$(CARGO) build --locked --workspace
	$(CARGO) test --locked --workspace

# A real Prometheus and a real VictoriaMetrics scrape the real binary, a real Slurm runs jobs, a real Chromium shows
# the page for people, and real shells complete command lines. Installs them from Debian's packages. Needs root, for Slurm's GPUs, which are device files.
e2e: build simulator
	tests/e2e/packages.sh prometheus victoria-metrics curl python3 python3-venv python3-prometheus-client podman \
	    slurmctld slurmd slurm-client munge chromium python3-websocket zsh fish
	$(CARGO) test --locked --release --test e2e -- --ignored --nocapture --test-threads 1

# The parts of e2e that are about Prometheus and VictoriaMetrics, with newer ones than Debian's, built from their Go
# modules. Needs Go, a package registry, and some 20 minutes on two cores for the first time.
NEWEST = target/newest
e2e-newest: build simulator
	tests/e2e/newest.sh $(NEWEST)
	PATH="$(CURDIR)/$(NEWEST)/bin:$$PATH" $(CARGO) test --locked --release --test e2e -- --ignored --nocapture \
	    --test-threads 1 alerts:: dashboards:: scraped_by tls_with samples_are promql_of

# The parts of e2e that are about Slurm, with the newest one that Debian has packages of, in a tree of its own: this machine's
# Slurm stays as it is. Needs root, and some 300 MB in target/newest-slurm. Cargo starts the test program through the script.
NEWEST_SLURM = target/newest-slurm
e2e-newest-slurm: build simulator
	tests/e2e/packages.sh debootstrap iproute2
	$(CARGO) --config "target.'cfg(all())'.runner = ['tests/e2e/newest-slurm.sh', '$(NEWEST_SLURM)']" \
	    test --locked --release --test e2e -- --ignored --nocapture --test-threads 1 slurm::

# N exporters on the simulator under one Prometheus, then under vmagent with VictoriaMetrics, for SECONDS each.
N       ?= 20
SECONDS ?= 60
fleet: build simulator
	tests/e2e/packages.sh prometheus victoria-metrics python3
	tests/fleet/run.py $(N) $(SECONDS)

# Resident memory over 1,000 collections and 100,000 scrapes.
footprint: build simulator
	$(CARGO) test --locked --release --test footprint -- --ignored --nocapture --test-threads 1

# Clients that mean harm; memory and scrapes meanwhile.
hostile: build simulator
	$(CARGO) test --locked --release --test hostile -- --ignored --nocapture --test-threads 1

# A long life in a short time: SOAK_MINUTES=N, two by default and 30 with everything on; then what takes minutes for other
# reasons.
soak: build simulator
	$(CARGO) test --locked --release --test alloc -- --ignored --nocapture
	$(CARGO) test --locked --release --test soak -- --ignored --nocapture
	$(CARGO) test --locked --release --test it -- --ignored at_length for_ten_minutes

# Random input to everything that takes input; a short run is part of make test.
fuzz:
	FUZZ_SECONDS=$${FUZZ_SECONDS:-60} $(CARGO) test --locked --release --test fuzz -- --nocapture

# Times beside their targets.
bench: build simulator
	$(CARGO) bench --locked --bench page --bench cost --bench prolog

# On this node, or into an image: make install DESTDIR=/cm/images/NAME
# In the environment, so that no shell reads what is in them.
export PREFIX SYSCONFDIR UNITDIR DESTDIR ENABLE

# In a checkout the binary is built first, where cargo is at hand: one that was built before may be older than its source.
# A release has its own, and BINARY=FILE names another.
NEEDS_BUILD = $(and $(filter file,$(origin BINARY)),$(filter target/%,$(BINARY)),$(shell command -v $(CARGO)))

install: $(if $(NEEDS_BUILD),build)
	@if [ ! -x "$(BINARY)" ]; then echo "there is no $(BINARY), and no cargo to build it: install Rust 1.92 or newer" \
		"(https://rustup.rs), or unpack a release" >&2; exit 1; fi
	@BINARY="$(BINARY)" dist/install.sh

uninstall:
	@dist/uninstall.sh

# Release files in target/dist: a tarball, a .deb and a .rpm whose binary runs with glibc 2.28 and later, SHA256SUMS, and
# a list of what is linked in. MAINTAINER='Team <team@site>' is whom users of the packages write to. For Grace:
# rustup target add aarch64-unknown-linux-gnu; make dist MACHINE=aarch64
dist:
	dist/package.sh $(MACHINE)

# The packages and the tarball in a fresh Debian, with a systemd of its own. Needs root.
image:
	tests/e2e/packages.sh debootstrap rpm dnf createrepo-c lintian python3-venv binutils shellcheck \
	    qemu-user-static curl
	dist/package.sh
	$(CARGO) build --release --locked --package dcgm-simulator
	$(CARGO) test --locked --release --test image -- --ignored --nocapture --test-threads 2

# The release files, made in two folders, are the same byte for byte. Builds the binary twice.
reproducible:
	tests/e2e/packages.sh rpm python3-venv binutils
	tests/image/twice.sh

clean:
	$(CARGO) clean
