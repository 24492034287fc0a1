# make demo   register the sample pair and write demo/report.html
# make test   the whole suite: formatting, types, pytest (the viewer's tests use Debian's chromium)
# make clean  remove the environment and everything made here

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint .ci/constraints.txt

.PHONY: demo test check clean
.DEFAULT_GOAL := test

$(VENV)/.app: pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade pip
	$(INSTALL) --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.app
	$(INSTALL) --editable ".[train,viewer,test]"
	command -v chromium || (apt-get update && apt-get install --yes --no-install-recommends chromium)
	touch $@

demo: $(VENV)/.app
	$(BIN)/deepreg-attention demo --output demo

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: check
	$(BIN)/pytest Testing

clean:
	rm -rf $(VENV) demo runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
