# make quickstart   a tokenizer, data, a GPT, a classifier and an assistant, from this folder alone
# make test         the same installation plus what the tests need, and the tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN := runs/quickstart
CARDS := model_cards/examples
EXAMPLES := tokenizer data base classifier assistant
# Further arguments for the steps of `make quickstart`, e.g. PRETRAIN_ARGS="--max_steps 20 --overwrite true". Finished steps are not
# repeated; after another base has been trained, the steps after it are refused until they get "--overwrite true" too.
TOKENIZE_ARGS ?=
PREPARE_ARGS ?=
PRETRAIN_ARGS ?=
CLASSIFY_ARGS ?=
INSTRUCT_ARGS ?=

.PHONY: install install-dev quickstart cards test test-fast test-part docs lint format package clean

install: $(VENV)/.installed

install-dev: $(VENV)/.installed-dev

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e ".[dev]"
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e ".[docs]"
	touch $@

quickstart: install
	$(BIN)/python recipes/train_tokenizer.py recipes/configs/quickstart/tokenizer.yaml $(TOKENIZE_ARGS)
	$(BIN)/python recipes/prepare_data.py recipes/configs/quickstart/data.yaml $(PREPARE_ARGS)
	$(BIN)/python recipes/pretrain.py recipes/configs/quickstart/pretrain.yaml $(PRETRAIN_ARGS)
	$(BIN)/python recipes/finetune_classification.py recipes/configs/quickstart/classification.yaml $(CLASSIFY_ARGS)
	$(BIN)/python recipes/finetune_instructions.py recipes/configs/quickstart/instructions.yaml $(INSTRUCT_ARGS)
	@$(BIN)/python -m hfgpt.training.summary $(RUN)

# Regenerates the cards in model_cards/examples from the results of `make quickstart`; those of the run with planted secrets:
# make cards RUN=runs/memorization EXAMPLES=base CARDS=model_cards/examples/memorization
cards: install
	for part in $(EXAMPLES); do \
	  $(BIN)/python -m hfgpt.hub.card $(RUN)/$$part --output_file $(CARDS)/$$part/README.md || exit 1; \
	  for file in loss.png curves.png confusion.png memorization.png overview.png tokenizer_report.png tokenizer_report.md; do \
	    if [ -f $(RUN)/$$part/$$file ]; then cp $(RUN)/$$part/$$file $(CARDS)/$$part/; fi; \
	  done; \
	done

# Many tests start processes, which run in parallel here; one thread each, because more would compete for the cores.
test: install-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

# The tests that neither train nor start processes, for between two edits.
test-fast: install-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses auto --maxprocesses 8 --dist loadfile

# For the loop while writing: one folder or file of tests, and the rules for all files. make test-part PART=tests/model
PART ?= tests/tokenization
test-part: install-dev
	$(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --quiet -m "not slow" $(PART) tests/test_house.py tests/test_messages.py tests/test_repository.py

# Builds the documentation into site/; a warning, or a broken link or anchor, is an error. Building the pages needs no torch.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# pyright would look for newer versions of itself on the network; use the one in constraints.txt.
lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

format: install-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Wheel and sdist, each installed into a fresh environment, where the command does its first job.
package:
	rm -rf dist
	$(PYTHON) -m venv dist/build
	dist/build/bin/python -m pip install --disable-pip-version-check --quiet -c constraints.txt hatchling
	dist/build/bin/python -m hatchling build
	for file in dist/*.whl dist/*.tar.gz; do \
	  rm -rf dist/try && $(PYTHON) -m venv dist/try/venv && \
	  dist/try/venv/bin/python -m pip install --disable-pip-version-check --quiet -c constraints.txt $$file && \
	  (cd dist/try && venv/bin/hfgpt --version && venv/bin/hfgpt pretrain --help > help.txt && \
	   venv/bin/hfgpt tokenizer --sources python-docs --max_documents 50 --vocab_size 500 --output_dir tokenizer) || exit 1; \
	done

clean:
	rm -rf $(VENV) runs dist site
