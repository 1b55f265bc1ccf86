# make lab        open the course in JupyterLab
# make test       everything that is tested
# make notebooks  run every notebook and store its outputs, free of what changes from run to run
# make solutions  solved copies of the notebooks, for a teacher, in the folder solutions
# make picture    README's picture
# make bench      what LoRA costs, ours beside PEFT's, loralib's and plain layers
# Each prepares .venv first, once: it is made anew only when requirements.txt or pyproject.toml changes.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: lab test notebooks solutions bench picture

lab: $(READY)
	$(BIN)/jupyter lab $(firstword $(sort $(wildcard notebooks/*.ipynb)) notebooks)

test: $(READY)
	$(BIN)/python -m pytest

notebooks: $(READY)
	$(BIN)/python tests/run_notebooks.py notebooks/*.ipynb

bench: $(READY)
	$(BIN)/python tests/bench.py

solutions: $(READY)
	$(BIN)/python -m lora_lab.exercises.solutions solutions notebooks/[0-9]*.ipynb

picture: $(READY)
	$(BIN)/python .github/picture.py

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	    { echo "The course needs Python 3.11, 3.12 or 3.13. Name one that you have:  make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -e .
	@touch $(READY)
