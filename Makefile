# make demo   register the sample pair and write demo/report.html
# make quick  formatting, types and every test that is not marked slow: while you work
# make test   the whole suite, JOBS files side by side (2); the viewer's tests need chromium
# make fix    format, and mend what the linter can mend
# make graph  draw docs/import-graph.svg from the sources
# make clean  remove the environment and everything made here

PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint .ci/constraints.txt
PYTEST := $(BIN)/pytest Testing -n $(JOBS) --dist loadfile --no-loadscope-reorder

# Threads that wait sleep instead of taking the time of those that work.
export OMP_WAIT_POLICY := passive

.PHONY: demo quick test check browser fix graph clean
.DEFAULT_GOAL := test

$(VENV)/.app: pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade pip
	$(INSTALL) --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.app
	$(INSTALL) --editable ".[train,viewer,cohort,test]"
	touch $@

demo: $(VENV)/.app
	$(BIN)/deepreg-attention demo --output demo

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

quick: check
	$(PYTEST) -m "not slow"

test: browser check
	$(PYTEST)

browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || \
	{ echo "The viewer is tested in chromium, which is not here: install it (Debian: apt install chromium)." >&2; exit 1; }

fix: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

graph: $(VENV)/.dev
	cd Testing && ../$(BIN)/python -m helpers.import_graph

clean:
	rm -rf $(VENV) demo runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
