# Everything below happens in .venv, which is made when it is missing and brought up to date when its inputs change.
#
#   make demo     inspect a small U-Net: the table, and a diagram as SVG
#   make test     run the tests
#   make lint     formatting, style, types, layers
#   make check    lint, then test
#   make zoo      capture and rewrite some 980 models of nine libraries: hours, resumable (docs/zoo.md)

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
WORKERS ?= 2

.PHONY: demo test lint format check zoo clean
.DEFAULT_GOAL := check

# torchvision comes without its dependencies: whatever torch is installed stays, and its compiled operators, which may
# not fit that torch, are needed by no test (tests/torchvision_stub.py).
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'Python 3.11 or newer is needed: make PYTHON=python3.12'; exit 1; }
	@echo 'Installing into .venv; the first time takes some minutes.'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --no-deps torchvision==0.28.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,models,benchmarks]'
	@touch $@

demo: $(STAMP)
	@mkdir -p demo
	@$(BIN)/skipgraph inspect fixtures/unet.py
	@$(BIN)/skipgraph inspect fixtures/unet.py --quiet --force -o demo/unet.svg
	@echo demo/unet.svg

# Neighbours stay on one worker, and share what they read, until a worker has nothing left to do; each has one core, and
# so has what it starts.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

lint: $(STAMP)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

check: lint test

zoo: $(STAMP)
	$(BIN)/python -m pip install --quiet --no-deps 'diffusers==0.42.1' 'ultralytics==8.4.190' 'vit-pytorch==1.26.11' \
		opencv-python-headless
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/zoo.py --workers $(WORKERS)

clean:
	rm -rf .venv demo build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
