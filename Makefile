PYTHON ?= python3
PY := .venv/bin/python
OLDEST := torch==2.9.0 torchvision==0.24.0 # that requirements.txt allows

.PHONY: demo test test-all test-oldest test-clients gpu gpu-quick lint

demo: .venv/installed
	$(PY) train.py --data digits --recipe demo --no-mirror --val-every 3 --output runs/demo $(if $(wildcard runs/demo/config.json),--resume)

# two workers of one thread each: most tests are too small for torch's threads
test test-all test-oldest: export OMP_NUM_THREADS = 1

test: lint
	$(PY) -m pytest -n 2

test-all: lint
	$(PY) -m pytest -n 2 -m "slow or not slow"

test-oldest: .venv-oldest/installed
	.venv-oldest/bin/python -m pytest -n 2

test-clients: .venv-clients/installed
	.venv-clients/bin/python -m pytest tests/clients

gpu: .venv/installed-dev
	$(PY) -m benchmarks.gpu.page

# with the python and the packages that are there: no installation, no network
gpu-quick:
	$(PYTHON) -m benchmarks.gpu.quick

lint: .venv/installed-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	$(PY) -m pip install -q -e .
	touch $@

.venv/installed-dev: requirements-dev.txt pyproject.toml .venv/installed
	$(PY) -m pip install -q -r requirements-dev.txt
	touch $@

.venv-oldest/installed: requirements-dev.txt pyproject.toml requirements.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install -q $(OLDEST) -r requirements-dev.txt
	touch $@

# Over .venv, whose packages it sees: torch is not downloaded again, and what the clients need, some of it years old,
# changes nothing in .venv.
SITE_PACKAGES := -c "import sysconfig; print(sysconfig.get_path('purelib'))"

.venv-clients/installed: pyproject.toml .venv/installed-dev
	$(PYTHON) -m venv .venv-clients
	$(PY) $(SITE_PACKAGES) > $$(.venv-clients/bin/python $(SITE_PACKAGES))/base.pth
	.venv-clients/bin/python -m pip install -q -e '.[clients]'
	touch $@
