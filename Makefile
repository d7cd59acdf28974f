# `make help` lists the targets. Each does its own set-up; nothing needs to be installed first
# but git, make and python3 with venv (or root, to install them).
.DEFAULT_GOAL := help
BIN := .venv/bin
PYTEST_ARGS ?=
SCHEDULES ?= 200
SEED ?= 0
FAULTS_ARGS ?=
DAYS ?= 30
HOURS ?= 1
KILLS ?= 200
DEMO_ARGS ?=

# Without it, each of the hundreds of processes that the tests start would compile anew what it loads.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup setup-demo fmt lint types imports unit e2e test test-live demo bench lost-requests schema server-model lock audit sbom release check faults faults-planted soak soak-real crash crash-random

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## virtual environment with all tools, and the real servers that the tests use
	@scripts/setup.sh test

setup-demo:  ## virtual environment with what the demo uses
	@scripts/setup.sh demo

demo: setup-demo  ## the whole job on this machine, in 3 minutes (knobs: make demo DEMO_ARGS="--help")
	@$(BIN)/autoscaler demo $(DEMO_ARGS)

fmt: setup  ## format the code
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix --select I .

lint: setup  ## ruff: format and rules
	@echo '==> ruff'; $(BIN)/ruff format --check . && $(BIN)/ruff check .

types: setup  ## mypy --strict
	@echo '==> mypy --strict'; $(BIN)/mypy

imports: setup  ## the import contracts of docs/architecture.md
	@echo '==> import contracts'; $(BIN)/lint-imports

check: lint types imports  ## all that reads the code without running it

unit: setup  ## the tests without the end-to-end ones
	@$(BIN)/python -m pytest -n 2 --dist loadgroup -m 'not e2e and not live' $(PYTEST_ARGS)

e2e: setup  ## the end-to-end tests
	@$(BIN)/python -m pytest -n 4 --dist loadgroup -m e2e $(PYTEST_ARGS)

test: check  ## everything that CI runs: lint, types, imports, all tests
	@echo '==> tests'; $(BIN)/python -m pytest -n 4 --dist loadgroup -m "not live" $(PYTEST_ARGS)

test-live: setup  ## the contract suite against the real cloud (MKINF_KEY_FILE=path; read-only)
	@$(BIN)/python -m pytest -m live tests/contract $(PYTEST_ARGS)

faults: setup  ## simulated schedules of faults against every promise (SCHEDULES=200 SEED=0)
	@$(BIN)/python -m tests.faults --schedules $(SCHEDULES) --seed $(SEED) $(FAULTS_ARGS)

crash: setup  ## the real daemon, killed at each named point between a record and an effect
	@$(BIN)/python -m pytest tests/crash $(PYTEST_ARGS)

crash-random: setup  ## the real daemon under load, killed at random moments (KILLS=200 SEED=0)
	@KILLS=$(KILLS) SEED=$(SEED) $(BIN)/python -m pytest -s tests/crash/test_crash_random.py $(PYTEST_ARGS)

faults-planted: setup  ## planted bugs: every check of `make faults` must see those it is there for
	@$(BIN)/python -m tests.faults --planted

soak: setup  ## 30 simulated days with a bad one a week: nothing grows, the meter is right (DAYS=3)
	@$(BIN)/python -m tests.faults.soak --days $(DAYS) --seed $(SEED)

soak-real: setup  ## an hour of load on the real processes, and nothing grows (HOURS=1)
	@$(BIN)/python -m bench.soak_real --hours $(HOURS)

bench: setup  ## the benchmarks: ratios against a peer or a bound, in one run
	@$(BIN)/python -m bench

lost-requests: setup  ## 1,000 scale-ins under reloads and three-minute streams, token by token (half an hour)
	@$(BIN)/python -m bench.drain --long

server-model: setup  ## compare the backtest's model of a server with published measurements anew (docs/server-model.md)
	@PYTHONPATH=. $(BIN)/python scripts/server_model.py

schema:  ## write the JSON Schemas of config and policies anew, from the code and docs/
	@PYTHONPATH=. $(BIN)/python scripts/schema.py

audit:  ## known holes in what the locks install (needs a network, and says so without one)
	@scripts/audit.sh

sbom: setup  ## what a release is made of, as CycloneDX JSON in dist/
	@$(BIN)/python scripts/sbom.py

release: sbom  ## the wheel, and beside it what it is made of, in dist/
	@$(BIN)/python -m hatchling build -t wheel -d dist

lock:  ## resolve pyproject.toml anew into the two hashed lock files (needs uv)
	uv lock --python 3.11 --upgrade
	uv export --frozen --no-emit-project --no-dev --extra demo --group build -o requirements.lock >/dev/null
	uv export --frozen --no-emit-project --all-extras --group build --group dev -o requirements-dev.lock >/dev/null
