# make demo: three tasks on fresh scenes, with pictures. make test: all core checks. make test-extras: the heavier ones.
# make test-gpu: what a GPU could break, on one. make package: dist/, looked into and tried in an empty environment.
# make docs: the pages as a site, in site/.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS_STAMP := $(VENV)/.installed-extras
PYTEST_ARGS ?=
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: install test test-extras test-gpu lint demo docs package clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

$(EXTRAS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,test-extras]"
	touch $(EXTRAS_STAMP)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n 2 --dist loadfile -m "not extras and not gpu" $(PYTEST_ARGS)

test-extras: $(EXTRAS_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n 2 --dist loadfile -m "extras and not gpu" $(PYTEST_ARGS)

test-gpu: $(STAMP)
	$(BIN)/python -m pytest tests/gpu -m gpu $(PYTEST_ARGS)

demo: $(STAMP)
	$(BIN)/vpd demo --out demo

docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

package: $(STAMP)
	rm -rf dist
	$(BIN)/python scripts/check_package.py

clean:
	rm -rf $(VENV) demo dist site .pytest_cache .mypy_cache .ruff_cache
