# Everything starts here: `make demo` and `make test` set up what they need.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# uv does not read pip's configuration; hand over its folder of local wheels, if there is one
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
# keep compiled bytecode even where the environment forbids it: demo and tests start many processes that import torch
export PYTHONDONTWRITEBYTECODE :=
# tests write and delete very many small files, which takes a third of their time on a disk: keep them in memory, where it has
# room for them
MEMORY := $(shell df --output=avail -BG /dev/shm 2>/dev/null | awk 'NR == 2 && $$1 + 0 >= 2 {print "/dev/shm"}')
PYTEST = $(if $(MEMORY),TMPDIR=$(MEMORY)) OMP_NUM_THREADS=1 $(BIN)/pytest

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

demo: $(VENV)/.installed ## run the whole pipeline on the embedded demo (no downloads of weights or data)
	$(BIN)/snakemake --cores 8 all
	@echo "report: file://$(CURDIR)/results/demo/report.html"

test: gate ## linters, types, and all tests but the slow ones
	$(PYTEST) -n 3 --dist loadfile -m "not slow" # 3 on two cores: tests wait for processes and threads

slow: $(VENV)/.installed ## the slow tests
	$(PYTEST) -n 2 --dist loadfile -m slow

docs: $(VENV)/.installed ## the documentation as a site, with every link checked: site/index.html
	$(BIN)/python docs/reference.py
	$(BIN)/zensical build --strict

wheel: $(VENV)/.installed ## a wheel in dist/, for folders outside this clone
	$(BIN)/python -m hatchling build -t wheel

campaign: $(VENV)/.installed ## search at random for examples that fail, for half an hour
	$(BIN)/python tests/campaign.py random --minutes 30

gate: $(VENV)/.installed ## linters and types only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile
	$(BIN)/snakemake --lint
	$(BIN)/mypy --num-workers 2

format: $(VENV)/.installed ## put the code into its canonical form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "installing into $(VENV) (about 1.5 GB)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	@touch $@

.PHONY: help demo test slow docs wheel campaign gate format
