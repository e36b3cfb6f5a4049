# `make run` and `make test` do all the set-up by themselves, on a fresh Debian with Python 3.11, as root or not.

BIN := .venv/bin
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help setup run test check bench profile fuzz soak clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' Makefile

setup: ## make .venv/ with .venv/bin/gateway
	@tools/setup.sh runtime

run: setup ## start the demo: a legacy application, and the gateway in front of it
	@exec $(BIN)/gateway demo

test: ## all tests, with branch coverage
	@tools/setup.sh test
	@PATH="$$PATH:/usr/sbin:/sbin" $(BIN)/python -m pytest -q -n 2 --cov --cov-branch --cov-report=term

check: ## ruff, mypy, import-linter
	@tools/setup.sh dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: ## measure speed and memory beside nginx, HAProxy and Caddy
	@tools/setup.sh bench
	@PATH="$$PATH:/usr/sbin:/sbin" $(BIN)/python -m tests.bench

profile: ## where the gateway spends its time under load
	@tools/setup.sh bench
	@PATH="$$PATH:/usr/sbin:/sbin" $(BIN)/python -m tests.bench.profile

fuzz: ## search for bytes that the parsers and both lanes cannot take, FUZZ_SECONDS long
	@tools/setup.sh fuzz
	@$(BIN)/python -m tests.fuzz

soak: ## large, slow and many, until it shows; one line of figures each
	@tools/setup.sh dev
	@$(BIN)/python -m tests.soak

clean: ## remove all that the above made, but for var/ with its keys and records
	rm -rf .venv build *.egg-info .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache tests/output tests/node/node_modules
	find gateway tests config -name __pycache__ -type d -prune -exec rm -rf {} +
