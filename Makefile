# Everything runs in .venv, which the first target that needs it creates. Nothing but Python 3.11+, make and git is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test check bench clean

demo: $(VENV)/installed-demo  ## train, evaluate, index, search and verify on real photographs: about two minutes
	$(BIN)/tercet demo --out runs/demo

test: $(VENV)/installed-dev  ## the whole test suite
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

check: $(VENV)/installed-dev  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed-demo  ## the measurements that the docs quote
	$(BIN)/python benchmarks/losses.py
	$(BIN)/python benchmarks/faces_seeds.py

clean:  ## remove the environment; runs are kept
	rm -rf $(VENV)

$(VENV)/installed-demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "installing Tercet and PyTorch into $(VENV) (about 1.5 GB, a minute or two) ..."
	$(INSTALL) --editable '.[demo]'
	touch $@

$(VENV)/installed-dev: $(VENV)/installed-demo
	$(INSTALL) --editable '.[demo,faiss,text,lora,pml,sentence-transformers,triton,tensorboard,umap,onnx,lance,dev]'
	touch $@
