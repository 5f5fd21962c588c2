# The commands of this project. `make` alone lists them.

# The first Python from 3.10 to 3.$(NEWEST) that can make a virtual environment.
NEWEST = 13
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import ensurepip, sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, $(NEWEST)))' \
	2>/dev/null && { echo $$p; break; }; done)
RUN = .venv/bin/python -u
# The suite starts hundreds of processes. Without bytecode each compiles anew.
export PYTHONDONTWRITEBYTECODE =
# One more than cores: tests wait for processes of their own.
PYTEST = --numprocesses $(shell $(PYTHON) -c "import os; print(min(os.cpu_count() + 1, 5))") --dist loadfile --no-loadscope-reorder --durations=25

.PHONY: help demo docs test test-slow test-upstream evidence install install-test lint clean python
.NOTPARALLEL:

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

demo: install  ## pretrain on generated images, evaluate, write work_dirs/demo (10 minutes)
	$(RUN) tools/demo.py

test: install-test lint  ## lint, types and the test suite without its slow tests
	$(RUN) -m pytest $(PYTEST) -m "not slow"

test-slow: install-test  ## the slow tests, of whole commands; CI runs both
	$(RUN) -m pytest $(PYTEST) -m slow

docs: install-test  ## the site in docs/_build/html, by Python 3.11 or newer; warnings and dead links are errors
	$(RUN) -m sphinx --fresh-env --fail-on-warning --keep-going --quiet docs docs/_build/html

# torch 2.1 is there up to Python 3.11.
test-upstream: NEWEST = 11
test-upstream: python  ## the test suite on upstream OpenMMLab, in .venv-upstream
	requirements/install.sh "$(PYTHON)" .venv-upstream upstream openmmlab,test
	.venv-upstream/bin/python -u -m pytest $(PYTEST) -m "not minutes"

evidence: install-test  ## the long runs whose figures stand in docs/ (hours), logs in work_dirs/evidence
	$(RUN) docs/evidence.py

install: python  ## .venv with all that the package needs; no compiler needed
	requirements/install.sh "$(PYTHON)" .venv onedl onedl,tensorboard

install-test: python  ## the same and the tools of the test suite
	requirements/install.sh "$(PYTHON)" .venv onedl onedl,dev

lint:  ## ruff and mypy
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy

clean:  ## remove caches and build leftovers; keeps .venv and work_dirs
	rm -rf build dist docs/_build docs/generated *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find configs simim_plugin tests tools -name __pycache__ -exec rm -rf {} +

python:
	@test -n "$(PYTHON)" || { echo "No Python from 3.10 to 3.$(NEWEST) with venv was found: install one (apt-get install python3 python3-venv), or name it, as in 'make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)'." >&2; exit 1; }
