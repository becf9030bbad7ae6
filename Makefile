# make demo   tries everything: generates and explains with the models that ship, then trains a model on generated stories
# make test   runs all checks: ruff, mypy, pytest
# make wheel  builds a wheel in dist, with the compiled network
# make docs   runs the commands on all pages, and writes their output and the pictures into the pages
# Each of them creates .venv and installs the packages. On Linux, PyTorch for CUDA takes 5.3 GB. For a CPU alone:
#   make test TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
# Without --no-compile, pip compiles 12,000 modules for two minutes, of which three quarters are never imported.
PIP := $(BIN)/python -m pip install --quiet --no-compile -c constraints.txt

.PHONY: demo test node types suite docs texts stories pairs translate bench wheel matrix install clean
.DELETE_ON_ERROR:

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Setting up $(VENV): 1.5 GB with PyTorch for a CPU, 5.3 GB with PyTorch for CUDA. This takes a minute or more."
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(PIP) -e '.[dev]'
	@touch $@

build/tales.txt: | $(INSTALLED)
	@mkdir -p build
	$(BIN)/attncli generate -m stories --num-samples 300 --seed 1 --jsonl > build/tales.jsonl
	$(BIN)/python -c "import json; print('\n<|endoftext|>\n'.join(json.loads(line)['text'].strip() for line in open('build/tales.jsonl')))" > $@

# Shows each command as a user would type it, then runs it.
define try
	@echo; echo '$$ attncli $(subst ','\'',$(1))'
	@$(BIN)/attncli $(1)
endef

demo: $(INSTALLED)
	$(call try,generate -m stories "Once upon a time" -n 80 --seed 1)
	$(call try,explain -m stories "The little cat sat on the old mat. The little")
	$(call try,explain -m translate "The dog sleeps.")
	@echo; echo "This writes a text to train on: 300 stories by the same model (about 15 s on two idle cores)."
	@$(MAKE) --no-print-directory build/tales.txt
	$(call try,train build/tales.txt --time 1m --name demo --seed 1 --force)
	$(call try,generate -m demo "Once upon a time" -n 80 --seed 1)

# Development tools from npm: tsc checks the types of the page's scripts, axe-core its accessibility.
NODE := build/node/installed

$(NODE): tests/render/page/checks/package.json
	@mkdir -p build/node && cp $< build/node/
	npm install --prefix build/node --no-package-lock --no-audit --no-fund --loglevel=error
	@touch $@

node:
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory $(NODE); else false; fi \
	  || echo "npm cannot install tsc and axe-core, so the tests that need them are skipped."

test: $(INSTALLED) node
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@$(MAKE) --no-print-directory --jobs 2 types suite

# `make test` runs mypy and pytest at the same time, since mypy uses one core.
types:
	$(BIN)/mypy

suite:
	$(BIN)/pytest -n auto --maxprocesses 8 --dist worksteal

# Writes the current output of every command, and the pictures, into README.md and the pages of docs. The pictures of the page
# need Chromium.
docs: $(INSTALLED)
	$(BIN)/python docs/refresh.py README.md docs/*.md
	$(BIN)/python docs/page_pictures.py > /dev/null

# make stories TEXTS=folder   trains the model of stories that ships, on the texts named in its card, and replaces checkpoints/stories
# The folder contains the three texts below, unpacked. The model sees long stories twice as often as novels, and short stories
# three times as often. Training takes four minutes on an H200 and days on two cores. A stopped run is resumed.
SIMPLE := $(TEXTS)/stories-simple.train.txt
NOVELS := $(TEXTS)/stories-novels.train.txt
SHORT := build/stories-short.txt
STORIES := $(SHORT) $(SIMPLE) $(SIMPLE) $(NOVELS) --val-file $(TEXTS)/stories.val.txt --size 6x256 --vocab-size 3072 \
  --context 1024 --batch-size 32 --epochs 16 --lr 0.05 --adam-lr 0.005 --weight-decay 0.1 --dropout 0.15 --compile \
  --save-dtype bfloat16 --watch-heads --seed 1

texts:
	@for text in $(SIMPLE) $(NOVELS) $(TEXTS)/stories.val.txt; do \
	  test -f "$$text" || { echo "make stories TEXTS=folder needs $$text"; exit 1; }; done

$(SHORT): checkpoints/short.py | texts $(INSTALLED)
	@mkdir -p build
	$(BIN)/python $< $(SIMPLE) 20000 > $@

build/stories: | $(SHORT)
	$(BIN)/attncli train --name stories $(if $(wildcard checkpoints/stories/state),--resume,--force $(STORIES))
	@touch $@

stories: build/stories
	$(BIN)/python checkpoints/slim.py checkpoints/stories
	$(BIN)/python -m checkpoints.card checkpoints/stories $(TEXTS)

# make translate PAIRS=folder   trains the model that translates, on the pairs named in its card, and replaces checkpoints/translate
# The folder contains the four files below, unpacked. A stopped run is resumed.
TRANSLATE := $(PAIRS)/tatoeba-en-de.train.tsv --val-file $(PAIRS)/tatoeba-en-de.valid.tsv --size 3x160 --vocab-size 3800 \
  --epochs 4 --batch-size 4096 --dropout 0.1 --save-dtype bfloat16 --seed 1

pairs:
	@for file in tatoeba-en-de.train.tsv tatoeba-en-de.valid.tsv tatoeba-en-de.test.tsv align-de-en.gold.tsv; do \
	  test -f "$(PAIRS)/$$file" || { echo "make translate PAIRS=folder needs $(PAIRS)/$$file"; exit 1; }; done

build/translate: | pairs $(INSTALLED)
	@mkdir -p build
	$(BIN)/attncli train --name translate $(if $(wildcard checkpoints/translate/state),--resume,--force $(TRANSLATE))
	@touch $@

translate: build/translate
	$(BIN)/python checkpoints/slim.py checkpoints/translate
	$(BIN)/python -m checkpoints.card checkpoints/translate $(PAIRS)

# make bench   compares generation with transformers and llama.cpp: compiles llama.cpp in ten minutes, and measures for fifteen
bench: $(INSTALLED)
	$(PIP) -e '.[bench]'
	$(BIN)/python benchmarks/generate.py

# A wheel with the network compiled for every level of instructions. For another processor:
#   make wheel ATTNCLI_MACHINE=aarch64 CC=aarch64-linux-gnu-gcc
wheel: $(INSTALLED)
	ATTNCLI_COMPILE=1 ATTNCLI_MACHINE=$(ATTNCLI_MACHINE) CC=$(CC) $(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

# Installs the wheel for every Python with the newest dependencies, and tries it there. uv and pipx are installed in .venv. For the
# PyTorch build for CPUs, set UV_TORCH_BACKEND=cpu; otherwise each Python takes 5.3 GB, which uv shares where it can.
matrix: wheel
	$(PIP) uv pipx
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tests.campaign.matrix dist/attncli-*.whl $(MATRIX)

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
