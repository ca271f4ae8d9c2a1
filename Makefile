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
IMAGES   ?= tests
TESTS    ?=
BUNDLE   ?= models/edge-nano-cifar10

# The demo has 1,000 test images: their drop has a 95% interval of about 0.6 points, so the demo allows 1.
DEMO_RUN    := runs/demo
DEMO_PRESET := edge-pico
DEMO_EPOCHS := 9

PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV   := .venv
PY     := $(VENV)/bin/python
# What training, export, report and demo need; what tests and lint need as well; what the benchmark needs as well.
READY  := $(VENV)/.ready
DEV_READY   := $(VENV)/.dev-ready
BENCH_READY := $(VENV)/.bench-ready
INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable
# A variable's value as one word of the shell, whatever it holds.
quote = '$(subst ','\'',$(1))'
# `make bench` takes a preset only if it is named: the default is for training.
NETWORK := $(if $(filter file,$(origin PRESET)),--bundle $(call quote,$(BUNDLE)),--preset $(call quote,$(PRESET)))
START  := $(if $(INIT),--init $(call quote,$(INIT))) $(if $(filter file,$(origin PRESET)),,--preset $(call quote,$(PRESET)))
DATA   := $(if $(DATA_DIR),--data-dir $(call quote,$(DATA_DIR)))

.DEFAULT_GOAL := help
.PHONY: help setup train calibrate sensitivity export report demo latency bench bench-train models bundle test test-unit test-slow test-images lint clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/ -/'

setup: $(DEV_READY)  ## install everything into .venv

$(READY): pyproject.toml constraints.txt
	"$(PYTHON)" -m venv $(VENV)
	$(INSTALL) '.[export,runtime,web]'
	touch $(READY)

$(DEV_READY): $(READY)
	$(INSTALL) '.[dev]'
	touch $(DEV_READY)

train: $(READY)  ## train PRESET on DATASET, from the weights of INIT if given, or go on with RUN
	$(PY) -m train $(START) --dataset $(call quote,$(DATASET)) $(DATA) --run $(call quote,$(RUN)) $(if $(EPOCHS),--epochs $(call quote,$(EPOCHS))) --resume

calibrate: $(READY)  ## measure activation ranges of RUN, chosen by OBSERVER
	$(PY) -m calibration --run $(call quote,$(RUN)) $(DATA) --observer $(call quote,$(OBSERVER))

sensitivity: $(READY)  ## rank RUN's products by what int8 costs; MAX_DROP_PP searches those to leave in float
	$(PY) -m export.sensitivity --run $(call quote,$(RUN)) $(DATA) $(if $(MAX_DROP_PP),--max-drop $(call quote,$(MAX_DROP_PP)))

export: $(READY) calibrate  ## make RUN int8 by SCHEME (QAT_EPOCHS, 0 for PTQ) and write its artifacts
	$(PY) -m export --run $(call quote,$(RUN)) $(DATA) --scheme $(call quote,$(SCHEME)) --qat-epochs $(call quote,$(QAT_EPOCHS))

report: $(READY)  ## compare float and int8 of RUN on its test split
	$(PY) -m runtime.compare --bundle $(call quote,$(RUN)/artifacts) --data $(call quote,$(RUN)/test.npz) --out $(call quote,$(RUN)/report) --max-drop $(call quote,$(MAX_DROP)) --engine $(call quote,$(ENGINE))

demo: $(READY)  ## the whole chain on the embedded shapes, and an annotated video
	$(MAKE) train PRESET=$(DEMO_PRESET) DATASET=shapes RUN=$(DEMO_RUN) EPOCHS=$(DEMO_EPOCHS)
	$(MAKE) export DATASET=shapes RUN=$(DEMO_RUN)
	$(MAKE) report RUN=$(DEMO_RUN) MAX_DROP=1
	$(PY) runtime/camera_demo.py --bundle $(DEMO_RUN)/artifacts --source sample --headless --output $(DEMO_RUN)/demo.mp4
	@echo "weights    $(DEMO_RUN)/float.safetensors"
	@echo "artifacts  $(DEMO_RUN)/artifacts/"
	@echo "report     $(DEMO_RUN)/report/report.html"
	@echo "video      $(DEMO_RUN)/demo.mp4"

latency: $(READY)  ## latency of float and int8 of BUNDLE on this machine, interleaved, one thread
	$(PY) -m runtime.benchmark --bundle $(call quote,$(BUNDLE)) --engine $(call quote,$(ENGINE))

bench: $(BENCH_READY)  ## BUNDLE, or a named PRESET, against other converters and runtimes
	$(PY) -m export.bench $(NETWORK) $(DATA)

$(BENCH_READY): $(READY)
	$(INSTALL) '.[bench]'
	touch $(BENCH_READY)

bench-train: $(READY)  ## speed of training steps against the Keras tutorial's construction, interleaved
	$(PY) -m train.benchmark

models: $(READY)  ## rebuild the artifacts of every shipped bundle from its weights
	$(PY) -m export.bundle --source models/*

bundle: $(READY)  ## one archive with what a device needs to run BUNDLE, in dist/
	$(PY) -m export.device_bundle --bundle $(call quote,$(BUNDLE))

test: $(DEV_READY)  ## the tests
	$(PY) -m pytest -m 'not slow' --numprocesses 2 --dist loadfile

test-unit: $(DEV_READY)  ## the tests that need no training framework, for the edit loop
	$(PY) -m pytest -p tests.support.without_tensorflow -m 'not slow' --numprocesses 2 --dist loadfile

test-slow: $(DEV_READY)  ## the tests that take longer, all or those of TESTS
	$(PY) -m pytest -m slow $(TESTS)

test-images: $(DEV_READY)  ## read every file of the folder IMAGES as training and as classify do; none may crash or differ
	$(PY) -m tests.support.image_suite $(call quote,$(IMAGES))

lint: $(DEV_READY)  ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:  ## remove the virtual environment and caches, not runs
	rm -rf $(VENV) *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
