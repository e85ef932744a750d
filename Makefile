# Everything a contributor runs. `make check` is what CI does, in the environment that is active.
.PHONY: install test lint types format check quickstart ci

install:
	pip install -c constraints.txt -e ".[test]"

test:
	python -m pytest -n 2

lint:
	ruff check .
	ruff format --check .

types:
	mypy

format:
	ruff check --fix .
	ruff format .

check: lint types test

quickstart:
	python train.py --method merl --recipe quickstart --data synthetic

ci:
	bash .ci/run
