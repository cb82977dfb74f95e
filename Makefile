# Two commands: `make demo` runs the main job, `make test` runs all that CI runs. Both make .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OLD_RUNTIME := .venv-tflite-runtime
DEMO_OUTPUT ?= demo-output
PACKAGES := protos edge_runtime coordinator firmware_tools

.PHONY: demo test install packages lint types floors generated device-only unit test-slow rp2040 protos clean help

help:
	@echo "make demo       pre-train, convert, and run six federated rounds on this machine"
	@echo "make test       everything that CI runs: lint, types, floors, generated code, device-only install, tests"
	@echo "make unit       the tests alone"
	@echo "make test-slow  the tests that take longer than a minute each"
	@echo "make rp2040     run the bridge's firmware for the RP2040 in a simulator (fetches it from npm)"
	@echo "make protos     generate protos/v1 again after a change of the .proto file"

# ---- installing

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# The runtime of armv7 and old Coral images, which exported models must run on as well. There is none for Python 3.12
# and later; the tests that ask for it then skip.
$(OLD_RUNTIME)/.tried:
	@mkdir -p $(OLD_RUNTIME)
	@($(PYTHON) -m venv $(OLD_RUNTIME) && \
		$(OLD_RUNTIME)/bin/python -m pip install --quiet --disable-pip-version-check tflite-runtime==2.14.0 'numpy<2') || \
		(rm -rf $(OLD_RUNTIME)/bin; echo "no tflite-runtime for this Python: the tests that compare with it will skip")
	@touch $@

# What the tests take from Debian. It changes the machine, so only tests ask for it.
packages:
	sh tests/checks/debian_packages.sh

# ---- the main job

demo: install
	$(BIN)/coordinator demo --output $(DEMO_OUTPUT)

# ---- what CI runs

test: lint types floors generated device-only unit

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

floors: install
	$(BIN)/lint-imports

generated: install
	$(BIN)/buf lint
	$(BIN)/buf breaking --against protos/baseline.binpb
	$(BIN)/python tests/checks/generated_code.py

device-only: install
	$(BIN)/python tests/checks/device_only.py

unit: install packages $(OLD_RUNTIME)/.tried
	EDGEJOULE_TFLITE_RUNTIME_PYTHON=$$(ls $(CURDIR)/$(OLD_RUNTIME)/bin/python 2>/dev/null) \
		$(BIN)/python -m pytest -m "not slow"

test-slow: install packages
	$(BIN)/python -m pytest -m slow

# The simulator stays outside the tree. Without node or npm the tests skip and say why.
RP2040JS := $(or $(EDGEJOULE_RP2040JS),$(HOME)/.cache/edgejoule/rp2040js)
rp2040: install
	@mkdir -p $(RP2040JS)
	@npm install --silent --no-save --prefix $(RP2040JS) rp2040js@1.4.1 || echo "no rp2040js: its tests will skip"
	EDGEJOULE_RP2040JS=$(RP2040JS) $(BIN)/python -m pytest -rs tests/firmware_tools/rp2040

# ---- for developers

protos: install
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. protos/v1/edgejoule.proto

clean:
	rm -rf $(VENV) $(OLD_RUNTIME) build dist *.egg-info demo-output
