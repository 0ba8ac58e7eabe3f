# Everything a contributor or CI does. `make help` lists it.
PYTHON      ?= python3
PYTEST_ARGS ?=
# Tests mostly wait for daemons; each worker has daemons of its own. A test that hangs ends its worker, and another begins.
JOBS        ?= 2
VENV        := .venv
BIN         := $(VENV)/bin
STAMP       := $(VENV)/.complete

.DEFAULT_GOAL := help
.PHONY: help demo test check format proto bench chaos evidence tables clean venv testbed

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMP)  ## containers with different fates on a private containerd, and what wait() said
	@$(PYTHON) scripts/testbed.py system
	@$(BIN)/containerd-aio demo

test: $(STAMP)  ## everything the machine allows, JOBS=2 at a time; PYTEST_ARGS="-k name" narrows it
	@$(PYTHON) scripts/testbed.py all
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(if $(filter-out 0,$(JOBS)),-o timeout_method=thread) $(PYTEST_ARGS)

check: $(STAMP)  ## format, lint, types, layers, generated code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python proto/generate.py --check
	$(BIN)/python -m pytest -q tests/unit/test_exports.py

format: $(STAMP)  ## let ruff format and mend what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: $(STAMP)  ## generate containerd_aio/api from proto/
	$(BIN)/python proto/generate.py

bench: $(STAMP)  ## every benchmark, each printing a table
	@$(PYTHON) scripts/testbed.py all
	@set -e; for bench in benchmarks/bench_*.py; do echo "== $$bench"; $(BIN)/python $$bench; done

testbed: ## only fetch what the tests need besides Python packages
	@$(PYTHON) scripts/testbed.py all

evidence: $(STAMP)  ## run every test, record what each shows, and write the tables of docs from that
	@$(PYTHON) scripts/testbed.py all
	$(BIN)/python -m pytest --tables docs/tables/evidence.json $(PYTEST_ARGS)
	$(BIN)/python scripts/tables.py

chaos: $(STAMP)  ## twenty rounds of a minute on each release; CHAOS_ARGS="--rounds 3 --release 2.1" makes it less
	@$(PYTHON) scripts/testbed.py all
	$(BIN)/python tests/integration/chaos.py $(or $(CHAOS_ARGS),--rounds 20)

tables: $(STAMP)  ## write the tables of docs from their data and the record of the last `make evidence`
	$(BIN)/python scripts/tables.py

clean:  ## remove what was generated here, fetched daemons included
	rm -rf $(VENV) .testbed site dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

venv: $(STAMP)  ## the virtual environment with everything in it

# The pip that comes with Python 3.11 doesn't know --group.
$(STAMP): pyproject.toml
	@$(PYTHON) scripts/testbed.py system || test -z "$$CI"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable ".[cli]" --group dev --group proto
	@touch $@
