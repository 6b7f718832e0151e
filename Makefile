# The two commands: `make demo` and `make test`. Everything they need they install, and say so.

PYTHON ?= python3
BIN := .venv/bin
export PYINFRA_PROGRESS ?= off

.PHONY: help demo test soak check lock environment lab-prerequisites

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 22

demo: environment  ## a bare throwaway host, provisioned, and its model's answer to a question
	@$(BIN)/python -m lab demo

test: environment lab-prerequisites check  ## everything that CI runs, on this machine's own throwaway hosts
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

soak: environment lab-prerequisites  ## every catalogue in full, and the tables in docs/: hours
	@$(BIN)/python -m pytest --soak

check: environment  ## formatting, lint and types
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy

lab-prerequisites: environment
	@if [ "$$(id -u)" = 0 ]; then $(BIN)/python -m lab prerequisites; fi

environment: .venv/ready  ## the project's own locked virtual environment, .venv

.venv/ready: locks/uv.txt locks/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
		echo "installing: python3-venv"; \
		apt-get -qq update && apt-get -qq install -y --no-install-recommends python3-venv; }
	@echo "installing: uv and $$(grep -c '^[a-z].*==' locks/dev.txt) locked Python packages, into .venv"
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r locks/uv.txt
	@$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes locks/dev.txt
	@touch .venv/ready

lock: environment  ## lock every environment anew, to the newest versions that locks/*.in allow
	@for name in uv dev guard cpu cuda12 cuda13; do \
		$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
			--no-emit-index-url --no-annotate --no-header locks/$$name.in -o locks/$$name.txt; done
