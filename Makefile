# make demo: the main job in five minutes.   make test: all tests.   make check: style, types, layers.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	$(VENV)/bin/python launch/demo.py

test: $(VENV)/installed-dev
	$(VENV)/bin/python -m pytest -n 2 $(PYTEST_FLAGS)

check: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

$(VENV)/installed: setup.cfg constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) -e '.[dev,fast]'
	touch $@
