# Development of dbops.fleet on Debian 12 or 13, as root, or as a user whose sudo asks for no password. `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Every command finds this checkout as dbops.fleet, and the tools of .venv first.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
export ANSIBLE_COLLECTIONS_PATH := $(CURDIR)/.cache/collections

.PHONY: help
help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

.PHONY: venv
venv: $(READY) ## System packages, .venv with all tools (done by every other target when needed)

$(READY): tests/requirements.txt tools/install-system-packages tools/pick-python tools/link-collection
	@tools/install-system-packages
	@tools/link-collection
	@python=$$(tools/pick-python) && echo "Making $(VENV) with $$python (one to three minutes)" && \
	  { [ -x $(BIN)/python ] || "$$python" -m venv $(VENV); }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement tests/requirements.txt
	@touch $@

# The parts and their commands are data in tools/run_tests.py. Each target ends with a table and `N passed, N failed`.
RUN := $(BIN)/python tools/run_tests.py

.PHONY: lint unit integration molecule setup-tests sanity test
lint: $(READY) ## ansible-lint (production), yamllint, ruff, mypy
unit: $(READY) ## Tests that need no server
integration: $(READY) ## Tests against PostgreSQL and PgBouncer that they start themselves
sanity: $(READY) ## ansible-test sanity with the newest ansible-core
molecule: $(READY) ## Every Molecule scenario, on test hosts of its own
lint unit integration sanity molecule:
	@$(RUN) $@
setup-tests: $(READY) ## setup.yml with bad input, after promotions, on test hosts of its own
	@$(RUN) setup

test: $(READY) ## All of the above and the setup tests: a few minutes per part
	@$(RUN)

.PHONY: test-sanity test-faults bench
test-sanity: $(READY) ## ansible-test sanity with every supported ansible-core
	@tools/sanity --all

test-faults: hosts ## Every fault, the slow ones too, and the test hosts themselves; figures go to docs/faults.md
	@rm -f .cache/results/faults.json
	@status=0; $(BIN)/pytest tests/hosts tests/faults tests/setup || status=1; $(BIN)/python tests/faults/table.py || status=1; \
	  $(RUN) long-molecule || status=1; exit $$status

bench: hosts ## The figures of docs/benchmarks.md; one of them: make bench BENCH=tests/benchmarks/NAME
	@set -e; for benchmark in $(or $(BENCH),$(wildcard tests/benchmarks/bench_*.py)); do \
	  echo "Running $$benchmark"; $(BIN)/python "$$benchmark"; done

.PHONY: demo hosts hosts-exist hosts-destroy
demo: hosts ## A fleet on test hosts: setup, switchover, failover, backups, everything lost and back
	@tools/demo

hosts: $(READY) ## The test hosts, made once and kept
	@tests/hosts/fleet-hosts up

# Fails when there are none.
hosts-exist:
	@tests/hosts/fleet-hosts status

# The demo's passwords and certificates go with the hosts that have them.
hosts-destroy: ## Removes the test hosts with their networks and mounts
	@if $(MAKE) --no-print-directory hosts-exist >/dev/null 2>&1; then tests/hosts/fleet-hosts down; fi
	@FLEET_HOSTS_SET=molecule tests/hosts/fleet-hosts down
	@rm -rf .cache/secrets .cache/molecule

.PHONY: build clean
build: $(READY) ## The collection's artefact, dbops-fleet-VERSION.tar.gz
	@ansible-galaxy collection build --force

clean: hosts-destroy ## Removes all that the targets above made, the test hosts and their images too
	@tests/hosts/fleet-hosts down --images
	rm -rf $(VENV) .cache .ansible .hypothesis .mypy_cache .pytest_cache .ruff_cache dbops-fleet-*.tar.gz
