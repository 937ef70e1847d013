# Every target sets up what it needs; `make demo` and `make test` are the two to know.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo test lint bench soak matrix clean

help:
	@echo "make demo    two embedded PostgreSQL servers, live writers, CUTOVER, REVERT, verdict"
	@echo "make test    all tests but the long ones"
	@echo "make lint    ruff, mypy --strict, import contracts"
	@echo "make bench   the figures of docs/CUTOVER.md, measured here"
	@echo "make soak    long mixed run with faults"
	@echo "make matrix  the run between more server versions"

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/pgcutover demo $(DEMO_ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest -m "not soak and not matrix" $(TEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python -m tests.bench $(BENCH_ARGS)

soak: $(STAMP)
	$(BIN)/python -m pytest -m soak $(TEST_ARGS)

matrix: $(STAMP)
	$(BIN)/python -m pytest -m matrix $(TEST_ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
