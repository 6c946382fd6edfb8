# The two commands: `make quickstart` (set up, run the laptop sweep, report) and `make test` (set up, all checks).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
LOG := $(VENV)/install.log

.PHONY: quickstart test lint bench clean
.DEFAULT_GOAL := help

help:
	@echo "make quickstart   set up .venv, run the laptop sweep, write its report"
	@echo "make test         set up .venv, run every check"
	@echo "make lint         ruff format, ruff check, mypy"
	@echo "make bench        the benchmarks; figures go to benchmarks/RESULTS.md by hand"

quickstart: $(VENV)/.runtime
	@$(BIN)/rayscale run sweeps/quickstart.yaml
	@$(BIN)/rayscale analyze sweeps/quickstart.yaml
	@echo "report: results/quickstart/report.html (open it in a browser)"
	@echo "MLflow: $(BIN)/rayscale ui sweeps/quickstart.yaml"

test: lint
	@echo "tests (under 10 minutes on 2 cores); whole runs here, all others beside them, shown at the end"
	@$(BIN)/python -m pytest --ignore=tests/e2e > $(VENV)/tests.log 2>&1 & rest=$$!; \
	$(BIN)/python -m pytest tests/e2e; whole=$$?; \
	wait $$rest; others=$$?; cat $(VENV)/tests.log; test $$whole -eq 0 -a $$others -eq 0

lint: $(VENV)/.dev
	@$(BIN)/ruff format --check --quiet . && $(BIN)/ruff check --quiet . && echo "ruff: clean"
	@$(BIN)/mypy

bench: $(VENV)/.dev
	@$(BIN)/python -m benchmarks.dead_time
	@$(BIN)/python -m benchmarks.statistics
	@$(BIN)/python -m benchmarks.sampler_cost
	@$(BIN)/python -m benchmarks.data
	@$(BIN)/python -m benchmarks.training
	@$(BIN)/python -m benchmarks.scale

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "rayscale needs Python 3.11 or newer; $$($(PYTHON) --version) found (set PYTHON=...)"; exit 2; }
	@echo "setting up $(VENV) (1/3: environment)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.runtime: pyproject.toml constraints.txt $(VENV)/.python
	@echo "setting up $(VENV) (2/3: torch; a CUDA build is large)"
	@$(PIP) torch > $(LOG) 2>&1 || { tail -n 15 $(LOG); echo "installing torch failed; log: $(LOG)"; exit 3; }
	@echo "setting up $(VENV) (3/3: Ray, MLflow, transformers, rayscale; one to three minutes)"
	@$(PIP) -e . >> $(LOG) 2>&1 || { tail -n 15 $(LOG); echo "installing rayscale failed; log: $(LOG)"; exit 3; }
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@echo "setting up $(VENV) (checks: ruff, mypy, pytest)"
	@$(PIP) -e '.[dev]' >> $(LOG) 2>&1 || { tail -n 15 $(LOG); echo "installing the checks failed; log: $(LOG)"; exit 3; }
	@touch $@

clean:
	rm -rf $(VENV) results
