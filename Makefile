# make quickstart   train a tiny model in all three modes and compare them (minutes, no network beyond the package index)
# make test         the test suite
# make help         everything else

PYTHON ?= python3
VENV ?= .venv
OLDEST_VENV ?= .venv-oldest
BIN = $(VENV)/bin
# Test processes; each runs its models with one thread.
WORKERS ?= 2
ARGS ?=

# Spinning threads that lose their core make small models ten times slower when the machine is busy.
export OMP_WAIT_POLICY ?= passive

.PHONY: help quickstart test test-slow gpu test-oldest benchmark lint audit base study clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile
	@echo "make test-slow    the tests marked slow: repeated kill and resume, the quickstart in small, learning on the toy"
	@echo "make test-oldest  models and rollouts against the oldest supported transformers"
	@echo "make gpu          on a machine with a CUDA card: its tests, and the benchmark of a step (minutes)"
	@echo "make benchmark    speed and memory compared with other ways (an hour on two cores; ARGS=--quick for less)"
	@echo "make lint         ruff and mypy"
	@echo "make audit        known vulnerabilities of the pinned versions (needs the network)"
	@echo "make base         rebuild the embedded checkpoint"
	@echo "make study        train a real small model in several modes and seeds, in parts that continue (recipes/smollm2)"

quickstart: $(VENV)/.installed
	$(BIN)/softtokens quickstart $(ARGS)

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -n $(WORKERS) -m slow --durations 10 $(ARGS)

gpu: $(VENV)/.installed
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python benchmarks/gpu.py $(ARGS)

test-oldest: $(OLDEST_VENV)/.installed
	$(OLDEST_VENV)/bin/python -m pytest -n $(WORKERS) tests/models tests/rollout $(ARGS)

benchmark: $(VENV)/.installed
	$(BIN)/python -m benchmarks.engine $(ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

audit: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip

base: $(VENV)/.installed
	$(BIN)/python recipes/tiny_base/build.py $(ARGS)

study: $(VENV)/.installed
	$(BIN)/python recipes/smollm2/study.py $(ARGS)

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "softtokens needs Python 3.11 or newer; $(PYTHON) is older. Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,anchor,harness,browser,lora]'
	@touch $@

$(OLDEST_VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(OLDEST_VENV)
	$(OLDEST_VENV)/bin/python -m pip install --quiet torch==2.13.0 transformers==5.0.0 --editable '.[test,lora]'
	@touch $@

clean:
	rm -rf $(VENV) $(OLDEST_VENV)
