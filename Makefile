# Everything one does with a checkout. Each target sets up what it needs; paths are relative, so any folder will do.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
AT_ONCE := -n auto --maxprocesses 8 --dist worksteal# tests on every core, neighbours together
READY := .venv/.ready# there only when the install went through

.PHONY: help setup demo test quick smoke lint format docs wheel constraints clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## make .venv with what was tested (Python 3.11 or newer: PYTHON=python3.12; uv is used when it is there)

# A .venv whose install was cut short is made anew; one that a person made is installed into.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; write make setup PYTHON=python3.12")'
	@if [ -e .venv/.unfinished ]; then rm -rf .venv; fi
	@mkdir -p .venv && rm -f $@ && touch .venv/.unfinished
	@echo "installing into .venv: some gigabytes, minutes the first time"
	@if command -v uv >/dev/null; then \
		uv venv --quiet --allow-existing --python $(PYTHON) .venv; \
		uv pip install --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[dev]'; \
	else \
		$(PYTHON) -m venv .venv; \
		$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'; \
	fi
	@mv .venv/.unfinished $@

demo: $(READY) ## a real transfer experiment without a network: a pretrained ViT learns handwritten digits
	@$(BIN)/peft-vision experiment=demo

test: $(READY) ## every test
	@$(BIN)/python -m pytest $(AT_ONCE)

quick: $(READY) ## the tests that take seconds
	@$(BIN)/python -m pytest $(AT_ONCE) -m 'not slow'

smoke: $(READY) ## a few steps of every method
	@runs=$$(mktemp -d); trap 'rm -rf "$$runs"' EXIT; $(BIN)/peft-vision -m experiment=smoke 'method=glob(*)' "runs='$$runs'"

lint: $(READY) ## what ruff has to say
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: $(READY) ## let ruff put it right
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

docs: $(READY) ## the documentation as a site, in build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

wheel: $(READY) ## dist/*.tar.gz and *.whl
	@$(BIN)/python -m build --no-isolation

constraints: ## pin the newest of everything in constraints.txt (needs uv); run the tests afterwards
	@{ echo "# What the tests ran with; pyproject.toml says what is accepted. Written by make constraints."; \
		uv pip compile pyproject.toml --quiet --extra dev --universal --python-version 3.11 --no-header --no-annotate; \
	} >constraints.txt.new && mv constraints.txt.new constraints.txt

clean: ## remove .venv, dist and caches; runs stay
	@rm -rf .venv dist .pytest_cache .ruff_cache
	@find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
