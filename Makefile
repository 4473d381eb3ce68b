# Short names for what a developer runs often; `sh setup.sh test` sets the environment up.
PYTHON ?= .venv/bin/python

.PHONY: check format reliability test sim types

check: types test

format:
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

types:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m pyright --pythonpath $(PYTHON)

test:
	$(PYTHON) -m pytest -q

# half an hour; writes docs/reliability.md
reliability:
	$(PYTHON) -m tests.reliability

sim:
	$(PYTHON) -m tests.sim --steps 5000000 --jobs 2
