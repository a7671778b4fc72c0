# Development of dbops.fleet on Debian 12 or 13, as root or with sudo. `make help` lists the targets.
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
