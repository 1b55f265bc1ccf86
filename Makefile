# make lab         open the course in JupyterLab
# make test        everything that is tested
# make notebooks   run every notebook and store its outputs, free of what changes from run to run
# make site        the notebooks as a website whose sliders move, in build/site
# make slides      a deck of each notebook, which needs no network, in build/slides
# make stick       all that a room without a network needs, in build/stick
# make assignment  NOTEBOOK=03: a notebook for nbgrader, in build/assignments
# make solutions   solved copies of the notebooks, for a teacher, in the folder solutions
# make picture     README's picture
# make bench       what LoRA costs, ours beside PEFT's, loralib's and plain layers
# Each prepares .venv first, once: it is made anew only when requirements.txt or pyproject.toml changes.
#
# make lab TORCH=cpu          on Linux without a GPU: PyTorch's own small build instead of gigabytes of CUDA
# make lab PYTHON=python3.12  another Python than python3, from 3.11 to 3.14
# make site REPOSITORY=owner/name  with links to its home on GitHub, to Colab and to Binder

PYTHON ?= python3
TORCH ?=
REPOSITORY ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
DOCS_READY := $(VENV)/docs_ready
PIP := $(BIN)/python -m pip install --disable-pip-version-check
# Where torch comes from; every other package comes from where pip gets packages.
TORCH_FROM_cpu := --index-url https://download.pytorch.org/whl/cpu

.PHONY: lab test notebooks solutions bench picture site slides assignment stick

# In a container one is root, which Jupyter refuses unless told that it is meant so. Its news would ask whether they are
# wanted before anything else is seen. All else is as Jupyter has it.
lab: $(READY)
	$(BIN)/jupyter lab --allow-root --LabApp.news_url=None --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb

# On as many cores as there are, up to four, each with a thread of its own.
test: $(DOCS_READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

notebooks: $(READY)
	$(BIN)/python tests/run_notebooks.py notebooks/*.ipynb

bench: $(READY)
	$(BIN)/python tests/bench.py

solutions: $(READY)
	$(BIN)/python -m lora_lab.exercises.solutions solutions notebooks/[0-9]*.ipynb notebooks/capstone.ipynb

site: $(DOCS_READY)
	REPOSITORY=$(REPOSITORY) $(BIN)/python docs/book.py

slides: $(DOCS_READY)
	$(BIN)/python docs/decks.py

assignment: $(DOCS_READY)
	$(BIN)/python docs/assignment.py notebooks/$(NOTEBOOK)*.ipynb

stick: $(DOCS_READY)
	$(BIN)/python docs/stick.py $(TORCH_FROM_$(TORCH))

picture: $(READY)
	$(BIN)/python .github/picture.py

# torch first and by itself: where one of its builds is asked for, no other package is looked for there. A torch that is
# in .venv already stays.
$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || \
	    { echo "The course needs Python 3.11 to 3.14. Name one that you have:  make PYTHON=python3.12"; exit 1; }
	@case "$(TORCH)" in ""|cpu) ;; \
	    *) echo "TORCH=$(TORCH) is unknown: TORCH=cpu takes the small build, and without it pip chooses"; exit 1;; esac
	$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import torch' 2>/dev/null || \
	    { set -x; $(PIP) $(TORCH_FROM_$(TORCH)) "$$(grep '^torch==' requirements.txt)"; }
	grep -v '^torch==' requirements.txt > $(VENV)/without_torch.txt
	$(PIP) -r $(VENV)/without_torch.txt -e .
	@touch $(READY)

$(DOCS_READY): $(READY) docs/requirements.txt
	$(PIP) -r docs/requirements.txt
	@touch $(DOCS_READY)
