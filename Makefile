# `make help` lists the targets.
# ARGS goes to the program that the target runs, as in: make test ARGS="-k wildcard -x -n 0"
# BROKERS=0 installs no broker, and leaves out the tests that need one.
# PYTHON is the interpreter to build the environment with, as in: make test PYTHON=python3.13
PYTHON ?= python3
ARGS ?=
export BROKERS ?= 1

# Every path is relative, so that a space in the path of the checkout does no harm.
SETUP = @$(PYTHON) tools/setup_env.py
RUN = .venv/bin/python -m

# Two targets at once would set up the same environment twice.
.NOTPARALLEL:
.PHONY: help demo test soak lint types docs bench matrix dist clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' Makefile

demo: ## see hubsub at work
	$(SETUP) demo
	$(RUN) hubsub demo $(ARGS)

# More workers than most machines have cores to spare: what talks to a broker waits most of the time.
test: ## run the tests
	$(SETUP) $(if $(filter 0,$(BROKERS)),,--brokers) test
	$(SETUP) --venv .venv-peers peers
	$(SETUP) --venv .venv-starlette-web peers-starlette-web
	$(RUN) pytest -n 8 --dist loadgroup $(ARGS)

soak: ## send a million messages through brokers that are killed every few seconds, and run the tests that take minutes
	$(SETUP) $(if $(filter 0,$(BROKERS)),,--brokers) test
	PYTHONPATH=tests $(RUN) bridges.soak $(ARGS)
	$(RUN) pytest -m long -n 8 --dist loadgroup

lint: ## check style and format
	$(SETUP) lint
	$(RUN) ruff check
	$(RUN) ruff format --check

types: ## check the types, with two checkers
	$(SETUP) test lint
	$(RUN) mypy
	$(RUN) basedpyright

docs: ## build the documentation into site/
	$(SETUP) docs
	NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --strict

# Peers pin what the tests want newer, and broadcaster wants an old redis: neither may decide what the tests run with.
bench: ## compare with other libraries
	$(SETUP) $(if $(filter 0,$(BROKERS)),,--brokers) --venv .venv-bench bench
	$(SETUP) --venv .venv-broadcaster bench-broadcaster
	$(SETUP) --venv .venv-web bench-web
	.venv-bench/bin/python -m benchmarks $(ARGS)

matrix: ## run the core tests on the other event loops, and on every other Python here
	@$(PYTHON) tools/matrix.py $(ARGS)

dist: ## build wheel and source distribution into dist/
	$(SETUP) test
	rm -rf build dist
	$(RUN) build --no-isolation
	@# Left here, its entry points would be believed before those that are installed.
	rm -rf *.egg-info

clean: ## remove everything that these targets made
	rm -rf .venv .venv-* build dist site *.egg-info .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
