# make demo   a first minute with attncli: train on text that every Python has, generate, explain
# make test   everything that must hold: ruff, mypy, pytest
# Both make .venv and install what they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.PHONY: demo test install clean
.DELETE_ON_ERROR:

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Setting up $(VENV): about 1.3 GB, a minute or more."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

build/topics.txt: $(INSTALLED)
	@mkdir -p build
	$(BIN)/python -c "from pydoc_data.topics import topics; print('\n<|endoftext|>\n'.join(topics.values()))" > $@

# Shows each command as a user would type it, then runs it.
define try
	@echo; echo '$$ attncli $(1)'
	@$(BIN)/attncli $(1)
endef

demo: $(INSTALLED) build/topics.txt
	$(call try,train build/topics.txt --time 1m --name demo --seed 1 --force)
	$(call try,generate -m demo "A class definition" -n 60 --seed 1)
	$(call try,explain -m demo "the value of the expression")

test: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -n auto --maxprocesses 8 --dist worksteal

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
