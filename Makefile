# Everything a developer runs, in one place. Needs nothing but Python 3.11 or newer and make.

PYTHON ?= python3
UV_VERSION := 0.13.9
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=
# A run starts hundreds of processes: what one compiles is kept for the next, also where the environment forbids it.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help install demo test check format faults faults-long bench brokers-up brokers-down brokers-status clean

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  Pass options with ARGS, for example:  make demo ARGS=--no-kill"

install: $(STAMP) ## Install everything into .venv (runs by itself before the others)

# Runs again only when pyproject.toml or uv.lock changed; uv itself is installed into the environment first.
$(STAMP): pyproject.toml uv.lock
	@command -v $(PYTHON) >/dev/null || { echo "streamflow needs Python 3.11 or newer, and '$(PYTHON)' was not found."; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("streamflow needs Python 3.11 or newer; $(PYTHON) is %d.%d. Name another one: make PYTHON=/path/to/python3.12" % v[:2])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "venv failed; on Debian and Ubuntu: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }
	@test -x $(BIN)/uv && $(BIN)/uv --version | grep -q "^uv $(UV_VERSION)" || $(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"
	UV_PROJECT_ENVIRONMENT=$(CURDIR)/$(VENV) $(BIN)/uv sync --frozen --quiet --python $(BIN)/python
	@touch $@

demo: $(STAMP) ## Count words on a real broker while the flow is killed again and again
	@$(BIN)/python -m examples.demo $(ARGS)

test: $(STAMP) ## Run every test, with the time of each part
	@$(BIN)/python tests/run_parts.py $(ARGS)

check: $(STAMP) ## Format, lint, types (mypy and pyright) and layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(wildcard streamflow connectors examples benchmarks tests)
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo

format: $(STAMP) ## Format the code and fix what can be fixed by itself
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

faults: $(STAMP) ## Long runs of crashes, simulated schedules, real kills and bad input
	@$(BIN)/python tests/run_parts.py --only faults,golden,simulation,security --long $(ARGS)

faults-long: $(STAMP) ## Before a release: every long test, 100,000 schedules (SCHEDULES=...), hundreds of kills, a soak
	@STREAMFLOW_SCHEDULES=$(or $(SCHEDULES),100000) $(BIN)/python tests/run_parts.py --longest $(ARGS)
	@$(BIN)/python -m tests.simulation --sweep
	@$(BIN)/python -m tests.faults.nats.campaign --flow 500 --server 100
	@$(BIN)/python -m tests.faults.nats.soak --minutes 20

bench: $(STAMP) ## Print the figures the project promises, measured here
	@$(BIN)/python -m benchmarks $(ARGS)

brokers-up: $(STAMP) ## Start the brokers (what listens already is used; else Docker; else natively)
	@$(BIN)/python -m tests.brokers up $(ARGS)

brokers-down: $(STAMP) ## Stop the brokers that brokers-up started
	@$(BIN)/python -m tests.brokers down $(ARGS)

brokers-status: $(STAMP) ## Say which broker answers, and where
	@$(BIN)/python -m tests.brokers status $(ARGS) || true

clean: ## Remove .venv, builds and caches
	rm -rf $(VENV) dist build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
