# Two commands matter: `make search` and `make test`; both work on a fresh clone.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup search test lint

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[quickstart,data,dashboard,openvino,torchao,dev]'
	touch $@

search: setup
	$(BIN)/nas search quickstart

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest
