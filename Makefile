# Every target makes its own environment in .venv; once it stands, that costs nothing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The environment is current when a stamp with the checksum of what defines it stands inside it.
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | cksum | tr ' ' '-')

# Tests start hundreds of interpreters, which compile everything again where nothing is kept.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help install demo test test-long lint bench

help:  ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## make the environment; the targets below do it by themselves

demo: $(STAMP)  ## analyse a real sentence encoder, write a report, ask one question about it
	$(BIN)/zsei analyze demo:minilm --llm none --out zsei-report || test $$? -eq 3  # 3: nothing accepted
	$(BIN)/zsei ask "which heads matter most?"

test: $(STAMP)  ## run the tests, on all cores
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

test-long: $(STAMP)  ## run what the tests above leave out: the same, at full size
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder -m long

lint: $(STAMP)  ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(STAMP)  ## measure speed against the figures to reach
	$(BIN)/python -m benchmarks.run

$(STAMP):
	@echo "Installing into $(VENV), a few minutes the first time"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	rm -f $(VENV)/.installed-*
	touch $@
