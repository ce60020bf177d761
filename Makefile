# Loradock's front door. `make` lists what there is; every target sets up what it needs.

PYTHON ?= python3
# Another package index for torch alone (what it needs comes from the usual one), for instance one
# with CPU-only builds, which are far smaller:
#   make demo TORCH_INDEX=<url>
TORCH_INDEX ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q install -c constraints.txt
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help demo test prove check proto bench peers base

help: ## List the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-8s %s\n", $$1, $$2}'

demo: .venv/.server base ## Publish, serve and swap three real adapters on a real base (minutes, the first time)
	@$(BIN)/python examples/demo.py

test: .venv/.dev .venv-proto/.done base ## Run every test (some 12 minutes on 2 cores)
	$(BIN)/python -m pytest -m "not prove and not gpu" $(PYTEST_ARGS)

prove: .venv/.dev .venv-proto/.done base ## Run the proofs at full size and write docs/proofs.md (long)
	$(BIN)/python scripts/prove.py

check: .venv/.dev ## Lint, format check, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

proto: .venv-proto/.done ## Generate the Python code of the wire, and lint the wire
	scripts/generate_proto.sh
	cd proto && ../.venv-proto/bin/buf lint

bench: .venv/.dev base ## Measure against peers; writes docs/performance.md (over half an hour)
	$(BIN)/python bench/engine.py

peers: .venv/.dev ## Install OpenVINO GenAI, vLLM and llama.cpp for the benchmark (6 GB, long)
	$(BIN)/python bench/peers.py

base: .venv/.server # Fetch and convert the demo base, once
	@$(BIN)/python examples/fetch_base.py > /dev/null

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Loradock needs Python 3.11 or newer; name one with: make PYTHON=python3.12 …"; exit 1; }
	@$(PYTHON) -m venv .venv

.venv/.server: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing torch …"
	@$(PIP) --no-deps $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@echo "installing the server and what it needs …"
	@$(PIP) -e '.[server]'
	@touch $@

.venv/.dev: .venv/.server
	@echo "installing what tests need …"
	@$(PIP) -e '.[dev]'
	@touch $@

.venv-proto/.done: proto/requirements.txt
	@echo "installing what generates and lints the wire …"
	@$(PYTHON) -m venv .venv-proto
	@.venv-proto/bin/python -m pip --disable-pip-version-check -q install -r proto/requirements.txt
	@touch $@
