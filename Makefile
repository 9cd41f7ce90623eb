# `make help` lists the targets. Variables:
#   DATASET  auto (the default: Fashion-MNIST, or synthetic garments where none can be had),
#            fashion_mnist or synthetic
#   DATA     a folder with the data set's files
#   DIR      the artifacts that verify, bench and report look at (default: the released ones)
#   RECIPES  what to export (default: all, but in `make quick` those that need no training)
#   PYTHON   Python 3.11 to 3.13, to make the environment with
.DELETE_ON_ERROR:
.SUFFIXES:
.NOTPARALLEL:
.PHONY: help setup all quick train export verify bench report release calibration-study test test-seeds fuzz crashtest soak footprint lint format lock clean

PYTHON ?= python3
DATASET ?= auto
DATA ?=
DIR ?= artifacts/fashion_mnist
PRESET ?= full
RECIPES ?= all
MODELS := cnn gru
SEEDS := 1 2 3 4 5
# Its palette costs the GRU too much to be released: docs/quantization.md.
LEFT_OUT_gru := ,-pal4

BIN := .venv/bin
HEMLINE := $(BIN)/hemline
INSTALLED := .venv/installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
WITH_DATA := $(if $(DATA),--data $(DATA))
RESOLVE := $(BIN)/python -m hemline_train.dataset $(DATASET) $(WITH_DATA)

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  \1	/p' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## make the virtual environment .venv from requirements.lock

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else "Hemline needs Python 3.11 to 3.13: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(PIP) --require-hashes -r requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

all: $(INSTALLED) ## train, export, verify and benchmark both models into build/ (full preset)
	name=$$($(RESOLVE)) && $(MAKE) pipeline DATASET=$$name DIR=build/$$name PRESET=full

quick: $(INSTALLED) ## the same with 5 epochs, into build/quick/
	name=$$($(RESOLVE)) && $(MAKE) pipeline DATASET=$$name DIR=build/quick PRESET=quick RECIPES=

train: $(INSTALLED) ## train both models into build/
	name=$$($(RESOLVE)) && $(MAKE) $(MODELS:%=train-%) DATASET=$$name DIR=build/$$name

export: $(INSTALLED) ## export what `make train` trained
	name=$$($(RESOLVE)) && $(MAKE) $(MODELS:%=export-%) DIR=build/$$name

verify: $(INSTALLED) $(MODELS:%=verify-%) ## each artifact in DIR against its float model

bench: $(INSTALLED) $(MODELS:%=bench-%) ## latency of the artifacts in DIR, beside the bare engines and Keras

report: $(INSTALLED) ## one table of what verify and bench recorded in DIR
	$(HEMLINE) report $(MODELS:%=$(DIR)/%)

release: $(INSTALLED) ## promote build/fashion_mnist to artifacts/ if its verdicts all pass
	$(BIN)/python -m hemline.release build/fashion_mnist artifacts/fashion_mnist

calibration-study: $(INSTALLED) ## accuracy by calibration method and count, of what `make train` trained
	name=$$($(RESOLVE)) && $(BIN)/python -m hemline_export.calibration_study $(foreach model,$(MODELS),build/$$name/$(model)/$(model).float.keras) $(WITH_DATA)

test: $(INSTALLED) lint ## lint, types and all tests
	$(BIN)/pytest

test-seeds: $(SEEDS:%=test-seed-%) ## the tests of small trained models, on models of five other seeds

fuzz: $(INSTALLED) ## load 500 damaged files per engine, read 500 damaged records, pictures and archives
	$(BIN)/pytest tests/stress/test_fuzz.py --mutations 500

crashtest: $(INSTALLED) ## kill export and train at 20 moments each
	$(BIN)/pytest -s tests/stress/test_kill.py --kills 20

soak: $(INSTALLED) ## 1,000,000 predictions of each released model in one process: memory and results
	$(BIN)/python tests/stress/soak.py $(MODELS:%=$(DIR)/%)

footprint: $(INSTALLED) ## time to the first answer and memory, into docs/footprint.md
	$(BIN)/python tests/stress/footprint.py $(MODELS:%=$(DIR)/%) --out docs/footprint.md

lint: $(INSTALLED) ## lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED) ## format the code and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(INSTALLED) ## resolve requirements.lock anew from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 --all-extras --generate-hashes --no-header --upgrade --output-file requirements.lock pyproject.toml

clean: ## delete what runs wrote, but not the environment
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

.PHONY: pipeline
pipeline: $(MODELS:%=model-%)
	$(HEMLINE) report $(MODELS:%=$(DIR)/%)

model-%:
	$(MAKE) train-$* export-$* record-$*

train-%:
	$(HEMLINE) train $* --preset $(PRESET) --dataset $(DATASET) $(WITH_DATA) --out $(DIR)/$*

export-%:
	$(HEMLINE) export $(DIR)/$*/$*.float.keras $(if $(RECIPES),--recipes $(RECIPES)$(LEFT_OUT_$*)) $(if $(DATA),--calibration $(DATA))

# A FAIL (status 1) goes into the table, whose command then ends in 1 itself.
record-%:
	$(HEMLINE) verify $(DIR)/$* $(WITH_DATA) --json $(DIR)/$*/parity.json || test $$? -eq 1
	$(HEMLINE) bench $(DIR)/$* --json $(DIR)/$*/bench.json

test-seed-%: $(INSTALLED)
	$(BIN)/pytest --model-seed $*

verify-%:
	$(HEMLINE) verify $(DIR)/$* $(WITH_DATA)

bench-%:
	$(HEMLINE) bench $(DIR)/$* --peer
