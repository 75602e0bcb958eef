PYTHON ?= python3
PY := .venv/bin/python

.PHONY: demo test test-all lint

demo: .venv/installed
	$(PY) train.py --data digits --recipe demo --no-mirror --val-every 3 --output runs/demo $(if $(wildcard runs/demo/config.json),--resume)

test: lint
	$(PY) -m pytest

test-all: lint
	$(PY) -m pytest -m "slow or not slow"

lint: .venv/installed-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	$(PY) -m pip install -q -r requirements.txt
	touch $@

.venv/installed-dev: requirements-dev.txt requirements-exchange.txt requirements-hdf5.txt .venv/installed
	$(PY) -m pip install -q -r requirements-dev.txt
	touch $@
