# `make demo` and `make test` need nothing done before. Everything runs from .venv, made by `make install`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test check serve bench clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch .venv/installed

demo: install
	$(BIN)/python examples/demo.py $(if $(MODEL),--model $(MODEL)) $(if $(CORPUS),--corpus $(CORPUS))

test: install
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --durations=25

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

serve: install
	$(BIN)/headroom serve

bench: install
	$(BIN)/python -m bench $(NAME)

clean:
	rm -rf .venv build *.egg-info
