# make demo   a first minute with attncli: generate and explain with the model that ships, then train one on text that
#             every Python has
# make test   everything that must hold: ruff, mypy, pytest
# Both make .venv and install what they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.PHONY: demo test docs stories bench install clean
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
	@echo; echo '$$ attncli $(subst ','\'',$(1))'
	@$(BIN)/attncli $(1)
endef

demo: $(INSTALLED) build/topics.txt
	$(call try,generate -m stories "Once upon a time" -n 80 --seed 1)
	$(call try,explain -m stories "The little dog sat by the river's bank")
	$(call try,train build/topics.txt --time 1m --name demo --seed 1 --force)
	$(call try,generate -m demo "A class definition" -n 60 --seed 1)

test: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -n auto --maxprocesses 8 --dist worksteal

# Puts what the commands print now into the pages of docs.
docs: $(INSTALLED)
	$(BIN)/python docs/refresh.py README.md docs/*.md

# The model that ships, from the texts named in its model card: make stories TEXTS=folder
# First three passes over all of it; then short stories are seen five times and long ones twice as often as novels. Hours on two
# cores; what was stopped goes on when it is made again.
STORIES := --val-file $(TEXTS)/stories.val.txt --context 512 --batch-size 8 --compile --save-dtype bfloat16 --watch-heads
SIMPLE := $(TEXTS)/stories-simple.train.txt
NOVELS := $(TEXTS)/stories-novels.train.txt
SHORT := build/stories-short.txt
go_on = $(BIN)/attncli train --name $(1) $(if $(wildcard checkpoints/$(1)/state),--resume,--force $(2))

$(SHORT): checkpoints/short.py | $(INSTALLED)
	@mkdir -p build
	$(BIN)/python $< $(SIMPLE) 20000 > $@

build/stories-first: | $(INSTALLED)
	@mkdir -p build
	$(call go_on,stories-first,$(SIMPLE) $(NOVELS) $(STORIES) --size 5x256 --vocab-size 4096 --epochs 3 --seed 1)
	@touch $@

build/stories-second: build/stories-first | $(SHORT)
	$(call go_on,stories,$(SHORT) $(SHORT) $(SHORT) $(SIMPLE) $(SIMPLE) $(NOVELS) $(STORIES) --from stories-first \
	  --optimizer muon --lr 0.02 --adam-lr 0.002 --epochs 2.5 --seed 2)
	@touch $@

stories: build/stories-second
	$(BIN)/python checkpoints/slim.py checkpoints/stories
	$(BIN)/python checkpoints/card.py checkpoints/stories $(TEXTS)

# Generation beside transformers and llama.cpp, which is compiled first: ten minutes, then a quarter of an hour.
bench: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/generate.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
