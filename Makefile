# `make run` and `make test` are all that is needed; both set up .venv first if the lock changed.
.DEFAULT_GOAL := help
.PHONY: help run test check drill lock offline audit sbom clean
SHELL := /bin/bash
BIN := .venv/bin
WORKERS ?= 2

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

run: .venv/.installed ## run the pipeline: what is stale, then the matrix and the champion
	@$(BIN)/temper run

test: check ## everything that CI checks

check: .venv/.installed ## ruff, types, import contracts, tests; WORKERS=2 files at once
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

drill: .venv/.installed ## harm it in every way of the list: what held, in docs/reliability.md (an hour)
	$(BIN)/python benchmarks/drill.py

lock: .venv/.installed ## resolve pyproject.toml anew; WHEELS=... adds the hashes of other builds of PyTorch
	$(BIN)/python .ci/lock.py $(WHEELS)

offline: .venv/.installed ## the tests with the network cut off, every connection traced (needs strace); TESTS=... for some
	@mkdir -p .temper
	$(BIN)/python tests/hardening/traced.py .temper/offline.trace $(BIN)/pytest $(TESTS)

audit: .venv/.installed ## known vulnerabilities of what is locked (needs the network), but for .ci/waivers.toml
	$(BIN)/python .ci/audit.py

sbom: .venv/.installed ## the locked packages as CycloneDX JSON, on stdout
	@$(BIN)/python .ci/sbom.py

clean: ## remove results and caches of this folder; DVC's cache, the tracked runs and .venv stay
	rm -rf work .temper .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# A stamp, not a phony target: set-up runs again only when the lock or the package's declaration changed.
.venv/.installed: pyproject.toml $(wildcard requirements*.lock) .ci/setup
	@.ci/setup
