# `make` alone lists the targets.

PYTHON ?= python3
SECONDS_PER_TARGET ?= 30
SOAK_SECONDS ?= 600

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOAD_NATIVE := $(BIN)/python -c "import mtc.kernel._native"
RUST := rust/Cargo.toml $(wildcard rust/src/*.rs)
# Node's ACME client, for the tests with foreign clients; below .venv, so that `make clean` takes it away.
NODE_CLIENT := acme-client@5.4.0
NODE_STAMP := $(VENV)/node/.installed-$(NODE_CLIENT)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv acme-client test check-native lint format demo demo-browser bench fuzz soak soak-cosigners coverage clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP) ## Create or refresh the development environment in .venv

$(STAMP): requirements-dev.txt pyproject.toml $(RUST)
	@echo "== environment: $(VENV)"
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { \
	  echo "mtc needs Python 3.11 or newer; name one with: make PYTHON=..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "Cannot create $(VENV): Python has no venv here (Debian: apt install python3-venv)." >&2; exit 1; }
	@echo "== install: requirements-dev.txt (with hashes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@echo "== install: mtc and its native kernel"
	@rm -f src/mtc/kernel/_native*.so
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@if $(LOAD_NATIVE) 2>/dev/null; then echo "== kernel: native"; \
	elif command -v cargo >/dev/null; then echo "== kernel: Python only; cargo failed, make check-native shows why"; \
	else echo "== kernel: Python only; there is no cargo to build the native one"; fi
	@touch $@

acme-client: $(NODE_STAMP) ## Install Node's ACME client, with which tests ask the ACME server

$(NODE_STAMP): | $(STAMP)
	@command -v npm >/dev/null || { echo "npm is not installed (Debian: apt install npm)." >&2; exit 1; }
	@echo "== install: $(NODE_CLIENT) for Node"
	@npm install --prefix $(VENV)/node --no-package-lock --no-save --ignore-scripts --no-audit --no-fund --loglevel=error $(NODE_CLIENT)
	@touch $@

# MTC_REQUIRE_NATIVE=1 in the environment makes a missing native kernel a failure instead of a note.
test: $(STAMP) $(if $(MTC_REQUIRE_NATIVE),check-native) lint ## Check everything: lint, format, types, tests
	@$(LOAD_NATIVE) 2>/dev/null || echo "== note: no native kernel here; tests run on the Python kernel alone"
	@echo "== tests"
	@$(BIN)/python -m pytest -q -n 3 --dist worksteal

check-native: $(STAMP) ## Fail unless the native kernel is built and loads
	@$(LOAD_NATIVE) || { echo "The native kernel is not built:" >&2; \
	  $(BIN)/python -m pip install --verbose --disable-pip-version-check --no-deps --no-build-isolation -e . >&2; exit 1; }

lint: $(STAMP) ## Check style, format and types
	@echo "== ruff check"
	@$(BIN)/ruff check
	@echo "== ruff format"
	@$(BIN)/ruff format --check
	@echo "== mypy"
	@$(BIN)/mypy

format: $(STAMP) ## Rewrite the sources in the project's format
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

# Where the environment is there it is taken as it is: a demonstration installs nothing.
demo: $(if $(wildcard $(BIN)/mtc),,$(STAMP)) ## Run the demonstration; KEEP=1 leaves everybody running until ctrl-C
	@$(BIN)/mtc demo $(if $(filter-out 0 no,$(KEEP)),--keep)

demo-browser: $(if $(wildcard $(BIN)/mtc),,$(STAMP)) ## Load pages with Chromium over both forms of certificate, and see three refused
	@$(BIN)/mtc demo browser

bench: $(STAMP) ## Measure the core, the log, issuance, cosigners, ACME and handshakes
	@$(BIN)/mtc bench core
	@$(BIN)/mtc bench log
	@$(BIN)/mtc bench issue
	@$(BIN)/mtc bench cosign
	@$(BIN)/mtc bench acme
	@$(BIN)/mtc bench handshake --loopback

fuzz: $(STAMP) ## Fuzz each target for SECONDS_PER_TARGET seconds
	@$(BIN)/python fuzz/run.py --seconds $(SECONDS_PER_TARGET)

soak: $(STAMP) ## Run the slow tests
	@$(BIN)/python -m pytest -q -m slow

soak-cosigners: $(STAMP) ## Run a CA and five cosigners through SOAK_SECONDS of faults, and print figures
	@SOAK_SECONDS=$(SOAK_SECONDS) $(BIN)/python -m pytest -q -s -m slow tests/test_cosigner_soak.py

coverage: $(STAMP) ## Run the tests and report uncovered lines and branches
	@$(BIN)/coverage run -m pytest -q
	@$(BIN)/coverage report

clean: ## Remove everything that was built
	rm -rf $(VENV) build dist rust/target src/*.egg-info src/mtc/kernel/_native*.so
	rm -rf .coverage htmlcov .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
