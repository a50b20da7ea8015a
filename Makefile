# make run    a bridge and a follower at http://127.0.0.1:1234/rpc/v1 (FULLNODE_API_INFO names the node)
# make test   the tests            make check   lint, types, import direction
# make bench  the benchmarks       make test-long   the tests that take minutes
# make attack   strangers against a real follower, and what another client notices   make fuzz   odd requests, 10 minutes
# make docs-tables   writes the tables of methods, settings, metrics and decisions in docs/
# make bench-fleet   the shared store and a fleet over it (a Cassandra is started, or CASSANDRA_HOSTS)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: docs-tables attack fuzz run test test-long check bench bench-fleet clean help

help:
	@sed -n 's/^# //p' Makefile

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $(READY)

run: $(READY)
	$(BIN)/follower up

test: $(READY)
	$(BIN)/python -m pytest -m "not long" --numprocesses auto --dist loadfile

test-long: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs-tables: $(READY)
	$(BIN)/python -m tests.docs.tables

bench: $(READY)
	$(BIN)/python -m benches

bench-fleet: $(READY)
	$(BIN)/python -m benches.fleet

attack: $(READY)
	$(BIN)/python -m tests.attack

fuzz: $(READY)
	$(BIN)/python -m tests.attack.fuzz

clean:
	rm -rf $(VENV) .cache build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
