# `make demo` and `make test` set everything up; nothing else is needed on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
STORE ?= demo-store
export HF_HUB_OFFLINE ?= 1

.PHONY: setup demo test lint type bench clean

setup: .venv/.ready

# One pip call under one constraints file: installing torch first and the rest later can end in two versions of it.
.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[distill,s3,minilm,dev]'
	touch $@

demo: setup
	$(BIN)/vldd run jobs/presets/scenes.yaml --store $(STORE)

test: setup
	$(BIN)/pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: setup
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m benchmarks.unroll --quick

clean:
	rm -rf .venv demo-store build *.egg-info
