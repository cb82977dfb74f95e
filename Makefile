# Two commands: `make demo` runs the main job, `make test` runs all that CI runs. Both make .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OLD_RUNTIME := .venv-tflite-runtime
DEMO_OUTPUT ?= demo-output
PACKAGES := protos edge_runtime coordinator firmware_tools

.PHONY: demo test test-newest install lock packages checks lint types floors generated site device-only collected unit sim test-slow mutants reached rp2040 deb man arm-user arm-vm hw-sim hw fuzz net-sim bad-line lab-sim hw-labgrid protos baseline clean help

help:
	@echo "make demo       pre-train, convert, and run six federated rounds on this machine"
	@echo "make test       everything that CI runs: lint, types, floors, generated code, device-only install, tests"
	@echo "make test-newest the same with the newest version of everything, instead of the locked ones"
	@echo "make site       the documentation as pages, into build/site"
	@echo "make lock       lock the newest versions for PYTHON, into packaging/locked/"
	@echo "make checks     everything that CI runs but the tests, two at a time"
	@echo "make unit       the tests alone"
	@echo "make sim        coordinator and devices on virtual time, with faults from seeds (SEEDS=500)"
	@echo "make test-slow  the tests that take longer than a minute each: long walks, a soak of a simulated bench"
	@echo "make mutants    which small changes of the code no test notices: N=100 of them, SEED=1 (ROOM=FOLDER, JSON=FILE)"
	@echo "make reached    which functions no test of a served coordinator or a real daemon reaches (TESTS=FOLDER, JSON=FILE)"
	@echo "make deb        the Debian package of a device, into dist/ (DEB_ARCH=arm64 or amd64)"
	@echo "make man        man pages of all commands, into dist/man/"
	@echo "make rp2040     run the bridge's firmware for the RP2040 in a simulator (fetches it from npm)"
	@echo "make arm-user   the device's programs for aarch64, emulated: a round, every kind of head (JSON=FILE for the table)"
	@echo "make arm-vm     the service on an emulated 512 MB Cortex-A53 machine (JSON=FILE likewise)"
	@echo "make hw-sim     the hardware tests on a simulated bench, with a table of what they measured"
	@echo "make fuzz       bytes at every decoder that faces the network or a file from elsewhere: MINUTES=10 (SEED=N, ENGINE=atheris)"
	@echo "make net-sim    a fleet with certificates over a network, on two hosts of this machine; needs root (JSON=FILE)"
	@echo "make bad-line   devices at the other end of a line that is slow, late and loses packets; needs root (JSON=FILE)"
	@echo "make lab-sim    a lab of eight hosts over SSH, from its inventory to results taken home; needs root (JSON=FILE)"
	@echo "make hw         the same on a real bench: make hw HW_ENV=bench.yaml"
	@echo "make hw-labgrid our environment files in labgrid, in an environment of its own"
	@echo "make protos     generate protos/v1 again after a change of the .proto file"
	@echo "make baseline   let later changes of the messages be compared with those of today"

# ---- installing

install: $(VENV)/.installed

# Tested versions of everything, a file for each Python. `make lock` writes it again, from what is newest that day. The
# variables reach the environments in which pip builds as well. Without LOCK, pip takes the newest of everything.
LOCK ?= packaging/locked/python$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null).txt
LOCKED = $(if $(LOCK),PIP_CONSTRAINT=$(LOCK) PIP_BUILD_CONSTRAINT=$(LOCK),PIP_UPGRADE=1 PIP_UPGRADE_STRATEGY=eager)
INSTALL = $(LOCKED) $(BIN)/python -m pip install --quiet --disable-pip-version-check

