# SPDX-License-Identifier: MIT OR Apache-2.0
# The front door. Logic lives in crates/xtask.

PREFIX ?= /usr
DESTDIR ?=

XTASK = cargo xtask

.DEFAULT_GOAL := help
.PHONY: help run demo build test test-unit test-vm lint bench deb tarball install clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | column -t -s '	'

run: build ## Build, start every exporter that this kernel supports, show what they do; Ctrl-C ends
	@$(XTASK) run

demo: ## Boot a Debian guest with ZFS, WireGuard, Prometheus and a load; forward its ports
	@scripts/packages test
	@$(XTASK) demo

build: ## Build the static binaries into dist/bin
	@scripts/packages build
	@$(XTASK) build

test: ## All tests: lint, unit and guest
	@scripts/packages test
	@$(XTASK) test

test-unit: ## Tests that need neither root nor a guest
	@scripts/packages test
	@$(XTASK) test-unit

test-vm: ## Tests inside Debian guests
	@scripts/packages test
	@$(XTASK) test-vm

lint: ## Formatting, clippy, shellcheck, promtool, units, and the rules of this tree
	@scripts/packages test
	@$(XTASK) lint

bench: ## Cost per event and per scrape on this machine; needs root
	@scripts/packages bench
	@$(XTASK) bench

deb: ## Build the Debian package into dist
	@scripts/packages build
	@$(XTASK) deb

tarball: ## Build a tarball for systems without dpkg into dist
	@scripts/packages build
	@$(XTASK) tarball

install: ## Install into $(DESTDIR)$(PREFIX)
	@$(XTASK) install --destdir "$(DESTDIR)" --prefix "$(PREFIX)"

clean: ## Remove what was built
	@cargo clean --quiet
	@rm -rf dist
