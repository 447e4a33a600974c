# `make demo` and `make test` are all a fresh machine with Python 3.11 needs. PYTHON=python3.12 picks another one.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Small networks lose more to threads that wait for each other than they gain.
TEST_ENVIRONMENT := OMP_NUM_THREADS=1 nnUNet_compile=f
# One process a core of a small machine; tests of one file stay together and share what they made.
WORKERS ?= 2
PYTEST := $(TEST_ENVIRONMENT) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile
FAST := not slow and not stock and not pipeline

.PHONY: demo test test-fast test-slow lint bench clean

demo: $(INSTALLED)          ## the whole road on generated scans, offline, under 10 minutes on 2 cores
	$(BIN)/nnssl_demo $(ARGS)

test: $(INSTALLED)          ## everything but learning and soak tests
	$(PYTEST) -m "not slow" $(ARGS)

test-fast: $(INSTALLED)     ## no stock trainings, no whole commands, one rank: under 3 minutes
	$(PYTEST) -m "$(FAST)" $(ARGS)

test-slow: $(INSTALLED)     ## learning and soak tests
	$(PYTEST) -m slow $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)         ## speed and memory; each prints a table and a JSON line (learning ones: by hand, see their heads)
	@for name in preprocessing views engine allocator methods ingest; do \
		echo "== $$name"; $(BIN)/python benchmarks/$$name.py || exit 1; \
	done

# Made again when the requirements change. A package index may hiccup: one more try.
$(INSTALLED): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "nnssl needs Python 3.11 or newer; this is %d.%d. Use make PYTHON=python3.11 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade pip || $(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install -e '.[dev]' || $(BIN)/python -m pip install -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
