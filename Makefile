# Each target sets itself up: the first call makes .venv, later calls reuse it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
JOBS ?= 2

.PHONY: help install demo test test-all check bench clean

help:
	@echo "make demo      synthetic data, both methods, pictures, what was learnt"
	@echo "make test      every test under ten seconds"
	@echo "make test-all  every test"
	@echo "make check     formatting, lint, types, import layers"
	@echo "make bench     time the hot paths beside their peers"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "geomim needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/python -m trainer.demo --out demo

# Test processes share the machine: one thread each, or they only wait for each other.
test test-all: export OMP_NUM_THREADS ?= 1
test: install
	$(PYTEST) tests --ignore tests/bare -m "not slow and not gpu" -n $(JOBS)
	GEOMIM_SHAPE_CHECKS=0 $(PYTEST) tests/bare -m "not slow and not gpu" -n $(JOBS)

test-all: install
	$(PYTEST) tests --ignore tests/bare -m "not gpu"
	GEOMIM_SHAPE_CHECKS=0 $(PYTEST) tests/bare -m "not gpu"

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: install
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) demo build dist
