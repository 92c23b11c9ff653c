# Everything a newcomer needs: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint bench bench-scenes clean results-camvid

$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e .
	touch $@

$(VENV)/.ready-test: $(VENV)/.ready
	$(PIP) -e '.[test,lint]'
	touch $@

demo: $(VENV)/.ready          ## the main job on the built-in scenes: table and report
	$(BIN)/saot demo --out runs/demo

test: $(VENV)/.ready-test lint  ## everything CI checks
	$(BIN)/python -m pytest
	$(BIN)/python -m pytest --doctest-modules src/saot

lint: $(VENV)/.ready-test     ## style, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

bench: $(VENV)/.ready-test    ## side by side with peers
	$(BIN)/python benchmarks/bench_transport.py

clean:
	rm -rf $(VENV) runs build *.egg-info src/*.egg-info
