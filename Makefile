# The two commands of a newcomer are `make demo` and `make test`; `make` alone lists them all.
# Needs Python >= 3.11 with venv. Another interpreter: make PYTHON=/path/to/python3 …

.DEFAULT_GOAL := help
.PHONY: help demo stop test test-slow test-random test-lep check format bench bench-data bench-autoscale bench-scheduler bench-serve bench-train clean install install-test install-all

# The first interpreter that is new enough and can make environments.
FITS := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
ifndef PYTHON
PYTHON := $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c '$(FITS)' 2>/dev/null && echo $$python && break; done)
endif
BIN := .venv/bin
LEP := .venv-lep/bin/lep

help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1 \t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 26

demo: install  ## train, deploy and question a digit classifier on your own machine
	@tools/demo.sh

stop:  ## stop the demo's platform and all that it runs
	@home="$${LEPTON_HOME:-$$PWD/.demo}"; if [ -d "$$home" ] && [ -x $(BIN)/leptonai ]; \
		then LEPTON_HOME="$$home" $(BIN)/leptonai down; else echo "nothing runs in $$home"; fi

test: install-test  ## run the tests
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-slow: install-test  ## run the tests that take minutes, too
	@$(BIN)/python -m pytest -m slow

test-random: install-test  ## try new examples of all properties and new worlds in the simulator
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 -m "hypothesis and not lep" --hypothesis-profile random
	@LEPTON_SIM_FIRST_SEED=$$(date +%y%m%d000) LEPTON_SIM_SEEDS=1000 \
		$(BIN)/python -m pytest -n auto --maxprocesses 4 tests/simulation

test-lep: install-test  ## run the tests that drive the published client, which is installed beside ours
	@[ -x $(LEP) ] || { $(PYTHON) -m venv .venv-lep && .venv-lep/bin/pip install --quiet leptonai==0.47.1; }
	@LEPTON_LEP=$(CURDIR)/$(LEP) $(BIN)/python -m pytest -m lep tests/acceptance

check: install-all  ## check format, style, types, and which part may import which
	@failed=0; \
	$(BIN)/ruff format --check --quiet --output-format concise . || failed=1; \
	$(BIN)/ruff check --quiet --output-format concise . || failed=1; \
	$(BIN)/mypy || failed=1; \
	$(BIN)/lint-imports --no-logo || failed=1; \
	exit $$failed

format: install-all  ## put the code into its format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench-data: install-test  ## measure how fast data is committed and loaded, beside its peers, and write the table
	@$(BIN)/python -m benchmarks.data

bench: install-test  ## measure, and write the table to benchmarks/results/
	@$(BIN)/python -m benchmarks

bench-autoscale: install-test  ## measure autoscaling beside Knative and Kubernetes, if the traces are there
	@$(BIN)/python -m benchmarks.autoscaling

bench-scheduler: install-test  ## measure the scheduler on published traces, if they are there
	@$(BIN)/python -m benchmarks.scheduling

bench-serve: install-test  ## measure what a served request costs, beside a bare ASGI application
	@$(BIN)/python -m benchmarks.serving

bench-train: install-test  ## measure training beside loops by hand and its peers, and write the table
	@$(BIN)/python -m benchmarks.training

clean:  ## remove all that make made here: the environment, the demo's platform, caches
	@LEPTON_HOME= $(MAKE) --no-print-directory stop
	rm -rf .venv .venv-lep .demo dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

install: python
	@$(PYTHON) tools/install.py

install-test: python
	@$(PYTHON) tools/install.py test

install-all: python
	@$(PYTHON) tools/install.py test check

.PHONY: python
python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "make: no Python >= 3.11 with venv was found" >&2; \
		echo "hint: install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; fi
