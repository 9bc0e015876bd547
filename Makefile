# Two commands do all the set-up they need, once: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# LOCKED=1 installs the very files of requirements.lock (Python 3.11 or newer), verified by their hashes.
REQUIREMENTS := $(if $(LOCKED),--require-hashes -r requirements.lock,-r requirements.txt)
INSTALLED := $(VENV)/.installed

.PHONY: demo test fuzz install lint clean

demo: $(INSTALLED)
	$(BIN)/mdf demo --out output/demo

test: $(INSTALLED) lint
	$(BIN)/python -m pytest

# Broken and hostile inputs of every boundary, EXAMPLES of each.
fuzz: $(INSTALLED)
	FUZZ_EXAMPLES=$(or $(EXAMPLES),2000) $(BIN)/python -m pytest tests/fuzz

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

install: $(INSTALLED)

$(INSTALLED): requirements.txt setup.py mdf_detectron/cli/install_detectron2.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; name one: make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): torch and its libraries are large, this takes some minutes."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(REQUIREMENTS)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	$(BIN)/mdf install-detectron2
	@touch $@

clean:
	rm -rf output .pytest_cache .ruff_cache
