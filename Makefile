# Each target is one module call; variables choose what it works on.
INIT     ?=
PRESET   ?= $(if $(INIT),,edge-nano)
DATASET  ?= shapes
DATA_DIR ?=
EPOCHS   ?=
OBSERVER ?= percentile
SCHEME   ?= selective
QAT_EPOCHS ?= 1
ENGINE   ?= tflite
MAX_DROP ?= 0.5
MAX_DROP_PP ?=
RUN      ?= runs/$(DATASET)-$(or $(PRESET),$(notdir $(INIT:/=)))
BUNDLE   ?= models/edge-nano-cifar10

# The demo's 1,000 test images tell a drop from none to about 0.6 points, so it allows 1.
DEMO_RUN    := runs/demo
DEMO_EPOCHS := 9

PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV   := .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready
BENCH_READY := $(VENV)/.bench-ready
# A preset is benchmarked only if it is asked for by name: its default is for training.
SUBJECT := $(if $(filter file,$(origin PRESET)),--bundle $(BUNDLE),--preset $(PRESET))
START  := $(if $(INIT),--init "$(INIT)") $(if $(filter file,$(origin PRESET)),,--preset $(PRESET))
DATA   := $(if $(DATA_DIR),--data-dir "$(DATA_DIR)")

.DEFAULT_GOAL := help
.PHONY: help setup train calibrate sensitivity export report demo latency bench bench-train models bundle test test-slow lint clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/ -/'

setup: $(READY)  ## install everything into .venv

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

train: $(READY)  ## train PRESET on DATASET, from the weights of INIT if given, or go on with RUN
	$(PY) -m train $(START) --dataset $(DATASET) $(DATA) --run $(RUN) $(if $(EPOCHS),--epochs $(EPOCHS)) --resume

calibrate: $(READY)  ## measure activation ranges of RUN, chosen by OBSERVER
	$(PY) -m calibration --run $(RUN) $(DATA) --observer $(OBSERVER)

sensitivity: $(READY)  ## rank RUN's products by what int8 costs; MAX_DROP_PP searches those to leave in float
	$(PY) -m export.sensitivity --run $(RUN) $(DATA) $(if $(MAX_DROP_PP),--max-drop $(MAX_DROP_PP))

export: $(READY) calibrate  ## make RUN int8 by SCHEME (QAT_EPOCHS, 0 for PTQ) and write its artifacts
	$(PY) -m export --run $(RUN) $(DATA) --scheme $(SCHEME) --qat-epochs $(QAT_EPOCHS)

report: $(READY)  ## compare float and int8 of RUN on its test split
	$(PY) -m runtime.compare --bundle $(RUN)/artifacts --data $(RUN)/test.npz --out $(RUN)/report --max-drop $(MAX_DROP) --engine $(ENGINE)

demo: $(READY)  ## the whole chain on the embedded shapes, and an annotated video
	$(MAKE) train DATASET=shapes RUN=$(DEMO_RUN) EPOCHS=$(DEMO_EPOCHS)
	$(MAKE) export DATASET=shapes RUN=$(DEMO_RUN)
	$(MAKE) report RUN=$(DEMO_RUN) MAX_DROP=1
	$(PY) runtime/camera_demo.py --bundle $(DEMO_RUN)/artifacts --source sample --headless --output $(DEMO_RUN)/demo.mp4
	@echo "weights    $(DEMO_RUN)/float.safetensors"
	@echo "artifacts  $(DEMO_RUN)/artifacts/"
	@echo "report     $(DEMO_RUN)/report/report.html"
	@echo "video      $(DEMO_RUN)/demo.mp4"

latency: $(READY)  ## latency of float and int8 of BUNDLE on this machine, interleaved, one thread
	$(PY) -m runtime.benchmark --bundle $(BUNDLE) --engine $(ENGINE)

bench: $(BENCH_READY)  ## BUNDLE's artifacts, or a named PRESET's, against what other converters and runtimes make
	$(PY) -m export.bench $(SUBJECT) $(DATA)

$(BENCH_READY): $(READY)
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[dev,bench]'
	touch $(BENCH_READY)

bench-train: $(READY)  ## speed of training steps against the Keras tutorial's construction, interleaved
	$(PY) -m train.benchmark

models: $(READY)  ## make every shipped bundle's artifacts anew from its weights
	$(PY) -m export.bundle --source models/*

bundle: $(READY)  ## one archive with what a device needs to run BUNDLE, in dist/
	$(PY) -m export.device_bundle --bundle $(BUNDLE)

test: $(READY)  ## the tests
	$(PY) -m pytest -m 'not slow' --numprocesses 2 --dist loadfile

test-slow: $(READY)  ## the tests that take longer
	$(PY) -m pytest -m slow

lint: $(READY)  ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:  ## remove the virtual environment and caches, not runs
	rm -rf $(VENV) *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
