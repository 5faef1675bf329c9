# `make` lists the targets. Every target sets up what it needs in .venv, in an empty clone too.
.DEFAULT_GOAL := help
.PHONY: help demo test test-chaos test-page test-all fuzz lint bench wheel clean setup setup-demo
MAKEFLAGS += --no-print-directory

python := .venv/bin/python
# Warm caches must not change what a test sees: the same examples on every run.
pytest := $(python) -m pytest --hypothesis-profile=ci

help: ## List the targets
	@echo 'make TARGET, with Python 3.11, make and a C/C++ compiler; no root.'
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1~\2/p' Makefile | awk -F'~' '{printf "%-14s%s\n", $$1, $$2}'

demo: setup-demo ## Run the product once, here, with a small real model (ARGS=--keep)
	@$(python) -m edgectl demo $(ARGS)

test: setup ## Run the unit and integration tests (ARGS='-k words')
	@$(pytest) tests/unit tests/integration $(ARGS)

test-chaos: setup ## Run the tests that kill, stall and starve things
	@$(pytest) tests/chaos $(ARGS)

test-page: setup ## Run the tests of the web page in a headless Chromium (apt install chromium)
	@$(pytest) tests/page $(ARGS)

test-all: test test-chaos test-page ## Run every test

# New inputs and crashes stay in build/fuzz; a second bound in ARGS replaces the first.
TARGETS ?= gguf_header mqtt_message mqtt_packets http_request ipc_frames
fuzz: setup ## Fuzz what reads bytes from outside, two minutes each (TARGETS=ipc_frames ARGS=-max_total_time=3600)
	@$(python) -m pip install --quiet 'atheris>=3.0'
	@for target in $(TARGETS); do $(python) -m tests.fuzz $$target $(ARGS) || exit 1; done

lint: setup ## Check style, types and the layers of the code
	@failed=0; \
	for check in 'python -m ruff check' 'python -m ruff format --check' 'python -m mypy' lint-imports; do \
	  .venv/bin/$$check || failed=1; \
	done; \
	exit $$failed

# Peers are installed below build/peers once. ARGS picks scenarios: `make bench ARGS='shared stall --quick'`.
bench: setup ## Measure it beside other servers, in hours (ARGS=--list names what can be picked)
	@$(python) -m tests.bench $(ARGS)

wheel: setup ## Build the wheel into dist/
	@$(python) -m build --wheel --no-isolation

clean: ## Remove .venv and everything built; the compiled engine stays in pip's cache
	@rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find edgectl daemon tests -name __pycache__ -prune -exec rm -rf {} +

setup:
	@sh .ci/setup dev

setup-demo:
	@sh .ci/setup demo
