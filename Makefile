# Every target works from a fresh clone: Python 3.11 to 3.13 and make are all that has to be there.

VENV   := .venv
BIN    := $(VENV)/bin
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	"$$p" -c 'import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo "$$p" && break; done)

.DEFAULT_GOAL := help
.PHONY: help demo test check soak bench format clean
.PHONY: lint types contracts unit seeds

help:  ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo  ## a cluster, one model on 336,776 real flights, a cross-validation, and both beside the plain libraries
	$(BIN)/python examples/flights.py

test: $(VENV)/.test  ## every test
	@sh tests/install-system-packages
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder  # in the order of tests/conftest.py

check: $(VENV)/.test  ## before each commit, under two minutes: lint, types, contracts, unit tests, 300 simulator seeds
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target lint types contracts seeds unit

lint types contracts seeds unit: | $(VENV)/.test

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

contracts:
	$(BIN)/lint-imports --no-logo

unit:
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow and not browser" tests/parml_core tests/test_packaging.py

seeds:
	$(BIN)/python -m parml_core.testing.sim --seeds 300

soak: $(VENV)/.test  ## 20,000 simulated clusters, 200 real ones killed, tests of random input ten times, joblib's and scikit-learn's own
	$(BIN)/python -m parml_core.testing.sim --seeds 20000
	$(BIN)/python -m tests.faults.test_cycles 200
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "hypothesis or soak" --hypothesis-profile soak --timeout 1200
	$(BIN)/python -m tests.upstream

bench: $(VENV)/.bench  ## overhead of a task beside dask.distributed, Ray and loky
	$(BIN)/python benchmarks/overhead.py

format: $(VENV)/.test  ## put the sources into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove everything that the targets made
	rm -rf $(VENV) .demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An extra's packages are installed once, and again when pyproject.toml changes.
$(VENV)/.demo $(VENV)/.test $(VENV)/.bench: $(VENV)/.%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "expected Python 3.11, 3.12 or 3.13 with ensurepip (Debian: python3-venv), found none;" \
		"install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
