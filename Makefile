# The only commands anyone needs to know: help, dev, check, test, fuzz, chaos, demo, bench, wheel. Everything goes into .venv.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?= ml-100k
TEST_JOBS ?= logical
FUZZ_SECONDS ?= 60
FUZZ_SEED ?= $(shell date +%s)
CHAOS_SECONDS ?= 600
CHAOS_SEED ?= $(shell date +%s)
CHAOS_ON ?= both
PACKAGE_SOURCES := CMakeLists.txt pyproject.toml $(wildcard tables/native/*/* tables/native/*/*/* streaming/native/*.* streaming/native/xxhash/*.h)
export PYTHONSAFEPATH := 1

.DEFAULT_GOAL := help
.PHONY: help dev check format docs test fuzz chaos demo bench wheel clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

dev: $(VENV)/.native ## set up .venv: locked requirements, native core, editable package

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@command -v c++ >/dev/null || { echo "A C++17 compiler is needed (c++ is not on the PATH)."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# torch first, with what it needs; then everything else exactly as locked and with --no-deps, since torchrec's own
# metadata asks for the CUDA build of fbgemm, which would overwrite the CPU one. --no-compile: most of it is never imported.
$(VENV)/.requirements: $(VENV)/.python requirements/torch.txt requirements/lock.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements/torch.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps -r requirements/lock.txt
	@touch $@

$(VENV)/.native: $(VENV)/.requirements $(PACKAGE_SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

check: dev ## format, lint, types, import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files '*.cpp' '*.h')

format: dev ## rewrite the code in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $$(git ls-files '*.cpp' '*.h')

docs: dev ## write docs/job.md and docs/job.schema.json anew, after a change of the job file's structs
	$(BIN)/python -m monolith.config.reference

# A file's tests stay together, in order: what its tests share is made once, and they do not disturb one another.
test: dev ## every test that can run on this machine, on all cores (TEST_JOBS=1); a skip says what it needs
	$(BIN)/python -m pytest -n $(TEST_JOBS) --maxprocesses 8 --dist loadfile --no-loadscope-reorder

fuzz: dev ## feed damaged table files to the reader (FUZZ_SECONDS=60, FUZZ_SEED=N to repeat a run)
	MONOLITH_FUZZ_SECONDS=$(FUZZ_SECONDS) MONOLITH_FUZZ_SEED=$(FUZZ_SEED) \
	  $(BIN)/python -X faulthandler -m pytest -q -s --timeout=0 tests/tables/test_file_fuzz.py

chaos: dev ## kills, power cuts, full disks on a running job, then all is compared (CHAOS_SECONDS=600, CHAOS_SEED=N, CHAOS_ON=log)
	PYTHONPATH=tests/chaos:tests/service $(BIN)/python -m chaos \
	  --seconds $(CHAOS_SECONDS) --seed $(CHAOS_SEED) --on $(CHAOS_ON)

demo: dev ## the whole system on real data, without any server (DATA=synthetic for a generated stream)
	$(BIN)/python -m monolith demo --data $(DATA)

bench: dev ## the benchmarks' headline: one training step against FBGEMM's table
	$(BIN)/python bench/table.py

wheel: dev ## the wheel, in dist/; README.md says how it is installed
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps -w dist .
	@ls dist/*.whl

clean: ## remove what was built, not the data
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis

include native.mk
