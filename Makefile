# The commands of every day. `make` alone lists them.
PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup up down test check audit format docs lock bench clean

help: ## list the commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

up: $(VENV)/.ready ## set up, start an engine, deploy models/ollama/Modelfile, serve on http://localhost:8000
	@exec $(BIN)/ramsey up

down: $(VENV)/.ready ## stop what `ramsey up --detach` started
	@$(BIN)/ramsey down

setup: $(VENV)/.ready ## create .venv with what the product needs

test: $(VENV)/.ready-dev ## set up what the tests need, and run them all
	@# Three processes on two cores can be too slow for a time-out: what failed must fail alone as well.
	$(BIN)/pytest -n 3 --dist loadfile || $(BIN)/pytest -n 0 --last-failed --last-failed-no-failures none

check: $(VENV)/.ready-dev ## format, lint, strict types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

audit: $(VENV)/.ready-dev ## look the pinned packages up in a database of known vulnerabilities
	@$(BIN)/python scripts/audit

bench: $(VENV)/.ready ## measure beside LiteLLM, Portkey and nginx; BENCH="requests streams" runs parts (bench/)
	@PYTHON="$(PYTHON)" bench/setup
	@.bench/venv/bin/python -m bench $(BENCH)

format: $(VENV)/.ready-dev ## rewrite the code in the house's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.ready ## renew docs/configuration.md from the settings
	$(BIN)/ramsey config docs --markdown > docs/configuration.md

lock: ## renew the pinned requirements from pyproject.toml
	@scripts/lock

clean: ## remove the virtual environment and every cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/.ready: requirements.txt pyproject.toml scripts/setup
	@PYTHON="$(PYTHON)" scripts/setup requirements.txt
	@touch $@

$(VENV)/.ready-dev: requirements-dev.txt pyproject.toml scripts/setup
	@PYTHON="$(PYTHON)" scripts/setup requirements-dev.txt
	@touch $(VENV)/.ready $@
