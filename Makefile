# make setup   the environment, in .venv
# make demo    data, training, evaluation, scores: the whole of Tandem once
# make test    the tests
# make test-gpu   those of the worker core that need a GPU
# make matrix   checkpoints of every ZeRO stage, rank count and precision, loaded under every other
# make lint    style, types, import rules
# make reference   the pages that are made of the sources
# make bench-data   the data path against its peers, about 10 minutes
# make bench-loss   the losses against their peers, about 30 minutes
# make bench-step   the training step against a bare loop, about 5 minutes; on a GPU ViT-B/32 against open_clip too
# make bench-search   exact search against FAISS, about 15 minutes
# make bench-recovery   from a killed worker to the next step, and how long a save stops training, about 12 minutes
# make bench-submit   from the command to the first step on a cluster, against a plain script for Ray Train, about 10 minutes
# make bench-evaluations   training alone, beside a stranger and beside evaluations, about 16 minutes
# make bench-mined   training with mined negatives against random ones, three seeds, about 15 minutes
# make chaos   jobs that are disturbed in every way; SEED=7 replays one sequence
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PEERS  := build/benchmarks/peers

.PHONY: setup demo test test-gpu matrix lint reference format peers bench-data bench-loss bench-step bench-search bench-recovery bench-submit bench-evaluations bench-mined chaos clean

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

# Tests on Ray come alone: its workers have a low priority, and would starve beside others. A file's tests share processes.
test: setup peers
	$(BIN)/python -m pytest tests -m "not ray" --numprocesses 2 --dist loadfile
	$(BIN)/python -m pytest tests -m ray

# Where there is none, nothing is collected, which pytest ends with 5.
test-gpu: setup
	$(BIN)/python -m pytest tests/gpu

matrix: setup
	TANDEM_FULL_MATRIX=1 $(BIN)/python -m pytest tests/workers/train/test_checkpoint_matrix.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m jobspecs.reference --check

# What is made of the sources of the spec language: its reference page and the schema for editors.
reference: setup
	$(BIN)/python -m jobspecs.reference

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Peers stand beside the environment, without their dependencies, some of which ask for older versions.
build/benchmarks/%/.ready: tests/benchmarks/%.txt $(VENV)/.ready
	rm -rf $(@D)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(@D) -r $<
	touch $@

# Those that the tests compare with.
peers: build/benchmarks/peers_loss/.ready build/benchmarks/peers_search/.ready

bench-data: setup $(PEERS)/.ready
	PYTHONPATH=$(abspath $(PEERS)) $(BIN)/python -m tests.benchmarks.data

bench-loss: setup peers
	$(BIN)/python -m tests.benchmarks.loss

bench-step: setup peers
	$(BIN)/python -m tests.benchmarks.step

bench-search: setup peers
	PYTHONPATH=$(abspath build/benchmarks/peers_search) $(BIN)/python -m tests.benchmarks.search

bench-recovery: setup
	$(BIN)/python -m tests.benchmarks.recovery

bench-submit: setup
	$(BIN)/python -m tests.benchmarks.submit

bench-evaluations: setup
	$(BIN)/python -m tests.benchmarks.evaluations

bench-mined: setup
	$(BIN)/python -m tests.benchmarks.mined

chaos: setup
	$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(LENGTH),--length $(LENGTH))

clean:
	rm -rf $(VENV) build *.egg-info
