# Everything here sets itself up: the first target that needs it makes .venv from constraints.txt.
#
#   make demo     install, then the main job on the built-in model and data; ends with a report
#   make test     install, then the whole test suite
#
# Without a GPU, save gigabytes of CUDA:  make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH_INDEX ?=
# Recipe and settings of `make preprocess | train | eval`, such as SET="model.path=tiny".
RECIPE ?= recipes/demo.yaml
SET ?=
PYTEST := $(BIN)/python -m pytest

.PHONY: demo test unit stages torture check gpu bench clean preprocess train eval schema format

demo: $(VENV)/.installed
	$(BIN)/posttrain run recipes/demo.yaml

test: $(VENV)/.installed-dev
	# In the order of the folders: the long ones of tests/stages first, the quick ones fill up.
	$(PYTEST) -n auto --dist loadfile --no-loadscope-reorder

unit: $(VENV)/.installed-dev
	$(PYTEST) tests/unit tests/contracts tests/property tests/reference

# Each stage through the command line: resume after SIGKILL, wrong input, real-shaped input.
stages: $(VENV)/.installed-dev
	$(PYTEST) tests/stages

# Runs killed at random, checkpoints damaged in every way, full disks, a stop in each phase: ten
# minutes on 4 cores, with a table at the end. `make test` has a few of each.
torture: $(VENV)/.installed-dev
	$(PYTEST) tests/torture --torture -n 4

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# On a machine with a GPU: what is there and how exact it is, the tests that need one, the benches.
gpu: $(VENV)/.installed-dev
	$(BIN)/posttrain doctor --attention
	$(PYTEST) -m gpu --require-gpu
	$(BIN)/python bench/train.py cuda-0.6b cuda-4b-lora cuda-dpo

# TOKENIZER: folder or hub id of a real one; without it the data path is measured in part.
bench: $(VENV)/.installed-dev
	$(BIN)/python bench/train.py sft-tiny sft-small8 sft-lora dpo
	$(BIN)/python bench/data.py $(if $(TOKENIZER),all --tokenizer $(TOKENIZER),packing)

preprocess: $(VENV)/.installed
	$(BIN)/posttrain prepare $(RECIPE) $(SET)

train: $(VENV)/.installed
	$(BIN)/posttrain train $(RECIPE) $(SET)

eval: $(VENV)/.installed
	$(BIN)/posttrain evaluate $(RECIPE) $(SET)

schema: $(VENV)/.installed
	$(BIN)/posttrain schema > recipes/recipe.schema.json
	$(BIN)/posttrain schema --markdown > docs/settings.md

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# torch first and by itself: a later package must not choose another build of it.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed; set PYTHON=python3.12, say"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(BIN)/pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]' setuptools wheel ninja py-cpuinfo
	# DeepSpeed has no wheels, and its build must see the torch that is there.
	DS_BUILD_OPS=0 $(BIN)/pip install --quiet --no-build-isolation -c constraints.txt -e '.[deepspeed]'
	@touch $@
