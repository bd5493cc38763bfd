# `make` lists what can be made. Nothing here needs more than CPython 3.11 or newer, make and bash.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test lint types bench bench-scoring bench-generation bench-lenet5 bench-search bench-quality docs clean
MNIST ?= mnist
CIFAR10 ?= cifar10

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
DENSE := runs/demo-dense.safetensors

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  make \1\t/' | expand -t 24
	@echo "  PYTHON=/path/to/python chooses the interpreter (now: $(PYTHON))"

demo: $(VENV)/installed ## train LeNet-5 on 3,500 digits, prune it, write runs/demo/report.html (2-3 minutes)
	@echo "== 1/2 training LeNet-5 on mnist-sample (about half a minute)"
	@$(BIN)/evoprune train lenet5 --data mnist-sample --epochs 20 --out $(DENSE) --overwrite
	@echo "== 2/2 pruning it (about a minute and a half)"
	@$(BIN)/evoprune prune lenet5 --checkpoint $(DENSE) --data mnist-sample --sparsity 0.91 --generations 4 \
		--finetune-epochs 2 --final-epochs 20 --batch-size 64 --learning-rate 0.003 --out runs/demo --overwrite
	@echo "Open runs/demo/report.html in a browser. More: $(BIN)/evoprune --help"

test: $(VENV)/installed-dev ## run the tests
	@$(BIN)/python -m pytest -v

lint: $(VENV)/installed-dev ## check style and formatting (ruff)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/installed-dev ## check types (mypy --strict)
	@$(BIN)/mypy

docs: $(VENV)/installed-dev ## check that links, commands and options in the documentation exist
	@$(BIN)/python -m pytest -v tests/test_docs.py

bench: $(VENV)/installed-dev ## list the benchmarks and how to run them
	@for file in $$(grep -l '^def main' benchmarks/*.py); do \
		printf '  %s %s\n      %s\n' $(BIN)/python "$$file" "$$(sed -nE '1s/^"""(.*[^"])"*$$/\1/p' "$$file")"; done
	@echo "Results are in benchmarks/results/."

bench-scoring: $(VENV)/installed-dev ## candidates a second against the reference loop (MNIST=folder CIFAR10=folder)
	@$(BIN)/python benchmarks/scoring.py --mnist $(MNIST) --cifar10 $(CIFAR10)

bench-generation: $(VENV)/installed-dev ## what a generation costs beside scoring, 1e4 to 1e8 bits
	@$(BIN)/python benchmarks/generation.py

bench-search: $(VENV)/installed-dev ## every search against chance, without training, half an hour (MNIST=folder)
	@$(BIN)/python benchmarks/quality_search.py --data $(MNIST)
	@$(BIN)/python benchmarks/quality_page.py

bench-quality: $(VENV)/installed-dev ## evolution against rules at equal time, four hours (MNIST=folder)
	@$(BIN)/python benchmarks/quality.py --data $(MNIST)
	@$(BIN)/python benchmarks/quality.py --data $(MNIST) --only steady
	@$(BIN)/python benchmarks/quality.py --data $(MNIST) --sparsities 0.98 --only evopress pbil cmaes nsga2 mixture chance
	@$(BIN)/python benchmarks/quality_page.py

bench-lenet5: $(VENV)/installed-dev ## the README's runs of LeNet-5, 3 to 20 minutes each (MNIST=folder)
	@$(BIN)/python benchmarks/runs.py lenet5 --data $(MNIST)

clean: ## remove .venv, caches and the demo's runs
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist runs/demo $(DENSE) $(DENSE).part
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Made once, and again when the dependencies change. `venv` also mends what an interruption left half done.
$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "evoprune needs CPython 3.11 or newer; make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "== making the virtual environment $(VENV) with $$($(PYTHON) --version)"
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@echo "== installing evoprune with PyTorch into $(VENV) (once; some minutes, the download is large)"
	@$(INSTALL) -e '.[data]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo "== installing pytest, ruff and mypy into $(VENV) (once)"
	@$(INSTALL) -e '.[dev]'
	@touch $@
