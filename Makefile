# make quickstart   a tokenizer, data, a GPT and its first words, from nothing but this folder
# make test         the same installation, and the tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN := runs/quickstart
# Further arguments for the pretraining of `make quickstart`, e.g. PRETRAIN_ARGS="--max_steps 20 --overwrite true"
PRETRAIN_ARGS ?=

.PHONY: install quickstart test lint format clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e ".[dev]"
	touch $@

quickstart: install
	$(BIN)/python recipes/train_tokenizer.py recipes/configs/quickstart/tokenizer.yaml
	$(BIN)/python recipes/prepare_data.py recipes/configs/quickstart/data.yaml
	$(BIN)/accelerate launch --config_file recipes/accelerate/cpu.yaml recipes/pretrain.py recipes/configs/quickstart/pretrain.yaml $(PRETRAIN_ARGS)
	$(BIN)/python recipes/generate.py $(RUN)/base --prompt "os.path.join("
	@echo
	@cat $(RUN)/base/report.txt

# Many tests start processes, which run side by side here; one thread each, because two would fight for the cores.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) runs
