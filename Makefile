# Two commands: `make demo` to see it work, `make test` to check it. Both make .venv first if it is not there.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint types check clean

demo: $(VENV)/installed
	$(BIN)/mwactl quickstart

test: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/installed-dev
	$(BIN)/ruff check mwactl backbones tests benchmarks
	$(BIN)/ruff format --check mwactl backbones tests benchmarks

types: $(VENV)/installed-dev
	$(BIN)/mypy

check: lint types test

clean:
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mwactl needs Python 3.11 or newer: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# The stamps hold what was installed for: a changed pyproject.toml installs again.
$(VENV)/installed: pyproject.toml | $(BIN)/python
	@echo "installing mwactl; the GPU build of torch is large (about 3 GB to download, 6 GB on disk): minutes, once"
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(BIN)/python
	@echo "installing mwactl and its test tools; the GPU build of torch is large (about 3 GB to download): minutes, once"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@# BEiT-3's original code, for tests to compare with. It pins a timm of 2021, so it cannot be an extra of ours.
	$(BIN)/python -m pip install --quiet --no-deps torchscale==0.2.0
	@touch $@ $(VENV)/installed
