# Everything a contributor runs. `make check` is what CI does, in the environment that is active.
.PHONY: install test fast lint types format docs tables check quickstart ci

install:
	pip install -c constraints.txt -e ".[test]"

test:
	python -m pytest -n 2

fast:
	python -m pytest -n 2 -m "not slow"

lint:
	ruff check .
	ruff format --check .

types:
	mypy

format:
	ruff check --fix .
	ruff format .

docs:
	python -m mkdocs build --strict

tables:
	python scripts/update_docs.py

check: lint types docs test

quickstart:
	python train.py --method merl --recipe quickstart --data synthetic

ci:
	bash .ci/run