$(VENV)/.installed: pyproject.toml $(wildcard $(LOCK))
	@sh tests/checks/python_version.sh $(PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable '.[dev]'
	@touch $(VENV)/.installed-demo $@

# The demo needs no linters, no type checkers and no test tools.
$(VENV)/.installed-demo: pyproject.toml $(wildcard $(LOCK))
	@sh tests/checks/python_version.sh $(PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable '.[demo]'
	@touch $@

# pip of an environment outside the tree chooses; nothing is installed there but pip itself.
lock:
	@sh tests/checks/python_version.sh $(PYTHON)
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && $(PYTHON) -m venv "$$folder" && \
		"$$folder/bin/python" packaging/lock.py

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

demo: $(VENV)/.installed-demo
	$(BIN)/coordinator demo --output $(DEMO_OUTPUT) $(if $(AGAIN),--again)

# ---- what CI runs

test: checks unit

# Two at a time, the longest first; what each prints stays together.
checks: install
	+$(MAKE) --no-print-directory --jobs=2 $(if $(filter output-sync,$(.FEATURES)),--output-sync=target) \
		types device-only collected site lint floors generated

# What is coming: the same with the newest of everything, in an environment of its own; each part runs, whatever fails.
NEWEST := .venv-newest
test-newest:
	@rm -f $(NEWEST)/.installed
	$(MAKE) --keep-going test VENV=$(NEWEST) LOCK=

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

# The documentation as pages, into build/site. A link that leads nowhere is an error.
site: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

device-only: install
	$(LOCKED) $(BIN)/python tests/checks/device_only.py

# All tests found, and compiled once: else each worker of `unit` would compile all of them.
collected: install
	@$(BIN)/python -m pytest --collect-only --quiet -m "not slow and not arm" >$(VENV)/collected.txt || \
		{ cat $(VENV)/collected.txt; exit 1; }
	@tail -n 1 $(VENV)/collected.txt

# Many tests wait for real serial lines and processes: one worker more than there are cores. The files that take longest
# begin first (tests/file_order.py).
WORKERS ?= $(shell echo $$(($$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2) + 1)))
unit: install packages $(OLD_RUNTIME)/.tried
	EDGEJOULE_TFLITE_RUNTIME_PYTHON=$$(ls $(CURDIR)/$(OLD_RUNTIME)/bin/python 2>/dev/null) \
		$(BIN)/python -m pytest -m "not slow and not arm" -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# The coordinator and its devices on virtual time, with faults from a seed: make sim SEEDS=2000. A seed that fails says
# how to see why: make sim SEEDS=1 FIRST=n TRACE=1.
SEEDS ?= 500
FIRST ?= 0
sim: install
	$(BIN)/python tests/coordinator/simulation/run_seeds.py --seeds $(SEEDS) --first $(FIRST) $(if $(TRACE),--trace) \
		$(if $(JSON),--json $(JSON))

# Long walks of the state machines, and the soak on the simulated bench.
SLOW_SOAK_S ?= 300
test-slow: install packages
	$(BIN)/python -m pytest -m slow tests hw_tests --hw-sim --hw-soak-s $(SLOW_SOAK_S)

# Functions that no test of a served coordinator or a real daemon reaches. coverage stays outside the tree.
COVERAGE := $(HOME)/.cache/edgejoule/coverage-$(COVERAGE_VERSION)
COVERAGE_VERSION ?= 7.17.5
reached: install packages
	@test -d $(COVERAGE) || $(BIN)/python -m pip install --quiet --disable-pip-version-check --target $(COVERAGE) \
		coverage==$(COVERAGE_VERSION)
	PYTHONPATH=$(COVERAGE) nice -n 10 $(BIN)/python tests/reached/end_to_end.py $(if $(TESTS),--tests $(TESTS)) \
		$(if $(JSON),--json $(JSON))

# Changes of the code, drawn by a seed, that no test notices: tests/mutants/draw.py. What was interrupted goes on.
N ?= 100
SEED ?= 1
MUTANT_WORKERS ?= 2
mutants: install packages
	nice -n 10 $(BIN)/python tests/mutants/draw.py --number $(N) --seed $(SEED) --workers $(MUTANT_WORKERS) \
		$(if $(ROOM),--room $(ROOM)) --json $(or $(JSON),build/mutants-$(SEED).json) --resume

# The simulator stays outside the tree. Without node or npm the tests skip and say why.
RP2040JS := $(or $(EDGEJOULE_RP2040JS),$(HOME)/.cache/edgejoule/rp2040js)
rp2040: install
	@mkdir -p $(RP2040JS)
	@npm install --silent --no-save --prefix $(RP2040JS) rp2040js@1.4.1 || echo "no rp2040js: its tests will skip"
	EDGEJOULE_RP2040JS=$(RP2040JS) $(BIN)/python -m pytest -rs tests/firmware_tools/rp2040

# Emulated boards. What they need is fetched once, to ~/.cache/edgejoule/arm; where that cannot be, they skip and say why.
ARM_JSON := $(if $(JSON),--arm-json $(JSON))
ARM_TESTS = EDGEJOULE_ARM_FETCH=1 $(BIN)/python -m pytest -m arm $(ARM_JSON)
arm-user: install
	$(ARM_TESTS) tests/arm/test_arm_user.py tests/arm/test_arm_v7.py

arm-vm: install
	sh tests/checks/arm_packages.sh
	$(ARM_TESTS) tests/arm/test_arm_vm.py tests/arm/test_arm_package.py

# ---- packages: docs/service.md

DEB_ARCH ?= arm64
DEB_PACKAGE ?= device
deb: install
	$(BIN)/python packaging/build_deb.py --package $(DEB_PACKAGE) --arch $(DEB_ARCH)

# Made from the parsers; read one with `man -l dist/man/coordinator.1`.
man: install
	$(BIN)/python packaging/man_pages.py dist/man

# ---- benches: hw_tests/README.md

HW_SOAK_S ?= 20
HW_TESTS = $(BIN)/python -m pytest hw_tests -o junit_family=xunit1 --junitxml=hw_tests/artifacts/junit.xml

hw-sim: install packages
	$(HW_TESTS) --hw-sim --hw-soak-s $(HW_SOAK_S) $(HW_OPTIONS)

hw: install
	@test -n "$(HW_ENV)$(LG_ENV)" || { echo "make hw: no bench; give HW_ENV=bench.yaml, or take make hw-sim" >&2; exit 2; }
	$(HW_TESTS) $(HW_OPTIONS)

# Bytes at every decoder that faces the network, for so many minutes.
MINUTES ?= 10
ENGINE ?= hypothesis
# atheris follows coverage. It has wheels for Linux on x86-64, and stays outside the tree.
ATHERIS_VERSION ?= 3.0.0
ATHERIS := $(HOME)/.cache/edgejoule/atheris-$(ATHERIS_VERSION)
fuzz: install packages
	@test "$(ENGINE)" != atheris || test -d $(ATHERIS) || $(BIN)/python -m pip install --quiet \
		--disable-pip-version-check --only-binary :all: --target $(ATHERIS) atheris==$(ATHERIS_VERSION)
	$(if $(filter atheris,$(ENGINE)),PYTHONPATH=$(ATHERIS)) $(BIN)/python tests/checks/fuzz.py --engine $(ENGINE) \
		--minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

# Two hosts in network namespaces: certificates, enrolment, a round, a cable out, a slow line, revocation.
net-sim: install
	$(BIN)/python tests/network/net_sim.py $(if $(JSON),--json $(JSON))

# Four devices at the other end of a bad line, and a large report.
bad-line: install
	$(BIN)/python tests/network/bad_line_sim.py $(if $(JSON),--json $(JSON))

# Eight hosts in network namespaces with SSH: import, trust, check, reserve, deploy, a run, collect.
lab-sim: install
	$(BIN)/python tests/network/lab_sim.py $(if $(JSON),--json $(JSON))

# labgrid brings a pyserial of its own, which would take the place of ours.
LABGRID := .venv-labgrid
hw-labgrid: install packages
	@test -x $(LABGRID)/bin/labgrid-client || { $(PYTHON) -m venv $(LABGRID) && \
		$(LABGRID)/bin/python -m pip install --quiet --disable-pip-version-check labgrid==26.0.1; }
	EDGEJOULE_LABGRID_PYTHON=$(CURDIR)/$(LABGRID)/bin/python $(BIN)/python -m pytest -rs tests/hw_tests/test_hw_labgrid.py

# ---- for developers

protos: install
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. protos/v1/edgejoule.proto protos/v1/identity.proto

# Nothing that breaks the old baseline becomes the new one.
baseline: install
	$(BIN)/buf breaking --against protos/baseline.binpb
	$(BIN)/buf build -o protos/baseline.binpb

clean:
	rm -rf $(VENV) $(NEWEST) $(OLD_RUNTIME) $(LABGRID) hw_tests/artifacts build dist *.egg-info demo-output
