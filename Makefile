# SPDX-License-Identifier: MIT OR Apache-2.0
# The front door. Logic lives in crates/xtask. `make help` shows the targets in the order of this file: the one in
# which a newcomer needs them, then what whoever changes the exporters needs.

PREFIX ?= /usr
DESTDIR ?=

XTASK = scripts/xtask

.DEFAULT_GOAL := help
.PHONY: help run test deb tarball image install bench fleet-bench demo docs build lint test-unit fuzz test-live test-vm test-all clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | column -t -s '	'

run: ## Build, start every exporter that this kernel supports, show what they do; Ctrl-C ends
	@scripts/packages build
	@$(XTASK) run

test: ## Lint, unit tests, and live tests on this machine's own kernel (these as root)
	@scripts/packages test
	@$(XTASK) test

deb: ## Build the Debian package into dist
	@scripts/packages build
	@$(XTASK) deb

tarball: ## Build a tarball for systems without dpkg into dist
	@scripts/packages build
	@$(XTASK) tarball

image: ## Build a container image, an OCI archive, into dist; needs root
	@scripts/packages image
	@$(XTASK) image

install: ## Install into $(DESTDIR)$(PREFIX)
	@$(XTASK) install --destdir "$(DESTDIR)" --prefix "$(PREFIX)"

bench: ## Cost per event and per scrape on this machine; needs root
	@scripts/packages bench
	@$(XTASK) bench

fleet-bench: ## Cost of a Prometheus and a VictoriaMetrics that scrape 10, 100 and 1000 simulated hosts
	@scripts/packages fleet
	@$(XTASK) fleet-bench

demo: ## Boot a Debian guest with ZFS, WireGuard, Prometheus and a load; forward its ports
	@scripts/packages guests
	@$(XTASK) demo

docs: ## Make a site of the documentation in target/book
	@scripts/packages build
	@$(XTASK) docs

build: ## Build the static binaries that users get into dist/bin
	@scripts/packages build
	@$(XTASK) build

lint: ## Formatting, clippy, shellcheck, promtool, units, and the rules of this tree
	@scripts/packages test
	@$(XTASK) lint

test-unit: ## Tests that need neither root nor a guest
	@scripts/packages test
	@$(XTASK) test-unit

fuzz: ## Configs and keys that are generated, for a minute
	@scripts/packages test
	@$(XTASK) fuzz

test-live: ## Live tests on this machine's own kernel; needs root
	@scripts/packages test
	@$(XTASK) test-live

test-vm: ## Live tests in guests: Debian 12, 13 and testing
	@scripts/packages guests
	@$(XTASK) test-vm

test-all: ## Live tests in all guests, those past their end of life too, and all of each
	@scripts/packages guests
	@$(XTASK) test-vm --all

clean: ## Remove what was built
	@cargo clean --quiet
	@rm -rf dist
