# `make help` lists what can be asked for. Everything made lands in .venv and build.

PYTHON ?= python3
VENV ?= .venv
DEMO ?= build/demo
FACES ?= 4000
WORKERS ?= 2
TPU ?=
BROWSER ?=

python := $(VENV)/bin/python
pip := $(python) -m pip install --quiet --disable-pip-version-check
sources := mgmtn_jax landmarks experiments tests

# $(call stage,what it does,command): says what starts, runs it, says how long it took.
define stage
@echo "==> $(1)"; start=$$(date +%s); $(2) && echo "    took $$(($$(date +%s) - start)) s"
endef

.DEFAULT_GOAL := help
.PHONY: help demo test lint docs clean

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-7s %s\n", $$1, $$2}'
	@echo "Variables: PYTHON=$(PYTHON) VENV=$(VENV) DEMO=$(DEMO) FACES=$(FACES) WORKERS=$(WORKERS) TPU=$(TPU) BROWSER=$(BROWSER)"

demo: $(VENV)/.runtime ## draw faces, find landmarks, train, evaluate, write the report (ten minutes on two cores)
	$(call stage,drawing $(FACES) faces and finding their landmarks,$(python) -m landmarks.precompute \
	  --source=drawn --limit=$(FACES) --seed=0 --out_dir=$(DEMO)/data --num_workers=$(WORKERS))
	$(call stage,training (a second run resumes),JAX_NUM_CPU_DEVICES=2 $(python) -m experiments.train \
	  --config=experiments/configs/demo.py --workdir=$(DEMO)/run --config.data.dir=$(DEMO)/data)
	$(call stage,evaluating on the test faces,$(python) -m experiments.evaluate \
	  --workdir=$(DEMO)/run --data_dir=$(DEMO)/data --split=test --out=$(DEMO))
	@echo "Open $(DEMO)/report/index.html in a browser; the figures are in $(DEMO)/metrics.json."
	@echo "Try the shipped network on photographs: $(VENV)/bin/pip install -e '.[serve]' && $(python) -m experiments.serve"

test: $(VENV)/.test $(if $(TPU),$(VENV)/.tpu) $(if $(BROWSER),$(VENV)/.browser) ## run the whole test suite, warnings are errors; TPU=1 compiles for TPUs too, BROWSER=1 opens the pages in Chromium
	$(python) -m pytest --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder

lint: $(VENV)/.dev ## check style, format, types and the direction of imports
	$(python) -m ruff check $(sources)
	$(python) -m ruff format --check $(sources)
	$(python) -m mypy
	$(VENV)/bin/lint-imports --no-cache

docs: $(VENV)/.dev ## render the docstrings as pages, into build/docs
	@PDOC_ALLOW_EXEC=1 $(python) -W ignore -m pdoc mgmtn_jax landmarks --docformat google --output-directory build/docs
	@echo "Open build/docs/index.html in a browser."

clean: ## remove the virtual environment, the demo and all caches
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(sources) -name __pycache__ -type d -prune -exec rm -rf {} +

$(python):
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null || { \
	  echo "This needs Python 3.11, 3.12 or 3.13, and '$(PYTHON)' is not one: try make PYTHON=python3.12." >&2; exit 1; }
	$(call stage,making a virtual environment in $(VENV),$(PYTHON) -m venv $(VENV))

# A stamp says which requirements an environment holds; touching a file it depends on installs again.
$(VENV)/.runtime: requirements.txt | $(python)
	$(call stage,installing what running needs,$(pip) -r requirements.txt)
	@touch $@

$(VENV)/.test: setup.cfg pyproject.toml $(VENV)/.runtime
	$(call stage,installing what the tests need,$(pip) --editable '.[test]')
	@touch $@

$(VENV)/.tpu: $(VENV)/.test
	$(call stage,installing the compiler for TPUs: 700 MB,$(pip) --editable '.[tpu]')
	@touch $@

$(VENV)/.browser: $(VENV)/.test
	$(call stage,installing what drives Chromium: 53 MB,$(pip) --editable '.[browser]')
	@touch $@

$(VENV)/.dev: $(VENV)/.test
	$(call stage,installing ruff and mypy and import-linter and pdoc,$(pip) --editable '.[dev]')
	@touch $@
