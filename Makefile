# What a user runs: make run, make test, make install. What a developer runs besides: the targets below them.
# Every server that a target starts listens on loopback and is stopped by its process id.

PREFIX      ?= /usr/local
SYSCONFDIR  ?= /etc
UNITDIR     ?= $(SYSCONFDIR)/systemd/system
DESTDIR     ?=
CARGO       ?= cargo
# A release tarball brings the binary; a checkout builds it.
BINARY      ?= $(firstword $(wildcard bin/dcgm-exporter) target/release/dcgm-exporter)
TMPFILESDIR ?= $(PREFIX)/lib/tmpfiles.d
MANDIR      ?= $(PREFIX)/share/man/man1
COMPLETIONS ?= $(PREFIX)/share/bash-completion/completions
SIMULATOR    = target/release/libdcgm_simulator.so
PORT        ?= 9400

.DEFAULT_GOAL := build
.PHONY: build run test check-format lint unit e2e footprint bench hostile soak fuzz install uninstall dist clean simulator

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
test: check-format lint unit

check-format:
	$(CARGO) fmt --all --check

lint:
	$(CARGO) clippy --locked --workspace --all-targets -- --deny warnings

unit:
	$(CARGO) build --locked --workspace
	$(CARGO) test --locked --workspace

# A real Prometheus and a real VictoriaMetrics scrape the real binary. Installs them from Debian's packages.
e2e: build simulator
	tests/e2e/packages.sh prometheus victoria-metrics
	$(CARGO) test --locked --release --test e2e -- --ignored --nocapture --test-threads 1

# Resident memory over 1,000 collections and 100,000 scrapes.
footprint: build simulator
	$(CARGO) test --locked --release --test footprint -- --ignored --nocapture --test-threads 1

# Clients that mean harm; memory and scrapes meanwhile.
hostile: build simulator
	$(CARGO) test --locked --release --test hostile -- --ignored --nocapture

# A long life in a short time: SOAK_MINUTES=N, two by default.
soak: build simulator
	$(CARGO) test --locked --release --test alloc -- --ignored --nocapture
	$(CARGO) test --locked --release --test soak -- --ignored --nocapture

# Random input to everything that takes input; a short run is part of make test.
fuzz:
	FUZZ_SECONDS=$${FUZZ_SECONDS:-60} $(CARGO) test --locked --release --test fuzz -- --nocapture

# Times beside their targets.
bench: build simulator
	$(CARGO) bench --locked --bench page

# Files that an administrator may have changed are left alone. Into an image: make install DESTDIR=/cm/images/NAME
install: $(if $(wildcard $(BINARY)),,build)
	install -D -m 0755 $(BINARY) $(DESTDIR)$(PREFIX)/bin/dcgm-exporter
	@for file in counters/*.csv dist/systemd/environment; do \
		target="$(DESTDIR)$(SYSCONFDIR)/dcgm-exporter/$${file##*/}"; \
		if [ -e "$$target" ] && ! cmp -s "$$file" "$$target"; then \
			echo "$$target was changed and is kept; the new one is $$target.new"; target="$$target.new"; fi; \
		install -D -m 0644 "$$file" "$$target"; done
	@install -d $(DESTDIR)$(UNITDIR) $(DESTDIR)$(MANDIR) $(DESTDIR)$(COMPLETIONS)
	@sed 's|@PREFIX@|$(PREFIX)|g; s|@SYSCONFDIR@|$(SYSCONFDIR)|g' dist/systemd/dcgm-exporter.service \
		> $(DESTDIR)$(UNITDIR)/dcgm-exporter.service
	@chmod 0644 $(DESTDIR)$(UNITDIR)/dcgm-exporter.service
	install -D -m 0644 dist/systemd/dcgm-exporter.socket $(DESTDIR)$(UNITDIR)/dcgm-exporter.socket
	install -D -m 0644 dist/tmpfiles/dcgm-exporter.conf $(DESTDIR)$(TMPFILESDIR)/dcgm-exporter.conf
	@$(BINARY) --generate man > $(DESTDIR)$(MANDIR)/dcgm-exporter.1
	@$(BINARY) --generate bash > $(DESTDIR)$(COMPLETIONS)/dcgm-exporter

# What an administrator may have changed stays.
uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/dcgm-exporter $(DESTDIR)$(UNITDIR)/dcgm-exporter.service \
		$(DESTDIR)$(UNITDIR)/dcgm-exporter.socket $(DESTDIR)$(TMPFILESDIR)/dcgm-exporter.conf \
		$(DESTDIR)$(MANDIR)/dcgm-exporter.1 $(DESTDIR)$(COMPLETIONS)/dcgm-exporter

# Release files in target/dist: a tarball, a .deb and a .rpm whose binary runs with glibc 2.28 and later.
dist:
	dist/package.sh

clean:
	$(CARGO) clean
