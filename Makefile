# Every verb sets up what it needs in .venv and can be repeated; a set-up that is up to date is skipped.
# Variables: PYTHON (an interpreter of 3.11 or newer), PORT, ARGS (more arguments for serve or pytest).

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
SOURCES := src tests packages $(wildcard benchmarks) $(wildcard examples)
HYDRAULICS := packages/penstock-hydraulics
TORCHSERVE := packages/penstock-torchserve
PEERS ?= $(HOME)/.cache/penstock-peers
PROJECTS := pyproject.toml $(HYDRAULICS)/pyproject.toml $(TORCHSERVE)/pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help serve test soak chaos check format setup bench peers clean

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(VENV)/.serve ## Serve the starter models on port 8002 (PORT=… ARGS=…); needs no torch.
	@$(BIN)/penstock serve digits digits-image hydraulics $(if $(PORT),--port $(PORT)) $(ARGS)

test: $(VENV)/.test ## Run every test in two processes (ARGS=… goes to pytest); what fails runs once more and is listed as RERUN.
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --reruns 1 --rerun-show-tracebacks $(ARGS)

soak: $(VENV)/.test ## Fuzz each parser of foreign files with 10 million inputs (ARGS="pickle --count 1000"), then make chaos.
	$(BIN)/python tests/fuzz $(ARGS)
	$(BIN)/python tests/chaos
	$(BIN)/python tests/chaos --postgres
	$(BIN)/python tests/chaos/leaks.py
	$(BIN)/python tests/chaos --only "move the clock" --only "kill a worker" --faults 60 --requests 20000

chaos: $(VENV)/.test ## Check every answer of a server under kills, full disks, lost databases … (ARGS="--seed 7 --faults 1000").
	$(BIN)/python tests/chaos $(ARGS)

check: $(VENV)/.dev $(VENV)/.bandit ## Check style, types, security and who imports whom; the same in the hook and in CI.
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/black --check --quiet $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(BIN)/python tests/support/audited.py constraints.txt $(VENV)/.audit

format: $(VENV)/.dev ## Format the code and mend what ruff can mend.
	$(BIN)/ruff check --fix --quiet $(SOURCES)
	$(BIN)/black --quiet $(SOURCES)

setup: $(VENV)/.dev ## Set up everything for development, the pre-commit hook included.
	@git rev-parse --git-dir >/dev/null 2>&1 && $(BIN)/pre-commit install || echo "no git repository here: no hook installed"

bench: $(VENV)/.bench ## Measure the server against its targets (ARGS=front: its table); needs wrk and make peers.
	@command -v wrk >/dev/null || { echo "the benchmarks need wrk: apt-get install wrk" >&2; exit 1; }
	PEERS=$(PEERS) $(BIN)/python benchmarks $(ARGS)

peers: $(PEERS)/.installed ## Install the servers that the benchmarks compare with, outside this folder (PEERS=…).

clean: ## Remove .venv, caches and build results; the registry stays.
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.bandit: $(shell find src packages/*/src -name '*.py') | $(VENV)/.dev
	@$(BIN)/python -m bandit --quiet --severity-level medium --skip B104 $(filter %.py,$?)
	@touch $@

# Stamps: each is newer than what it was installed from, so that nothing is installed twice.

$(VENV)/.created:
	@PYTHON="$(PYTHON)"; \
	for candidate in $${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14}; do \
		if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "creating $(VENV) with $$($$candidate --version)"; \
			$$candidate -m venv --clear $(VENV) && touch $@ && exit 0; exit 1; \
		fi; \
	done; \
	echo "Penstock needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python" >&2; exit 1

$(VENV)/.serve: $(VENV)/.created $(PROJECTS)
	@echo "installing Penstock into $(VENV)"
	@$(PIP) --editable . --editable $(HYDRAULICS)
	@touch $@

$(VENV)/.test: $(VENV)/.created $(PROJECTS)
	@echo "installing Penstock, torch and the test tools into $(VENV)"
	@$(PIP) --editable '.[test]' --editable '$(HYDRAULICS)[test]' --editable $(TORCHSERVE)
	@touch $@ $(VENV)/.serve

$(VENV)/.bench: $(VENV)/.created $(PROJECTS)
	@echo "installing Penstock and the tools of its benchmarks into $(VENV)"
	@$(PIP) --editable '.[bench]' --editable '$(HYDRAULICS)'
	@touch $@ $(VENV)/.serve

$(PEERS)/.installed: $(VENV)/.created benchmarks/peers/requirements.txt
	@echo "installing mosec, LitServe, BentoML and FastAPI into $(PEERS)"
	@$(BIN)/python -m venv --clear $(PEERS)
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/peers/requirements.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.created $(PROJECTS)
	@echo "installing Penstock, torch and the development tools into $(VENV)"
	@$(PIP) --editable '.[dev]' --editable '$(HYDRAULICS)[test]' --editable $(TORCHSERVE)
	@touch $@ $(VENV)/.test $(VENV)/.serve
