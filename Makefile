# Every target is also a plain command in README.md. The virtual environment is made and kept up to date as needed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Only for PyTorch's CPU build, and only where the configured indexes do not have it.
TORCH_INDEX := https://download.pytorch.org/whl/cpu
INSTALL := $(BIN)/python -m pip install --quiet --no-deps --disable-pip-version-check
# Where nvidia-smi shows a card, the packages for it are installed; DEVICE=cpu has those for the CPU all the same.
DEVICE ?= $(if $(shell nvidia-smi -L 2>/dev/null),gpu,cpu)
INSTALLED := $(VENV)/.installed-$(DEVICE)

VERSION ?= v1
MODEL ?=
WORKERS ?= 2
TUTORIAL := tests/browser/test_tutorial.py

.DEFAULT_GOAL := help
.PHONY: help setup dev demo report ui test test-gpu unit bench lint types validate docs pictures bench-faults check clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:[^#]*## */\t/' | expand -t 16

setup: $(INSTALLED) ## Make .venv with the pinned packages (DEVICE=gpu or cpu; by itself, gpu where there is a card)

$(INSTALLED): requirements/$(DEVICE).txt pyproject.toml
	@echo "installing for the $(DEVICE) (requirements/$(DEVICE).txt; DEVICE=cpu or DEVICE=gpu chooses)"
	@for other in $(VENV)/.installed-cpu $(VENV)/.installed-gpu; do \
		if [ -e $$other ] && [ $$other != $@ ]; then rm -rf $(VENV); fi; done
	$(PYTHON) -m venv $(VENV)
ifeq ($(DEVICE),cpu)
	$(INSTALL) -r requirements/cpu.txt || $(INSTALL) --extra-index-url $(TORCH_INDEX) -r requirements/cpu.txt
else
	$(INSTALL) -r requirements/$(DEVICE).txt
endif
	$(INSTALL) --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-dev: $(INSTALLED) requirements/dev.txt requirements/postgres.txt requirements/s3.txt
	$(INSTALL) -r requirements/dev.txt -r requirements/postgres.txt -r requirements/s3.txt
	@touch $@

dev: $(VENV)/.installed-dev ## As setup, with what tests and lint need (requirements/dev.txt)

demo: setup ## Materialize the whole graph for constitution v1 on the offline model, or on MODEL=<name or folder>
	$(BIN)/cai demo$(if $(MODEL), --model "$(MODEL)")

report: setup ## Write a version's HTML report (VERSION=v1)
	$(BIN)/cai report $(VERSION)

ui: setup ## Open the Dagster UI on this project's instance
	$(BIN)/cai ui

# The longest first: what shares an engine, and the tutorial, run as they stand; the others fill in.
# Bytecode is kept: without it each of a thousand processes compiles it anew.
test: $(VENV)/.installed-dev ## Run all tests, those on the real small model too, in two processes
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder tests/browser tests/e2e tests/graph tests/process tests/simulations tests/unit

# What an engine in this process leaves on a card stays there: its tests are not run.
test-gpu: $(VENV)/.installed-dev ## On a GPU machine, without a browser: exactness, hostile texts, the whole graph on the real model
	$(BIN)/python -m pytest tests/e2e/test_engines.py tests/e2e/test_real_graph.py -k "(own_process or bfloat16 or float32 or control or graph) and not numbers and not in_process and not http and not ray"

unit: $(VENV)/.installed-dev ## Run the unit tests: no engine, no browser, no run of the graph
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --hypothesis-profile=quick tests/unit

bench: $(VENV)/.installed-dev ## Measure what docs/benchmarks.md shows (about 35 minutes on two idle cores)
	$(BIN)/python -m benchmarks

lint: $(VENV)/.installed-dev ## Lint, check the format and the floors that imports keep to
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

types: $(VENV)/.installed-dev ## Check the types
	$(BIN)/pyright --pythonpath $(BIN)/python

validate: $(VENV)/.installed-dev ## Load the code location and check its definitions, as a workspace and as a dg project
	$(BIN)/dagster definitions validate -w workspace.yaml
	$(BIN)/dg check defs

docs: setup ## Write docs/configuration.md and docs/tables.md anew from settings and tables
	$(BIN)/python -m cai_dagster.commands.reference
	$(BIN)/python -m tests.input_examples

pictures: $(VENV)/.installed-dev ## Walk the tutorial in a browser and take its pictures anew (a quarter of an hour)
	CAI_PICTURES=docs/images $(BIN)/python -m pytest $(TUTORIAL)

bench-faults: $(VENV)/.installed-dev ## 50 seeded kills; on shared storage 20 kills, 50 versions, 32 s of trouble (1 1/2 hours)
	$(BIN)/python -m benchmarks.faults
	CAI_TEST_KILLS=20 CAI_TEST_VERSIONS=50 CAI_TEST_AWAY=32 $(BIN)/python -m pytest -k "two_hosts or deployment or in_trouble or started_again" tests/process

check: test lint types validate ## Everything .ci/run does

clean: ## Remove the virtual environment; tables, ledger and models in CAI_HOME stay
	rm -rf $(VENV)
