# Transformers Lab. `make` alone lists what there is to do.

LABS    ?= labs
VENV    ?= .venv
PYTHON3 ?= python3
# The same arguments stand in environment.yml.
PIP_ARGS := -c constraints.txt -e .

# With VENV= (empty) the Python of this shell is used as it is, and nothing is installed.
PYTHON := "$(if $(VENV),$(VENV)/bin/python,$(PYTHON3))"
READY  := $(if $(VENV),$(VENV)/.ready)
export LAB LABS SEED SEEDS MODEL NAME NUMBER
export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))

ifneq ($(words $(VENV)),$(if $(VENV),1,0))
$(error VENV may not hold a space, for make would read two names: give another folder, as in VENV=/tmp/lab)
endif

.PHONY: help lab work grade progress test stubs notebooks lesson mutants timings plots model doctor reset clean
.DEFAULT_GOAL := help

help:  ## list what make can do
	@echo "Transformers Lab: edit labs/, run make grade."
	@echo
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  LAB=02              one lesson only: grade, reset, notebooks, mutants"
	@echo "  LABS=solutions      work on the reference, or on any other folder of lab files"
	@echo "  SEED=7              draw the grader's inputs from this seed, to repeat a failure"
	@echo "  MODEL=/path         speak through another Llama folder in Hugging Face layout"
	@echo "  VENV=               use the current python3 as it is, installing nothing (VENV=/path: another folder)"
	@echo "  PYTHON3=python3.12  make .venv with this Python"

lab: $(READY) work  ## open JupyterLab on your notebooks, in work/
	$(PYTHON) -m jupyterlab --ServerApp.root_dir="$(CURDIR)" --ServerApp.preferred_dir="$(CURDIR)/work"

work:  ## copy the notebooks that work/ lacks; what is there stays as it is
	@mkdir -p work
	@for from in notebooks/*.ipynb; do \
	    to="work/$${from##*/}"; \
	    if [ -e "$$from" ] && [ ! -e "$$to" ]; then \
	        cp "$$from" "$$to.part" && mv "$$to.part" "$$to" && echo "$$to is new" || exit 1; \
	    fi; \
	done

grade: $(READY)  ## grade labs/: a table, grade/results.json and grade/report.html
	@$(PYTHON) -m common.grader

progress: $(READY)  ## say which parts of the engine are yours, and which borrowed
	@$(PYTHON) -m common.parts

test: $(READY)  ## run the project's own tests
	@if $(PYTHON) -m ruff --version >/dev/null 2>&1; then $(PYTHON) -m ruff check; \
	else echo "ruff is not installed here: the style goes unchecked."; fi
	$(PYTHON) -m pytest tests $$($(PYTHON) -c "import xdist" 2>/dev/null && echo "-n auto --dist worksteal")

stubs: $(READY)  ## write labs/ from solutions/; changed labs are kept
	@$(PYTHON) -m common.authoring stubs

notebooks: $(READY)  ## execute notebooks/source/*.py into notebooks/*.ipynb
	@$(PYTHON) -m common.authoring notebooks

lesson: $(READY)  ## write the files of a new lesson: NAME=paged_kv NUMBER=08
	@$(PYTHON) -m common.authoring lesson

mutants: $(READY)  ## see every planted mistake found and every right solution pass (SEEDS=200: on fresh seeds)
	@$(PYTHON) -m tests.kill_matrix
	@SEEDS=$(or $(SEEDS),50) $(PYTHON) -m pytest -q tests/test_alternatives.py -n auto

timings: $(READY)  ## measure this machine into data/timings/; an interrupted run is taken up again
	@$(PYTHON) -m common.timings measure

plots: $(READY)  ## redraw every figure of data/plots/ from the CSVs of data/timings/
	@$(PYTHON) -m common.timings plots

model: $(READY)  ## train the story model again, on a GPU (MINUTES=10 for a piece)
	@$(PYTHON) -m common.model.train $(if $(MINUTES),--minutes $(MINUTES))

doctor: $(READY)  ## say what this machine can run, and the fix for what is missing
	@$(PYTHON) -m common.doctor

reset: $(READY)  ## bring back the stub of LAB=00, saving your file beside it
	@$(PYTHON) -m common.authoring reset

clean:  ## remove caches and grade/, never work/, labs/ or .venv
	rm -rf grade .hypothesis .pytest_cache .ruff_cache
	find . \( -path ./work -o -path ./labs -o -path ./.git -o -path './.venv*' \) -prune -o \
	    -name __pycache__ -type d -prune -exec rm -rf {} +

# Made once, and again when a pin changes. An interrupted set-up leaves no .ready, so the next make mends it.
$(VENV)/.ready: constraints.txt pyproject.toml
	@command -v "$(PYTHON3)" >/dev/null || { echo "There is no $(PYTHON3) here: install Python 3.11 or newer, or name" \
	    "yours, as in make PYTHON3=python3.12"; exit 1; }
	@"$(PYTHON3)" -I common/setup_venv.py $(VENV) $(PIP_ARGS)
