# make setup   the environment, in .venv
# make demo    data, training, evaluation, scores: the whole of Tandem once
# make test    the tests
# make lint    style, types, import rules
# make bench-data   the data path against its peers, about 10 minutes
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PEERS  := build/benchmarks/peers

.PHONY: setup demo test lint format bench-data clean

setup: $(VENV)/.ready

# One stamp: it is made anew when the dependencies change.
$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch setuptools wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/tandem data digits data/digits
	$(BIN)/tandem run jobspecs/examples/digits_clip.yaml

test: setup
	$(BIN)/python -m pytest tests

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The peers stand beside the environment, without their dependencies, some of which ask for older versions.
$(PEERS)/.ready: tests/benchmarks/peers.txt $(VENV)/.ready
	rm -rf $(PEERS)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(PEERS) -r $<
	touch $@

bench-data: setup $(PEERS)/.ready
	PYTHONPATH=$(abspath $(PEERS)) $(BIN)/python -m tests.benchmarks.data

clean:
	rm -rf $(VENV) build *.egg-info
