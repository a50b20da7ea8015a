# make run    a bridge and a follower at http://127.0.0.1:1234/rpc/v1 (FULLNODE_API_INFO names the node)
# make test   the tests            make check   lint, types, import direction
# make bench  the benchmarks       make test-long   the tests that take minutes
# make attack   strangers against a real follower, and what another client notices   make fuzz   odd requests, 10 minutes
# make test-lowest   some tests with the oldest libraries that are allowed   make lock   writes requirements/
# make execution   builds the virtual machine (cargo needed): eth_call and the like with no full node
# make test-store   the contract of a shared store, on a server of yours (CASSANDRA_HOSTS, CASSANDRA_REPLICATION) or one that is started
# make docs   the site of the docs, in .cache/site: a dead link, an unknown setting or an old table is a failure
# make docs-tables   writes the tables of methods, settings, metrics and decisions in docs/
# make bench-fleet   the shared store and a fleet over it (a Cassandra is started, or CASSANDRA_HOSTS)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# with the tools for tests, and without them
READY := $(VENV)/.ready
RUNNABLE := $(VENV)/.runnable

# the tests start hundreds of processes: each one would compile every module again
unexport PYTHONDONTWRITEBYTECODE

.PHONY: docs test-store execution audit lock test-lowest docs-tables attack fuzz run test test-long check bench bench-fleet clean help

help:
	@sed -n 's/^# //p' Makefile

# pip, with nothing that is not locked: neither newer versions nor what builds the editable install
PIP := python -m pip --disable-pip-version-check install --quiet

# setuptools tells everybody with several packages that a folder may hide another package of its name; ours are meant to
EDITABLE := PYTHONWARNINGS="ignore:Editable installation" $(BIN)/$(PIP) --no-deps --no-build-isolation --editable .

$(READY): pyproject.toml requirements/build.txt requirements/dev.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/$(PIP) --require-hashes --requirement requirements/build.txt
	$(BIN)/$(PIP) --require-hashes --requirement requirements/dev.txt
	@$(EDITABLE)
	@touch $(READY)

$(RUNNABLE): pyproject.toml requirements/build.txt requirements/run.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/$(PIP) --require-hashes --requirement requirements/build.txt
	$(BIN)/$(PIP) --require-hashes --requirement requirements/run.txt
	@$(EDITABLE)
	@touch $(RUNNABLE)

# a new user waits for the libraries only; where the tools are installed too, the environment stays
run: $(if $(wildcard $(READY)),$(READY),$(RUNNABLE))
	$(BIN)/follower up

test: $(READY)
	$(BIN)/python -m pytest -m "not long" --numprocesses auto --dist loadfile

test-long: $(READY) test-lowest
	$(BIN)/python -m pytest

test-store: $(READY)
	$(BIN)/python -m pytest -rs tests/blockstore/test_cassandra_store.py tests/blockstore/test_term_fence.py tests/blockstore/test_lease.py \
	  tests/blockstore/test_migration.py tests/follower/test_schema_command.py \
	  "tests/blockstore/test_cassandra_whole_path.py::test_every_recorded_answer_is_equal[devnet-import]"

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --recursive --severity-level high blockstore chain rpc leader_bridge follower loadbalancer devnode
	$(BIN)/python requirements/audit.py requirements/dev.txt

audit: $(READY)
	$(BIN)/python requirements/audit.py requirements/dev.txt

# the lowest versions that pyproject.toml allows; the tests that use each library, not those that take long
# our own package is not installed there, so it has no version
LOWEST := .venv-lowest
test-lowest: $(LOWEST)/.ready
	$(LOWEST)/bin/python -m pytest -m "not long" --numprocesses auto --dist loadfile \
	  tests/chain tests/blockstore/test_car.py tests/blockstore/test_lmdb_store.py tests/rpc/test_server.py tests/rpc/sessions/test_websocket.py tests/rpc/test_wire.py \
	  tests/rpc/test_admin.py tests/rpc/test_client.py tests/rpc/methods/test_chain_methods.py tests/follower/test_cli.py \
	  tests/tables/test_places.py \
	  --deselect tests/follower/test_cli.py::test_the_version_is_told

$(LOWEST)/.ready: pyproject.toml requirements/lowest.txt
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/$(PIP) --require-hashes --requirement requirements/lowest.txt
	@touch $@

# writes the lock files; UPGRADE=--upgrade takes the newest versions
LOCK := $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url
lock: $(READY)
	$(BIN)/$(PIP) "uv<1"
	$(LOCK) $(UPGRADE) --output-file requirements/run.txt
	$(LOCK) $(UPGRADE) --extra workers --constraint requirements/run.txt --output-file requirements/workers.txt
	$(LOCK) $(UPGRADE) --group dev --constraint requirements/run.txt --output-file requirements/dev.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
		--group build --constraint requirements/dev.txt --output-file requirements/build.txt
	$(LOCK) $(UPGRADE) --group test --resolution lowest-direct --output-file requirements/lowest.txt

# the virtual machine: cargo builds it once, outside the checkout
execution: $(READY)
	command -v cargo >/dev/null || { echo "make execution needs cargo (https://rustup.rs)"; exit 1; }
	CARGO_TARGET_DIR="$${CARGO_TARGET_DIR:-$${XDG_CACHE_HOME:-$$HOME/.cache}/lotus-follower/execution}" \
		$(BIN)/python -m pip install --quiet ./execution

docs-tables: $(READY)
	$(BIN)/python -m tests.docs.tables

docs: $(READY)
	$(BIN)/python -m tests.docs.tables --check
	$(BIN)/python -m pytest --quiet tests/docs/test_links.py tests/docs/test_settings_named.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

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
